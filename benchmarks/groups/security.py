"""CPU per message and per step of TLS and tokens, beside the same server without."""

from dataclasses import asdict
from datetime import UTC, datetime

import trustme

from benchmarks.bench import Bench, Findings, Group
from benchmarks.load.wire import Papers
from benchmarks.networks import model_name
from benchmarks.processes import CellarServer, LoadProcess
from benchmarks.rounds import Loaded, Series, alternate, cpu, ratio, rotated
from service.auth import tokens
from service.auth.file import PrincipalRecord, TokenFile, TokenRecord, write
from service.auth.principal import Role

SIZE = "2x128"
CALLERS, STREAMS, FRAMES, ROWS = 64, 256, 2, 256
PLAIN = "plain"
LEVELS = ("tokens", "tls", "tls_tokens", "mutual_tls_tokens")
CASES = ("unary", "streams", "frames")


def measure(bench: Bench, findings: Findings) -> None:
    for case in CASES:
        load, contestants = bench.load(), {}
        for level in (PLAIN, *LEVELS):
            server, papers = _server(bench, f"security-{case}-{level}", level)
            contestant = contestants[level] = _contestant(bench, case, server, load, papers)
            contestant.series.contestant = f"Cellar, {level.replace('_', ' ')}"
        findings.series += alternate(list(contestants.values()), bench.pace, rotated)
        plain = contestants[PLAIN].series
        for level in LEVELS:
            found = ratio(contestants[level].series, plain, cpu)
            findings.figures[f"security_{level}_{case}_cpu_ratio"] = found
        bench.end_processes()


def _contestant(
    bench: Bench, case: str, server: CellarServer, load: LoadProcess, papers: Papers
) -> Loaded:
    shown = {name: value for name, value in asdict(papers).items() if value}
    if case == "unary":
        series = Series(case=f"{CALLERS} at once", contestant="", model=SIZE)
        more = {"model": model_name(SIZE), "sessions": CALLERS}
        return bench.case("steps", series, server, load, **more, **shown)
    streams, rows = (STREAMS, 1) if case == "streams" else (FRAMES, ROWS)
    return bench.frames(server, load, SIZE, streams=streams, rows=rows, **shown)


def _server(bench: Bench, name: str, level: str) -> tuple[CellarServer, Papers]:
    """A server that asks for so much, and what it is shown."""
    place, flags, papers = bench.place(name), list[str](), dict[str, str]()
    if "tls" in level:
        authority = trustme.CA()
        files = {each: str(place / f"{each}.pem") for each in ("ca", "cert", "key")}
        issued = authority.issue_cert("127.0.0.1")  # for the server, and for its callers
        authority.cert_pem.write_to_path(files["ca"])
        issued.cert_chain_pems[0].write_to_path(files["cert"])
        issued.private_key_pem.write_to_path(files["key"])
        flags += [f"--tls-cert={files['cert']}", f"--tls-key={files['key']}"]
        papers["authority"] = files["ca"]
        if "mutual" in level:
            flags.append(f"--tls-client-ca={files['ca']}")
            papers |= {"certificate": files["cert"], "key": files["key"]}
    if "tokens" in level:
        token = tokens.make("bench")
        record = TokenRecord(
            id=token.id, sha256=tokens.digest(token.secret).hex(), created=datetime.now(UTC)
        )
        named = {"bench": PrincipalRecord(roles=(Role.STEP,), tokens=(record,))}
        write(place / "tokens.json", TokenFile(principals=named))
        flags.append(f"--tokens={place / 'tokens.json'}")
        papers["token"] = str(token)
    return bench.cellar(SIZE, *flags), Papers(**papers)


GROUP = Group(
    name="security",
    keys=tuple(f"security_{level}_{case}_cpu_ratio" for case in CASES for level in LEVELS),
    measure=measure,
)
