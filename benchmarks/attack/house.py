"""A server with TLS and tokens, who is polite there, and who is not."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import trustme

from benchmarks.attack.attack import Victim
from benchmarks.processes import CellarServer, Child, module
from service.auth import tokens
from service.auth.file import PrincipalRecord, QuotaRecord, TokenFile, TokenRecord, write
from service.auth.principal import Role

POLITE = ("polite", "kind")
MALLORY = "mallory"


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """A server, and two processes of callers."""

    server: CellarServer
    polite: Child
    attacker: Child
    victim: Victim

    def close(self) -> None:
        """End all of it."""
        for child in (self.attacker, self.polite, self.server):
            child.close()


def house_of(
    folder: Path,
    models: Path,
    *,
    quota: Mapping[str, float],
    flags: Sequence[str] = (),
) -> House:
    """A server of these models; certificates and tokens are made in the folder.

    Args:
        folder: an empty one.
        models: the repository.
        quota: of `MALLORY`; the others have none.
        flags: for the server.
    """
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    ca = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    issued.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))
    issued.private_key_pem.write_to_path(str(folder / "tls.key"))
    named = _tokens(folder / "tokens.json", quota)
    server = CellarServer(
        models,
        "--host=0.0.0.0",  # on loopback the server trusts who calls
        "--metrics-host=127.0.0.1",
        "--require-auth",
        f"--tls-cert={folder / 'tls.crt'}",
        f"--tls-key={folder / 'tls.key'}",
        f"--tokens={folder / 'tokens.json'}",
        *flags,
    )
    host, _, port = server.address.rpartition(":")
    victim = Victim(
        host=host,
        port=int(port),
        authority=str(ca),
        token=named[MALLORY],
        wrong=f"{named[POLITE[0]].rpartition('.')[0]}.{secrets.token_urlsafe(32)}",
    )
    asked = [server.address, str(ca), *(named[name] for name in POLITE)]
    told = json.dumps(asdict(victim))
    return House(
        server=server,
        polite=Child("polite", module("benchmarks.attack.polite", *asked)),
        attacker=Child("attacker", module("benchmarks.attack.attacker", told)),
        victim=victim,
    )


def _tokens(path: Path, quota: Mapping[str, float]) -> dict[str, str]:
    """Write a file of tokens; returns the tokens, by principal."""
    named, principals = {}, {}
    for name in (*POLITE, MALLORY):
        token = tokens.make(name)
        record = TokenRecord(
            id=token.id, sha256=tokens.digest(token.secret).hex(), created=datetime.now(UTC)
        )
        own = QuotaRecord.model_validate(quota if name == MALLORY else {})
        principals[name] = PrincipalRecord(roles=(Role.STEP,), quota=own, tokens=(record,))
        named[name] = str(token)
    write(path, TokenFile(principals=principals))
    return named
