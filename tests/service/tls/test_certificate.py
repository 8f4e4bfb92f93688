"""What is read of certificates: the same as another library reads."""

import base64
import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
import trustme
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from service.tls.certificate import certificates

NAMES = (
    ("a.example",),
    ("*.b.example", "127.0.0.1", "::1", "c.example"),
    ("someone@d.example",),
)


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("years", [1, 60])
def test_names_and_validity_are_what_another_library_reads(
    names: tuple[str, ...], years: int
) -> None:
    ends = datetime.now(UTC) + timedelta(days=365 * years)
    issued = authority().issue_cert(*names, common_name="the one", not_after=ends)
    pem = issued.cert_chain_pems[0].bytes()
    theirs = x509.load_pem_x509_certificate(pem)
    (mine,) = certificates(pem)
    assert (mine.begins, mine.ends) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
    wanted = theirs.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    read = [str(each.value) for each in wanted if isinstance(each, (x509.DNSName, x509.IPAddress))]
    assert list(mine.names) == (read or ["the one"])
    assert [ipaddress.ip_address(name) for name in mine.names if ":" in name] == (
        [ipaddress.ip_address("::1")] if len(names) > 1 else []
    )


def test_a_chain_has_all_of_its_certificates_and_an_authority_its_common_name() -> None:
    between = authority().create_child_ca()
    issued = between.issue_cert("a.example")
    pem = b"".join(each.bytes() for each in issued.cert_chain_pems)
    first, second = certificates(b"a remark\n" + pem + b"another")
    assert first.names == ("a.example",)
    assert second.ends > first.begins
    assert certificates(b"nothing") == []


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_certificates_are_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    pem = authority().cert_pem.bytes().decode()
    der = bytearray(ssl.PEM_cert_to_DER_cert(pem))
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    der = der[: data.draw(st.integers(0, len(der)))]
    text = base64.b64encode(bytes(der))
    block = b"-----BEGIN CERTIFICATE-----\n" + text + b"\n-----END CERTIFICATE-----\n"
    try:
        found = certificates(block)
    except ValueError:
        return
    assert all(name.isprintable() for each in found for name in each.names)
