"""``cellar-serve --check`` says what a start would do, and does nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

import cellar
from tests.certificates import written
from tests.e2e.process import launch, running


@dataclass(frozen=True)
class Checked:
    """What a check said."""

    status: int
    told: str
    errors: str


def checked(*flags: str) -> Checked:
    process = launch("--check", *flags)
    told, errors = process.communicate(timeout=100)
    return Checked(process.returncode, told, errors)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, by what is in it; where LMDB's readers sign is no content."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock.mdb"]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_check_beside_a_server_finds_what_it_serves_and_changes_nothing(
    few_models: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with running(few_models, f"--store=lmdb:{store}") as server:
        with cellar.connect(server.address) as client:
            for name in "abc":
                client.session("letters", id=name).step("a")
        # Nor does it mind that port and store are taken.
        given = (f"--models={few_models}", f"--port={server.port}", f"--store=lmdb:{store}")
        beside = checked(*given, "--metrics-port=off")
        server.terminate()
        assert server.wait() == 0
    assert (beside.status, beside.errors) == (0, "")
    assert f"store: {store}: 3 sessions\n" in beside.told
    assert f"models = {few_models}  (--models)" in beside.told
    assert "metrics_port = off  (--metrics-port)" in beside.told
    assert beside.told.endswith("nothing is wrong\n")
    before = contents(store)
    few = ("--max-sessions=2", "--max-open-sessions=2")
    short = checked(f"--models={few_models}", f"--store=lmdb:{store}", *few)
    assert contents(store) == before
    assert (short.status, short.errors) == (1, "")
    assert "fault: letters/1: the store has 3 sessions of it, and there is room for 2" in short.told


def test_a_check_finds_what_would_not_be_served(few_models: Path, tmp_path: Path) -> None:
    shutil.copytree(few_models / "letters", tmp_path / "models" / "letters")
    (tmp_path / "models" / "letters" / "2").mkdir()
    (tmp_path / "store").write_text("no folder")
    found = checked(
        f"--models={tmp_path / 'models'}", f"--store=lmdb:{tmp_path / 'store'}", "--device=cpu"
    )
    assert (found.status, found.errors) == (1, "")
    rows = [line.split()[:3] for line in found.told.splitlines() if line.startswith("letters ")]
    assert rows == [["letters", "1", "yes"], ["letters", "2", "no"]]
    for fault in (
        f"fault: store: {tmp_path / 'store'} is no folder",
        "fault: letters/2: it cannot be served",
        "fault: letters/2 is the version of who names none",
    ):
        assert fault in found.told


@pytest.mark.long
def test_a_check_finds_what_a_store_has_lost(few_models: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with running(few_models, f"--store=lmdb:{store}") as server:
        with cellar.connect(server.address) as client:
            client.session("letters", id="a").step("a")
        server.kill()
    (segment,) = (store / "journal").iterdir()
    whole = segment.read_bytes()
    opening = whole.index(b'"letters"')
    segment.write_bytes(whole[:opening] + b"\xff" * 9 + whole[opening + 9 :])
    before = contents(store)
    damaged = checked(f"--models={few_models}", f"--store=lmdb:{store}")
    assert contents(store) == before
    assert (damaged.status, damaged.errors) == (1, "")
    assert "fault: store: 1 group of its journal and 0 sessions are damaged" in damaged.told
    segment.write_bytes(whole)
    (store / "format").unlink()
    torn = checked(f"--models={few_models}", f"--store=lmdb:{store}")
    assert torn.status == 1
    assert f"fault: store: {store} holds a store without its file 'format'" in torn.told


def test_a_check_does_not_mind_a_reader_that_has_read_enough(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = launch("--check", f"--models={tmp_path}", stdout=writer)
    os.close(writer)
    _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (1, "")


def test_a_check_finds_no_models_and_no_settings(tmp_path: Path) -> None:
    none = checked(f"--models={tmp_path}", f"--store=lmdb:{tmp_path / 'nowhere' / 'store'}")
    assert none.status == 1
    assert f"fault: no model in {tmp_path}" in none.told
    assert f"there is no {tmp_path / 'nowhere'}; make it" in none.told
    assert list(tmp_path.iterdir()) == []
    wrong = checked("--max-session=1")
    assert (wrong.status, wrong.told) == (2, "")
    assert "did you mean --max-sessions?" in wrong.errors


def test_a_check_says_what_tls_would_be_served_with(few_models: Path, tmp_path: Path) -> None:
    made = written(tmp_path, trustme.CA(), "a.example", "10.0.0.1", days=40)
    others = written(tmp_path / "others", trustme.CA(), days=-1, begins=-9)
    flags = (f"--models={few_models}", f"--tls-cert={made.cert}", f"--tls-key={made.key}")
    made.key.chmod(0o644)
    well = checked(*flags, f"--tls-client-ca={made.ca}")
    assert "note: tls: everybody on this machine may read" in well.told
    assert (well.status, well.errors) == (0, "")
    assert "tls: a certificate for a.example, 10.0.0.1, valid until 20" in well.told
    assert f"tls: clients show certificates of {made.ca}, valid until " in well.told
    expired = checked(*flags, f"--tls-cert={others.cert}", f"--tls-key={others.key}")
    assert expired.status == 1
    assert "fault: tls: --tls-cert: " in expired.told
    assert "cannot be served with: it expired at 20" in expired.told
