"""Arguments and files that cannot be used: what is said, by name, before anything is sent."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

import cellar
from cellar.access.access import Access
from cellar.access.tls import Tls
from tests.client.access.certificates import LONG_AGO, TO_COME, Authority, Pair

ELSEWHERE = "cellar.example:8001"
SECRET = "one.S3CRET"


def refused(field: str, says: str, server: str = ELSEWHERE, **options: Any) -> None:
    """Both clients refuse, name the argument, and tell no secret."""
    for connect in (cellar.connect, cellar.aio.connect):
        with pytest.raises(cellar.BadInputError, match=says) as caught:
            connect(server, **options)
        assert caught.value.field == field
        assert str(caught.value).startswith(field)
        for shown in (str(caught.value), repr(caught.value)):
            assert "S3CRET" not in shown
            assert "MII" not in shown  # of a key or a certificate


def test_files_that_are_none(
    authority: Authority, stranger: Authority, alice: Pair, tmp_path: Path
) -> None:
    nothing, empty, large = tmp_path / "nothing", tmp_path / "empty", tmp_path / "large"
    empty.touch()
    large.write_bytes(authority.pem * 4000)
    der, broken, cut = tmp_path / "der", tmp_path / "broken", tmp_path / "cut"
    der.write_bytes(ssl.PEM_cert_to_DER_cert(authority.pem.decode()))
    broken.write_bytes(authority.pem.replace(b"MII", b"AII", 1))
    cut.write_bytes(alice.key.read_bytes()[:-60])
    key, cert = alice.key, alice.cert
    refused("ca", f"{nothing}: there is no such file", ca=nothing)
    refused("ca", f"{tmp_path}: there is no such file", ca=tmp_path)
    refused("ca", f"{empty}: there is no certificate in it", ca=empty)
    refused("ca", "it is larger than", ca=large)
    refused("ca", "it is DER, and not PEM", ca=der)
    refused("ca", "certificate 1 cannot be read", ca=broken)
    refused("ca", "there is a private key in it, and no certificate", ca=key)
    refused("cert", "there is a private key in it, and no certificate", cert=key, key=cert)
    refused("key", "there is a certificate in it, and no private key", cert=cert, key=cert)
    refused("key", "there is no private key in it", cert=cert, key=empty)
    refused("key", "there is no private key in it|cannot be read", cert=cert, key=cut)
    other = stranger.pair("other", "bob@cellar.example")
    refused("key", f"it is not the key of the certificate in {cert}", cert=cert, key=other.key)
    refused("key", "give the path of a file, not what is in it", cert=cert, key=key.read_text())
    refused("key", "give the path of a file, not bytes", cert=cert, key=key.read_bytes())
    refused("ca", "the path of the file is empty", ca="")
    refused("ca", "not int", ca=3)


def test_a_key_with_a_password(alice: Pair, tmp_path: Path) -> None:
    key = load_pem_private_key(alice.key.read_bytes(), None)
    locked = tmp_path / "locked"
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        locked.write_bytes(key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"x")))
        refused("key", "it is encrypted: give one without a password", cert=alice.cert, key=locked)


def test_certificates_that_do_not_hold_now(authority: Authority, tmp_path: Path) -> None:
    late = authority.pair("expired", "carl@cellar.example", valid=LONG_AGO)
    refused("cert", "has expired on 2021-02-03 04:05 UTC", cert=late.cert, key=late.key)
    early = authority.pair("early", "carl@cellar.example", valid=TO_COME)
    refused("cert", "not valid before 2070-01-01 00:00 UTC", cert=early.cert, key=early.key)
    refused("ca", "all of its certificates have expired, the last on 2021-02-03", ca=late.cert)
    some = tmp_path / "some.pem"
    some.write_bytes(late.cert.read_bytes() + authority.pem)
    Access(ELSEWHERE, ca=some)


@pytest.mark.parametrize(
    ("field", "says", "options"),
    [
        ("key", "cert is named, and key is not", {"cert": "FILE"}),
        ("cert", "key is named, and cert is not", {"key": "FILE"}),
        ("tls", "False contradicts ca", {"tls": False, "ca": "FILE"}),
        ("tls", "False contradicts cert and key", {"tls": False, "cert": "FILE", "key": "FILE"}),
        ("tls", "say True, False or None", {"tls": 1}),
        ("server_name", "without TLS no name is checked", {"server_name": "a"}),
        ("server_name", "no port, no URL", {"tls": True, "server_name": "a:1"}),
        ("server_name", "is no host's name", {"tls": True, "server_name": ""}),
        ("server_name", "is no host's name", {"tls": True, "server_name": 3}),
        ("credentials", "a grpc.ChannelCredentials", {"credentials": "tls"}),
        ("token", "it is empty", {"tls": True, "token": ""}),
        ("token", "leave 'Bearer' out", {"tls": True, "token": f"Bearer {SECRET}"}),
        ("token", "a character that no token has", {"tls": True, "token": f"{SECRET} ñ"}),
        ("token", "ends with a blank or a line break", {"tls": True, "token": f"{SECRET}\n"}),
        ("token", "the name of a file: say pathlib", {"tls": True, "token": "pyproject.toml"}),
        ("token", "longer than 4096", {"tls": True, "token": SECRET * 1000}),
        ("token", "it looks like a path", {"tls": True, "token": "/run/secrets/token"}),
        ("token", "give a text, or", {"tls": True, "token": SECRET.encode()}),
        ("token", "without TLS: add tls=True", {"token": SECRET}),
        ("headers", "without TLS: add tls=True", {"headers": {"Authorization": SECRET}}),
        ("allow_plaintext_token", "True or False", {"allow_plaintext_token": "no"}),
        ("token", "authorization is among", {"tls": True, "token": SECRET,
                                             "headers": {"Authorization": SECRET}}),
        ("token", "authorization is among", {"tls": True, "token": SECRET,
                                             "metadata": [("authorization", SECRET)]}),
        ("headers", "a mapping", {"headers": [("a", "b")]}),
        ("headers", "'two words' is no name", {"headers": {"two words": SECRET}}),
        ("headers", "is no text", {"headers": {"a": 3}}),
        ("headers", "other than ASCII", {"headers": {"a": "ñ"}}),
        ("headers", "begins or ends with a space", {"headers": {"a": f" {SECRET}"}}),
        ("headers", "is a control character", {"headers": {"a": f"{SECRET}\n"}}),
        ("headers", "differ in their case", {"headers": {"a": "1", "A": "2"}}),
        *(
            ("headers", "is said by gRPC", {"headers": {name: "x"}})
            for name in ("grpc-timeout", "TE", "content-type", "user-agent", "x-session-id")
        ),
    ],
)  # fmt: skip
def test_what_is_refused(field: str, says: str, options: dict[str, Any], alice: Pair) -> None:
    files: dict[str, Callable[[], Any]] = {"ca": lambda: alice.cert, "cert": lambda: alice.cert}
    files["key"] = lambda: alice.key
    given_ = {name: files[name]() if each == "FILE" else each for name, each in options.items()}
    refused(field, says, **given_)


def test_credentials_say_all_of_tls(authority: Authority) -> None:
    credentials = grpc.ssl_channel_credentials()
    for options in ({"tls": True}, {"tls": False}, {"ca": authority.file}):
        refused("credentials", "they say all of TLS", credentials=credentials, **options)


@pytest.mark.parametrize("server", ["localhost:1", "127.0.0.1:1", "[::1]:1", "unix:/run/cellar"])
def test_a_token_in_the_clear_stays_on_this_machine(server: str) -> None:
    assert Access(server, token=SECRET).is_private
    assert ("authorization", f"Bearer {SECRET}") in Access(server, token=SECRET).metadata()


@pytest.mark.parametrize("server", ["localhost.example:1", "10.0.0.1:1", "dns:///a:1", "xds:///a"])
def test_a_token_in_the_clear_for_another_machine(server: str) -> None:
    refused("token", "without TLS", server, token=SECRET)
    Access(server, token=SECRET, allow_plaintext_token=True)
    Access(server, token=SECRET, tls=True)
    Access(server, token=SECRET, credentials=grpc.ssl_channel_credentials())
    Access(server, metadata=[("authorization", SECRET)])  # which is whatever its sender means


def test_nothing_shows_a_secret(alice: Pair, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET)
    for token in (SECRET, file):
        access = Access(ELSEWHERE, cert=alice.cert, key=alice.key, token=token)
        tls = Tls.chosen(None, None, alice.cert, alice.key, None)
        with cellar.connect(ELSEWHERE, tls=True, token=token) as client:
            for each in (access, access.token, tls, tls and tls._pem, client, client._transport):
                assert "S3CRET" not in repr(each)
                assert "MII" not in repr(each)


def taken_or_refused(field: str, path: Path) -> None:
    """No other error comes of a file."""
    caught = None
    options: dict[str, Any] = {"tls": True, field: path}
    try:
        Access(ELSEWHERE, **options)
    except cellar.BadInputError as error:
        caught = error
    assert caught is None or caught.field == field


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_a_file_or_refused(tmp_path_factory: Any, data: bytes, marked: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    if marked:
        data = b"-----BEGIN CERTIFICATE-----\n" + data + b"\n-----END CERTIFICATE-----\n"
    path.write_bytes(data)
    for field in ("ca", "token"):
        taken_or_refused(field, path)


@given(st.data())
def test_certificates_that_were_damaged(tmp_path_factory: Any, data: Any) -> None:
    """One byte of a certificate is another: it is read, or refused."""
    folder = tmp_path_factory.getbasetemp()
    der = bytearray(_whole(folder))
    der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / "damaged.pem").write_text(ssl.DER_cert_to_PEM_cert(bytes(der)))
    taken_or_refused("ca", folder / "damaged.pem")


def _whole(folder: Path) -> bytes:
    if not (folder / "whole.pem").exists():
        Authority(folder, "whole")
    return ssl.PEM_cert_to_DER_cert((folder / "whole.pem").read_text())
