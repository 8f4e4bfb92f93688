"""Files that are missing, torn, another's, too old: each is named, with what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from service.tls.files import TlsError, TlsFiles, read
from service.tls.reloading import Certificates
from tests.certificates import Files, written


def files_of(made: Files, *, client_ca: Path | None = None) -> TlsFiles:
    return TlsFiles(cert=made.cert, key=made.key, client_ca=client_ca)


def test_what_fits_together_is_read(tmp_path: Path) -> None:
    made = written(tmp_path, trustme.CA(), "a.example")
    found = read(files_of(made, client_ca=made.ca))
    assert found.certificate.names == ("a.example",)
    assert found.fault is None
    assert not found.key_is_open
    assert found.client_ca == made.ca.read_bytes()
    assert found.client_ca_ends is not None
    assert "PRIVATE" not in repr(found)
    made.key.chmod(0o644)
    assert read(files_of(made)).key_is_open


def _encrypt(made: Files) -> None:
    key = serialization.load_pem_private_key(made.key.read_bytes(), None)
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


def _other_kind(made: Files) -> None:
    issued = trustme.CA().issue_cert("a.example", key_type=trustme.KeyType.RSA)
    made.key.write_bytes(issued.private_key_pem.bytes())


def _swap(made: Files) -> None:
    cert, key = made.cert.read_bytes(), made.key.read_bytes()
    made.cert.write_bytes(key)
    made.key.write_bytes(cert)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda made: made.cert.unlink(), r"--tls-cert: .*tls\.crt cannot be read: No such file"),
        (lambda made: made.key.unlink(), r"--tls-key: .*tls\.key cannot be read: No such file"),
        (lambda made: made.ca.unlink(), r"--tls-client-ca: .*ca\.pem cannot be read"),
        (lambda made: made.cert.write_bytes(b"\x30\x82"), "--tls-cert: .* has no certificate"),
        (lambda made: made.key.write_bytes(b""), "--tls-key: .* has no private key"),
        (lambda made: made.ca.write_text("nobody"), "--tls-client-ca: .* has no certificate"),
        (lambda made: made.cert.write_bytes(bytes(1 << 21)), "--tls-cert: .* is too large"),
        (
            lambda made: made.cert.write_bytes(made.cert.read_bytes()[:200]),
            "--tls-cert: .* has no certificate",
        ),
        (
            lambda made: made.key.write_bytes(made.key.read_bytes().replace(b"\nM", b"\n")),
            "--tls-cert, --tls-key: .* cannot be used",
        ),
        (
            lambda made: written(made.cert.parent / "others", trustme.CA()).key.rename(made.key),
            "--tls-key: .* is the key of another certificate",
        ),
        (_other_kind, "--tls-key: .* is the key of another certificate"),
        (_encrypt, "--tls-key: .* is encrypted: decrypt it"),
        (_swap, "--tls-cert: .* has no certificate"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, harm: Callable[[Files], object], says: str) -> None:
    made = written(tmp_path, trustme.CA())
    harm(made)
    with pytest.raises(TlsError, match=says):
        read(files_of(made, client_ca=made.ca))


@pytest.mark.parametrize(
    ("days", "begins", "says"),
    [(-1.0, -10.0, "it expired at "), (30.0, 1.0, "on only: is the clock right")],
)
def test_nobody_starts_with_a_certificate_that_is_not_valid(
    tmp_path: Path, days: float, begins: float, says: str
) -> None:
    made = written(tmp_path, trustme.CA(), days=days, begins=begins)
    with pytest.raises(TlsError, match=f"--tls-cert: .* cannot be served with: .*{says}"):
        Certificates(files_of(made), show=lambda _: None)
