"""Authorities and certificates, made for one test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme


@dataclass(frozen=True)
class Files:
    """A certificate, its key and its authority, in a folder."""

    ca: Path
    cert: Path
    key: Path


def written(
    folder: Path, authority: trustme.CA, *names: str, days: float = 30, begins: float = -1
) -> Files:
    """A certificate of an authority, for these names; so many days from now it ends, and begins."""
    now = datetime.now(UTC)
    wanted: dict[str, Any] = {"not_after": now + timedelta(days=days)}
    if begins != -1:
        wanted["not_before"] = now + timedelta(days=begins)
    issued = authority.issue_cert(*(names or ("localhost", "127.0.0.1")), **wanted)
    files = Files(folder / "ca.pem", folder / "tls.crt", folder / "tls.key")
    folder.mkdir(exist_ok=True)
    authority.cert_pem.write_to_path(str(files.ca))
    files.cert.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    files.key.touch(0o600)
    files.key.write_bytes(issued.private_key_pem.bytes())
    return files
