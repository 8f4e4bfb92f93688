"""Settings from flags, environment and file; and where the health check asks."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellar.connection.connection import DEFAULT_SERVER
from cellar.connection.variables import default_server
from service.healthcheck import address_of
from service.settings import Durability, Settings, read, read_settings
from service.settings.exposure import exposures
from service.settings.flags import groups
from service.settings.sources import OF_OTHERS, SettingsError
from service.settings.values import seconds, size
from tests.documents import ROOT


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CELLAR_")]:
        monkeypatch.delenv(name)


def problems(*arguments: str, **variables: str) -> list[str]:
    """What is wrong with a command line, and variables without their prefix."""
    environment = {f"CELLAR_{name}": value for name, value in variables.items()}
    with pytest.raises(SettingsError) as caught:
        read(arguments, environment)
    return caught.value.problems


def of_variables(**variables: str) -> Settings:
    return read([], {f"CELLAR_{name}": value for name, value in variables.items()}).settings


def written(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return f"--config={path}"


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        read_settings(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_flags_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(
        tmp_path / "cellar.toml", "port = 1\nmax_batch = 64\nmax_paths = 7\ndefault_paths = 7\n"
    )
    monkeypatch.setenv("CELLAR_PORT", "2")
    monkeypatch.setenv("CELLAR_MAX_BATCH", "32")
    settings = read_settings([file, "--port=3"])
    assert (settings.port, settings.max_batch, settings.max_paths) == (3, 32, 7)


def test_metrics_can_be_turned_off_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = written(tmp_path / "on.toml", "metrics_port = 9191")
    off = written(tmp_path / "off.toml", 'metrics_port = "off"')
    assert read_settings([]).metrics_port == 9090
    assert read_settings([on]).metrics_port == 9191
    assert read_settings([off]).metrics_port is None
    assert read_settings([on, "--metrics-port=off"]).metrics_port is None
    assert Settings(metrics_port=None).metrics_port is None
    monkeypatch.setenv("CELLAR_METRICS_PORT", "off")
    assert read_settings([on]).metrics_port is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff\xfe", "is not UTF-8 text"),
        (b'log_level = "caf\xe9"', "is not UTF-8 text"),
        (b"port = ", "is not TOML"),
        (b"colour = 1", "bad.toml, line 1: colour: there is no such setting"),
        (b'\nport = "many"', "bad.toml, line 2: port: a whole number is wanted, not 'many'"),
        (
            b"max-session = 10",
            "bad.toml, line 1: max-session: there is no such setting; did you mean max_sessions?",
        ),
        (b"port = 1\n[server]\nhost = 'a'", "line 2: server: settings stand at the top"),
        (b"max-batch = 64\nmax_batch = 32", "line 1: max-batch again: keep one"),
        (b"port = true", "a number is wanted, not true"),
        (b"config = 'x'", "a file cannot name another one"),
        (b"port = " + b"[" * 30_000 + b"]" * 30_000, "it is nested too deeply"),
        (b'"\\u001b[2J\\n" = 1', r"\x1b[2J\n: there is no such setting"),
    ],
)
def test_a_bad_file_is_named(
    text: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = complaint(capsys, written(tmp_path / "bad.toml", text))
    assert words in error
    assert error.count("\n") == 1


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "/nowhere.toml is not a file" in complaint(capsys, "--config=/nowhere.toml")
    assert "cannot be read: File name too long" in complaint(capsys, f"--config=/{'x' * 5000}")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--host=", "name an address"),
        ("--host=unix:", "name the file of the socket"),
        ("--keepalive-s=0", "--keepalive-s: "),
        ("--metrics-port=70000", "65535"),
        ("--metrics-port=no1", "--metrics-port: a whole number is wanted, not 'no1'"),
        ("--metrics-host=unix:", "name the file of the socket"),
        ("--metrics-host=[]", "name an address"),
        ("--chunk-steps=4096", "max_batch"),
    ],
)
def test_a_bad_value_is_named(flag: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in complaint(capsys, flag)


@pytest.mark.parametrize("host", ["::", "[::]"])
def test_an_ipv6_address_may_stand_in_brackets(host: str) -> None:
    assert read_settings([f"--host={host}"]).host == "::"


# ---- names ----


def test_keys_of_a_file_may_be_written_as_flags_are(tmp_path: Path) -> None:
    file = written(tmp_path / "kebab.toml", 'max-sessions = 10\nlog-level = "debug"\n')
    settings = read([file], {}).settings
    assert (settings.max_sessions, settings.log_level) == (10, "debug")


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = written(tmp_path / "bom.toml", b"\xef\xbb\xbfport = 7\r\n")
    assert read([file], {}).settings.port == 7


@pytest.mark.parametrize(
    ("name", "meant"),
    [("MAX_SESSION", "MAX_SESSIONS"), ("LOGLEVEL", "LOG_LEVEL"), ("METRIC_PORT", "METRICS_PORT")],
)
def test_a_misspelt_variable_is_refused_with_its_nearest(name: str, meant: str) -> None:
    (problem,) = problems(**{name: "1"})
    assert problem == f"CELLAR_{name}: there is no such setting; did you mean CELLAR_{meant}?"


def test_variables_of_others_are_let_be() -> None:
    others = dict.fromkeys(OF_OTHERS, "anything")
    links = {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "8001",
        "SERVICE_PORT_GRPC": "8001",
        "PORT_8001_TCP": "tcp://10.0.0.1:8001",
        "PORT_8001_TCP_ADDR": "10.0.0.1",
        "WEB_PORT": "tcp://10.0.0.2:80",
        "WEB_SERVICE_HOST": "10.0.0.2",
    }
    assert of_variables(**others, **links) == Settings()


def test_no_setting_is_taken_for_a_misspelt_variable_of_the_client() -> None:
    settings = {f"CELLAR_{name.upper()}": "1" for name in [*Settings.model_fields, *OF_OTHERS]}
    assert default_server(settings | {"CELLAR_SERVER": " "}) == DEFAULT_SERVER
    assert default_server(settings | {"CELLAR_SERVER": "there:7"}) == "there:7"


def test_every_variable_that_the_code_names_is_known() -> None:
    paths = [ROOT / "Makefile", ROOT / "Dockerfile"]
    for folder in ("benchmarks", "cellar", "deploy", "examples", "service", "training"):
        paths += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    named = set[str]()
    for path in paths:
        if path.suffix in ("", ".py", ".sh", ".yaml", ".yml"):
            named |= set(re.findall(r"\bCELLAR_([A-Z][A-Z_]*[A-Z])\b", path.read_text("utf-8")))
    settings = {name.upper() for name in Settings.model_fields}
    assert sorted(named - settings - OF_OTHERS) == []
    assert {"DATA", "PORT", "SERVER"} <= named, "it has looked"


def test_the_address_of_a_kubernetes_service_is_no_port() -> None:
    (problem,) = problems(PORT="tcp://10.0.0.1:8001")
    assert "CELLAR_PORT" in problem
    assert "enableServiceLinks: false" in problem
    environment = {"CELLAR_PORT": "tcp://10.0.0.1:8001"}
    assert read(["--port=7"], environment).settings.port == 7, "a flag has said so already"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-session", "10"], "--max-session: there is no such flag; did you mean --max-s"),
        (["--prot=1"], "--prot: there is no such flag; did you mean --port?"),
        (["-port", "1"], "did you mean --port?"),
        (["--no-metrics-port"], "did you mean --metrics-port off?"),
        (["model-repository"], "'model-repository': a flag is wanted here"),
        (["--port"], "--port: expected one argument"),
        (["--strict", "often"], "--strict: on or off is wanted, not 'often'"),
        (["--port=abc"], "--port: a whole number is wanted, not 'abc'"),
        (["--shards=0"], "--shards: at least 1 or 'auto' is wanted, not '0'"),
        (["--precision=int4"], "--precision: 'fp32' or 'int8' is wanted, not 'int4'"),
        (["--idle-timeout-s=0"], "--idle-timeout-s: more than 0.0 is wanted, not '0'"),
        (["--idle-timeout-s=inf"], "--idle-timeout-s: a number is wanted, not 'inf'"),
        (["--state-memory=4Q"], "--state-memory: say a size such as 4Gi"),
        (["--recovery-s=soon"], "--recovery-s: say a time such as 90s"),
    ],
)
def test_a_flag_that_cannot_be_meant_is_refused(arguments: list[str], words: str) -> None:
    (problem,) = problems(*arguments)
    assert words in problem


def test_all_faults_are_told_at_once() -> None:
    found = problems("--prot=1", "stray", "--max-session=1", MAX_BACH="1")
    assert [each.partition(":")[0] for each in found] == [
        "--prot",
        "'stray'",
        "--max-session",
        "CELLAR_MAX_BACH",
    ]


def test_a_wrong_value_is_named_by_where_it_stands(tmp_path: Path) -> None:
    file = written(tmp_path / "cellar.toml", "port = 70000")
    assert problems(PORT="x") == ["CELLAR_PORT: a whole number is wanted, not 'x'"]
    assert problems(file)[0].startswith(f"{tmp_path}/cellar.toml, line 1: port: at most 65535")
    (both,) = problems("--chunk-steps=64", MAX_BATCH="32")
    assert both.startswith("CELLAR_MAX_BATCH, --chunk-steps: chunk_steps must not exceed")


# ---- values ----


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4Gi", 4 * 2**30),
        ("4GiB", 4 * 2**30),
        ("4 gib", 4 * 2**30),
        ("4G", 4 * 10**9),
        ("4GB", 4 * 10**9),
        ("512m", 512 * 10**6),
        ("1.5KiB", 1536),
        ("65_536", 65536),
        ("1Ti", 2**40),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert of_variables(STATE_MEMORY=text).state_memory == count


@pytest.mark.parametrize("text", ["", "G", "4 apples", "-1", "4GiBi", "1e3", "4,5G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="say a size"):
        size(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("1h", 3600),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1\N{MICRO SIGN}s", 1e-6),
        ("1\N{GREEK SMALL LETTER MU}s", 1e-6),
        ("1.5", 1.5),
        ("2d", 172_800),
        ("1H", 3600),
    ],
)
def test_times(text: str, wanted: float) -> None:
    assert of_variables(IDLE_TIMEOUT_S=text).idle_timeout_s == wanted


@given(st.text(max_size=12) | st.from_regex(r"(?i)\A\d{1,3} *(ms|us|[smhd])\Z"))
def test_whatever_is_written_is_a_size_and_a_time_or_refused(text: str) -> None:
    for reader in (size, seconds):
        with suppress(ValueError):
            assert isinstance(reader(text), int | float)


def test_words_may_be_in_any_case() -> None:
    settings = of_variables(
        LOG_LEVEL="WARN",
        LOG_FORMAT="JSON",
        PRECISION="Int8",
        SHARDS="AUTO",
        DEVICE="CPU",
        STRICT="Yes",
        REFLECTION="OFF",
    )
    assert (settings.log_level, settings.log_format, settings.precision) == (
        "warning",
        "json",
        "int8",
    )
    assert (settings.shards, settings.device) == ("auto", "cpu")
    assert settings.strict
    assert not settings.reflection
    durable = of_variables(STORE="lmdb:/nowhere", DURABILITY="INTERVAL")
    assert durable.durability is Durability.INTERVAL


@pytest.mark.parametrize("word", ["off", "none", "OFF", "null", "no"])
def test_words_for_nothing(word: str) -> None:
    settings = of_variables(
        METRICS_PORT=word, STATE_MEMORY=word, STORE=word, ERASE_S=word, DRAIN_DELAY_S=word
    )
    assert settings.metrics_port is None
    assert settings.state_memory is None
    assert settings.store == "memory"
    assert settings.erase_s == settings.drain_delay_s == 0


def test_an_empty_variable_says_nothing() -> None:
    assert of_variables(PORT="", STORE=" ", CONFIG="", MAX_SESSION="") == Settings()


def test_switches_are_written_in_several_ways() -> None:
    for arguments in (["--strict"], ["--strict=on"], ["--strict", "true"]):
        assert read(arguments, {}).settings.strict
    for arguments in (["--no-strict"], ["--strict=off"], ["--strict", "--no-strict"]):
        assert not read(arguments, {}).settings.strict


# ---- what does not go together ----


def test_of_a_flag_that_is_given_twice_the_last_one_holds_and_that_is_said() -> None:
    reading = read(["--port=1", "--host=::", "--port=2", "--host=::"], {})
    assert reading.settings.port == 2
    assert reading.warnings == ["--port is given more than once: the last one holds"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--durability=commit"], "--durability: nothing is durable without a store"),
        (["--tls-cert=a"], "--tls-cert: TLS needs --tls-key too"),
        (["--tls-key=a"], "--tls-key: TLS needs --tls-cert too"),
        (["--tls-client-ca=a"], "--tls-client-ca: TLS needs --tls-cert and --tls-key too"),
        (
            ["--tls-client-ca=a", "--tls-key=b"],
            "--tls-key, --tls-client-ca: TLS needs --tls-cert too",
        ),
        (["--port=9", "--metrics-port=9"], "--port, --metrics-port: port and metrics_port are"),
        (["--idle-timeout-s=30d"], "--idle-timeout-s: idle_timeout_s must not exceed max_idle"),
    ],
)
def test_what_contradicts_itself_is_refused(arguments: list[str], words: str) -> None:
    (problem,) = problems(*arguments)
    assert words in problem


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--journal-bytes=2GiB"], "--journal-bytes has no effect without --store"),
        (["--strict-replay"], "--strict-replay has no effect without --store"),
        (["--device=cpu", "--tf32"], "--tf32 has no effect on the CPU"),
        (["--state-memory=1G", "--max-sessions=5"], "--max-sessions has no effect beside"),
    ],
)
def test_what_has_no_effect_is_said(arguments: list[str], words: str) -> None:
    (warning,) = read(arguments, {}).warnings
    assert words in warning


def test_what_differs_from_the_defaults_is_told_with_where_it_stands(tmp_path: Path) -> None:
    file = written(tmp_path / "cellar.toml", "max-batch = 64\nport = 8001")
    told = read([file, "--strict"], {"CELLAR_STATE_MEMORY": "1KiB"}).told()
    assert told.pop("flags") == {"config": f"{tmp_path}/cellar.toml", "strict": True}
    assert told == {"environment": {"state_memory": 1024}, "file": {"max_batch": 64}}


# ---- help ----


def helped(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        read(["--help"], {})
    assert not caught.value.code
    return capsys.readouterr().out


def test_the_help_fits_a_terminal_and_begins_with_what_people_need(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = helped(capsys)
    assert max(map(len, text.splitlines())) <= 80
    places: list[Any] = [text.find(f"  --{name} ") for name in ("models", "host", "port", "store")]
    assert -1 not in places
    assert places == sorted(places)
    assert places[-1] < text.index("\nLimits:") < text.index("--max-batch")
    for names in dict(groups()).values():
        for name in names:
            assert f"  --{name.replace('_', '-')} " in text
    assert " ".join(text.split()).count("(default: ") == len(Settings.model_fields)


def test_every_setting_is_in_one_group() -> None:
    named = [name for _, names in groups() for name in names]
    assert sorted(named) == sorted(Settings.model_fields)


# ---- the health check ----


@pytest.mark.parametrize(
    ("arguments", "environment", "address"),
    [
        ([], {}, "127.0.0.1:8001"),
        ([], {"CELLAR_PORT": "9"}, "127.0.0.1:9"),
        ([], {"CELLAR_PORT": "", "CELLAR_HOST": ""}, "127.0.0.1:8001"),
        ([], {"CELLAR_HOST": "0.0.0.0"}, "127.0.0.1:8001"),
        ([], {"CELLAR_HOST": "[::]"}, "127.0.0.1:8001"),
        ([], {"CELLAR_HOST": "10.1.2.3", "CELLAR_PORT": "9"}, "10.1.2.3:9"),
        ([], {"CELLAR_HOST": "fe80::1"}, "[fe80::1]:8001"),
        (["there:7"], {"CELLAR_HOST": "10.1.2.3"}, "there:7"),
        (["unix:/run/s"], {"CELLAR_HOST": "10.1.2.3"}, "unix:/run/s"),
        ([], {"CELLAR_HOST": "unix:/run/s", "CELLAR_PORT": "9"}, "unix:/run/s"),
        ([], {"CELLAR_TLS_CERT": "c", "CELLAR_PORT": "9"}, "https://127.0.0.1:9090"),
        (
            [],
            {"CELLAR_TLS_CERT": "c", "CELLAR_HOST": "::", "CELLAR_METRICS_PORT": "7"},
            "https://127.0.0.1:7",
        ),
        ([], {"CELLAR_TLS_CERT": "c", "CELLAR_HOST": "unix:/run/s"}, "https://127.0.0.1:9090"),
        (
            [],
            {"CELLAR_TLS_CERT": "c", "CELLAR_METRICS_HOST": "unix:/run/h"},
            "https://unix:/run/h",
        ),
        (["there:7"], {"CELLAR_TLS_CERT": "c"}, "there:7"),
    ],
)
def test_the_health_check_asks_where_the_server_listens(
    arguments: list[str], environment: dict[str, str], address: str
) -> None:
    assert address_of(arguments, environment) == address


def test_the_health_check_takes_one_address() -> None:
    with pytest.raises(ValueError, match="usage"):
        address_of(["a:1", "b:2"], {})
    with pytest.raises(ValueError, match="let CELLAR_METRICS_PORT name one"):
        address_of([], {"CELLAR_TLS_CERT": "c", "CELLAR_METRICS_PORT": "Off"})


# ---- who may reach it ----


@pytest.mark.parametrize(
    "flags",
    [
        ["--host=127.0.0.1"],
        ["--host=127.8.9.1"],
        ["--host=::1"],
        ["--host=[::1]"],
        ["--host=localhost"],
        ["--host=unix:/run/cellar.sock"],
        ["--metrics-host=0.0.0.0", "--metrics-port=off"],
    ],
)
def test_what_only_this_machine_reaches_is_not_exposed(flags: list[str]) -> None:
    assert not list(exposures(read([*flags, "--require-auth"], {}).settings))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--host=0.0.0.0"],
            "0.0.0.0 can be reached from other machines, and whoever does may use",
        ),
        (["--host=::"], ":: can be reached"),
        (["--host=10.0.0.1"], "10.0.0.1 can be reached"),
        (["--host=cellar.example"], "cellar.example can be reached"),
        (["--metrics-host=0.0.0.0"], "may read the metrics: name a file of tokens with --tokens"),
        (["--host=unix:/run/x", "--metrics-host=::"], ":: can be reached"),
        (["--host=0.0.0.0", "--tokens=t.json"], "tokens are sent as plain text"),
    ],
)
def test_what_others_reach_is_said_or_refused(flags: list[str], words: str) -> None:
    (said,) = exposures(read(flags, {}).settings)
    assert words in said
    (refused,) = problems(*flags, "--require-auth")
    assert refused == f"--require-auth: {said}"
