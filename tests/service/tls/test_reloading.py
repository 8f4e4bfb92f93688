"""Files that change: taken when they fit together, and left alone until they do."""

import time
from pathlib import Path

import pytest
import structlog
import trustme

from service.tls.files import TlsFiles, TlsMaterial
from service.tls.reloading import Certificates
from tests.certificates import Files, written


class Kept:
    """Certificates of a folder, what they showed, and what the log says meanwhile."""

    def __init__(self, made: Files, client_ca: Path | None = None) -> None:
        self.shown: list[TlsMaterial] = []
        files = TlsFiles(cert=made.cert, key=made.key, client_ca=client_ca)
        self.certificates = Certificates(files, show=self.shown.append)

    def look(self, times: int = 1) -> list[str]:
        with structlog.testing.capture_logs() as logs:
            for _ in range(times):
                self.certificates.look()
        return [entry["event"] for entry in logs]

    @property
    def names(self) -> tuple[str, ...]:
        return self.certificates.current.certificate.names


READ_AGAIN, LEFT = "certificates are read again", "certificates are left as they were"


def test_what_does_not_change_is_not_read(tmp_path: Path) -> None:
    made = written(tmp_path, trustme.CA(), "a.example")
    kept = Kept(made)
    before = kept.certificates.current
    assert kept.look(3) == []
    made.cert.touch()
    assert kept.look(3) == []
    assert kept.certificates.current is before
    assert len(kept.shown) == 1


def test_a_pair_written_in_place_is_taken_when_both_are_there(tmp_path: Path) -> None:
    authority = trustme.CA()
    made = written(tmp_path, authority, "a.example")
    new = written(tmp_path / "new", authority, "b.example")
    kept = Kept(made)
    cert, key = new.cert.read_bytes(), new.key.read_bytes()
    made.cert.write_bytes(cert[:300])
    assert kept.look(3) == [LEFT]
    made.cert.write_bytes(cert)
    assert kept.look(3) == [LEFT], "another reason: the key is not its"
    assert kept.names == ("a.example",)
    made.key.write_bytes(key[:100])
    assert kept.look(3) == [LEFT]
    made.key.write_bytes(key)
    assert kept.look(3) == [READ_AGAIN]
    assert kept.names == ("b.example",)
    assert len(kept.shown) == 2
    made.key.unlink()
    assert kept.look(3) == [LEFT]
    assert kept.names == ("b.example",)
    made.key.touch(0o600)
    made.key.write_bytes(key)
    assert kept.look(3) == [], "it is what it was"


def test_kubernetes_swaps_a_link_to_a_folder(tmp_path: Path) -> None:
    authority = trustme.CA()
    first = written(tmp_path / "..1", authority, "a.example")
    written(tmp_path / "..2", authority, "b.example")
    data = tmp_path / "..data"
    data.symlink_to("..1")
    for name in ("tls.crt", "tls.key", "ca.pem"):
        (tmp_path / name).symlink_to(Path("..data") / name)
    made = Files(*(tmp_path / path.name for path in (first.ca, first.cert, first.key)))
    kept = Kept(made, client_ca=made.ca)
    assert kept.look() == []
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(data)
    assert kept.look() == [READ_AGAIN]
    assert kept.names == ("b.example",)


def test_another_authority_of_clients_is_a_change(tmp_path: Path) -> None:
    made = written(tmp_path, trustme.CA())
    kept = Kept(made, client_ca=made.ca)
    both = made.ca.read_bytes() + trustme.CA().cert_pem.bytes()
    fresh = tmp_path / "fresh"
    fresh.write_bytes(both)
    fresh.rename(made.ca)
    assert kept.look() == [READ_AGAIN]
    assert kept.certificates.current.client_ca == both


def test_an_expired_one_does_not_take_the_place_of_a_valid_one(tmp_path: Path) -> None:
    authority = trustme.CA()
    made = written(tmp_path, authority, "a.example")
    kept = Kept(made)
    written(tmp_path, authority, "old.example", days=-1, begins=-9)
    assert kept.look(3) == [LEFT]
    assert kept.names == ("a.example",)


@pytest.mark.parametrize(("days", "warned"), [(13, True), (15, False)])
def test_the_log_warns_two_weeks_before_the_end_once_a_day(
    tmp_path: Path, days: int, warned: bool
) -> None:
    made = written(tmp_path, trustme.CA(), days=days)
    with structlog.testing.capture_logs() as logs:
        kept = Kept(made)
    events = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
    assert events == ["the certificate ends soon"] * warned
    assert kept.look(5) == []


def test_files_are_looked_at_once_a_second(tmp_path: Path) -> None:
    authority = trustme.CA()
    kept = Kept(written(tmp_path, authority, "a.example"))
    kept.certificates.start()
    try:
        written(tmp_path, authority, "b.example")
        ends = time.monotonic() + 10
        while kept.names != ("b.example",) and time.monotonic() < ends:
            time.sleep(0.02)
        assert kept.names == ("b.example",)
    finally:
        kept.certificates.stop()
