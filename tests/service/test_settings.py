"""Settings from flags, environment and file; and where the health check asks."""

from pathlib import Path

import pytest

from service.healthcheck import address_of
from service.settings import Settings, read_settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "HOST", "METRICS_PORT", "PORT"):
        monkeypatch.delenv(f"CELLAR_{name}", raising=False)


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
        (b"colour = 1", "--colour"),
        (b'port = "many"', "--port"),
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


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--host=", "name an address"),
        ("--metrics-port=70000", "65535"),
        ("--metrics-port=no", "integer"),
        ("--chunk-steps=4096", "max_batch"),
    ],
)
def test_a_bad_value_is_named(flag: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in complaint(capsys, flag)


@pytest.mark.parametrize("given", ["::", "[::]"])
def test_an_ipv6_address_may_stand_in_brackets(given: str) -> None:
    assert read_settings([f"--host={given}"]).host == "::"


@pytest.mark.parametrize(
    ("arguments", "environment", "address"),
    [
        ([], {}, "127.0.0.1:8001"),
        ([], {"CELLAR_PORT": "9"}, "127.0.0.1:9"),
        ([], {"CELLAR_HOST": "0.0.0.0"}, "127.0.0.1:8001"),
        ([], {"CELLAR_HOST": "[::]"}, "127.0.0.1:8001"),
        ([], {"CELLAR_HOST": "10.1.2.3", "CELLAR_PORT": "9"}, "10.1.2.3:9"),
        ([], {"CELLAR_HOST": "fe80::1"}, "[fe80::1]:8001"),
        (["there:7"], {"CELLAR_HOST": "10.1.2.3"}, "there:7"),
    ],
)
def test_the_health_check_asks_where_the_server_listens(
    arguments: list[str], environment: dict[str, str], address: str
) -> None:
    assert address_of(arguments, environment) == address


def test_the_health_check_takes_one_address() -> None:
    with pytest.raises(ValueError, match="usage"):
        address_of(["a:1", "b:2"], {})
