"""``cellar-serve token``: make, list, change and revoke tokens, beside a running server.

A server that reads the file sees what changes within a second or two. Imports nothing that takes
long, as it is run for a moment.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from service.auth import file as files
from service.auth import tokens
from service.auth.file import PrincipalRecord, QuotaRecord, TokenFile, TokenFileError, TokenRecord
from service.auth.principal import Role
from service.settings.sources import SettingsError, from_file
from service.settings.values import is_nothing, seconds, size

EXIT_FAILED = 1
_LONGEST = timedelta(days=100 * 365)
_QUOTAS: Mapping[str, tuple[str, Any, str]] = {
    "max_sessions": ("N", int, "sessions that are open at once"),
    "max_steps_per_s": ("N", float, "steps in a second, over time"),
    "max_pending_steps": ("N", int, "steps that are taken and not answered, at once"),
    "max_waiting_bytes": ("SIZE", size, "what it has the server hold, such as 64MiB"),
    "max_idle_timeout_s": ("TIME", seconds, "the longest idle timeout of a session, such as 1h"),
    "max_generations": ("N", int, "generations and forecasts at once"),
}

_QUOTA_RULES: Mapping[Any, str] = {
    int: "say a whole number, 0 for none at all, or off for no limit",
    float: "say a number above 0, or off for no limit",
    size: "say bytes or a size such as 64MiB, or off for no limit",
    seconds: "say a time above 0 such as 1h, or off for no limit",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 1 where it could not be done, and nothing changed."""
    given = vars(parser().parse_args(sys.argv[2:] if arguments is None else arguments))
    run = given.pop("run")
    given["path"] = _path(given.pop("tokens"), given.pop("config"))
    try:
        if given["path"] is None:
            raise TokenFileError("which file? say --tokens FILE, or set CELLAR_TOKENS")
        return int(run(**given))
    except (TokenFileError, SettingsError) as error:
        print(f"cellar-serve token: {error}", file=sys.stderr)
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)
    return EXIT_FAILED


def _path(tokens_file: str | None, config: str | None) -> Path | None:
    """The file, as the server would find it."""
    found = tokens_file or os.environ.get("CELLAR_TOKENS", "").strip()
    named = config or os.environ.get("CELLAR_CONFIG", "").strip()
    if found or not named:
        return Path(found) if found else None
    try:
        entries = from_file(Path(named), "--config" if config else "CELLAR_CONFIG")
    except SettingsError as error:
        print(f"cellar-serve token: {error}", file=sys.stderr)
        raise SystemExit(EXIT_FAILED) from None
    return next((Path(str(each.value)) for each in entries if each.name == "tokens"), None)


# ---- the command line ----


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as the server does."""

    def error(self, message: str) -> NoReturn:
        """Ends with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """What reads the command line."""
    whole = _Parser(
        allow_abbrev=False,
        prog="cellar-serve token",
        description="Make and revoke the tokens that calls need where the server has --tokens. "
        "A running server reads the file again when it changes.",
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        added.add_argument("--tokens", metavar="FILE", help="the file (default: CELLAR_TOKENS)")
        added.add_argument(
            "--config", metavar="FILE", help="the server's TOML file, if it names it"
        )
        added.set_defaults(run=run)
        return added

    adding = command(
        "add",
        _add,
        "make a token of a principal, and print it: it is shown this once. Of a principal that is "
        "there already this is another token, and only what is named changes",
    )
    adding.add_argument("principal", metavar="PRINCIPAL", type=_name, help="whose it is")
    adding.add_argument(
        "--expires",
        metavar="WHEN",
        type=_expiry,
        help="90d, a day (2027-01-31, when it begins in UTC), or never (default)",
    )
    _add_grants(adding)
    setting = command("set", _set, "change what a principal may do; its tokens stay")
    setting.add_argument("principal", metavar="PRINCIPAL", type=_name, help="which")
    _add_grants(setting)
    listing = command("list", _list, "who there is, and which tokens; never a secret")
    listing.add_argument("--json", action="store_true", dest="as_json", help="as one JSON document")
    revoking = command("revoke", _revoke, "let a token be valid no more")
    revoking.add_argument("name", metavar="ID", help="the token's id; with --all a principal")
    revoking.add_argument(
        "--all", action="store_true", dest="all_of_it", help="the principal, with all its tokens"
    )
    return whole


def _add_grants(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--role",
        action="append",
        dest="roles",
        type=_role,
        metavar="ROLE",
        help="step: use models, with sessions of its own; read: metrics, provenance, reflection; "
        "admin: everything, and everybody's sessions. Several may be named",
    )
    parser.add_argument(
        "--model",
        action="append",
        dest="models",
        metavar="NAME",
        help="a model it may use, or a pattern such as 'price-*'; several may be named; '*' for "
        "all (default)",
    )
    quotas = parser.add_argument_group(
        "quotas", "0 allows none at all where a number may be 0; off (default) sets no limit"
    )
    for name, (metavar, read, meaning) in _QUOTAS.items():
        quotas.add_argument(
            "--" + name.removesuffix("_s" if name.endswith("timeout_s") else "").replace("_", "-"),
            dest=name,
            type=_quota(name, read),
            default=argparse.SUPPRESS,
            metavar=metavar,
            help=meaning,
        )


def _name(text: str) -> str:
    if not tokens.PRINCIPAL.fullmatch(text):
        raise argparse.ArgumentTypeError("a name has 1 to 64 letters, digits, '.', '_' or '-'")
    return text


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no role: say {', '.join(Role)}; for several, name --role several times"
        ) from None


def _quota(name: str, read: Any) -> Any:
    def quota(text: str) -> object:
        if is_nothing(text):
            return None
        try:
            found = read(text)
            QuotaRecord.model_validate({name: found})
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} cannot be a quota: {_QUOTA_RULES[read]}"
            ) from None
        return found

    return quota


def _expiry(text: str) -> datetime | None:
    """When a token ends; ``None``: never.

    Raises:
        argparse.ArgumentTypeError: it is no time, or one that is over.
    """
    if text == "never" or is_nothing(text):
        return None
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        if text.strip().isdigit():  # 90 seconds are hardly meant
            raise ValueError
        if text[:4].isdigit() and text[4:5] == "-":
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
        else:
            at = now + min(timedelta(seconds=float(str(seconds(text)))), _LONGEST)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: say 90d, 2027-01-31 or never"
        ) from None
    if at <= now:
        raise argparse.ArgumentTypeError(f"{text!r} is over already")
    return at


# ---- commands ----


def _add(
    path: Path,
    principal: str,
    *,
    expires: datetime | None,
    roles: list[Role] | None,
    models: list[str] | None,
    **quota: object,
) -> int:
    with files.changing(path):
        file = files.read(path) if path.exists() else TokenFile()
        before = file.principals.get(principal)
        if before is None and not roles:
            raise TokenFileError(f"there is no {principal!r} yet: say --role, such as --role step")
        known = {token.id for _, token in file.tokens()}
        new = tokens.make(principal)
        while new.id in known:
            new = tokens.make(principal)
        record = TokenRecord(
            id=new.id,
            sha256=tokens.digest(new.secret).hex(),
            created=datetime.now(UTC).replace(microsecond=0),
            expires=expires,
        )
        changed = _changed(before or PrincipalRecord(), roles, models, quota)
        changed = changed.model_copy(update={"tokens": (*changed.tokens, record)})
        _write(path, file, {**file.principals, principal: changed})
    until = "does not expire" if expires is None else f"expires {_shown(expires)}"
    print(f"{new.id} of {_told(principal, changed)}; it {until}", file=sys.stderr)
    print(new, flush=True)
    return 0


def _set(
    path: Path,
    principal: str,
    *,
    roles: list[Role] | None,
    models: list[str] | None,
    **quota: object,
) -> int:
    with files.changing(path):
        file = files.read(path)
        before = file.principals.get(principal)
        if before is None:
            raise TokenFileError(f"there is no {principal!r}: see cellar-serve token list")
        changed = _changed(before, roles, models, quota)
        _write(path, file, {**file.principals, principal: changed})
    print(_told(principal, changed), file=sys.stderr)
    return 0


def _revoke(path: Path, name: str, *, all_of_it: bool) -> int:
    with files.changing(path):
        file = files.read(path)
        principals = dict(file.principals)
        if all_of_it:
            if name not in principals:
                raise TokenFileError(f"there is no principal {name!r}: see cellar-serve token list")
            gone = [token.id for token in principals.pop(name).tokens]
        else:
            owner = next((owner for owner, token in file.tokens() if token.id == name), None)
            if owner is None:
                raise TokenFileError(
                    f"there is no token {name!r}: see cellar-serve token list; for all tokens of a "
                    "principal say --all"
                )
            rest = [token for token in principals[owner].tokens if token.id != name]
            principals[owner] = principals[owner].model_copy(update={"tokens": tuple(rest)})
            gone = [name]
        _write(path, file, principals)
    print(f"revoked: {', '.join(gone) or 'there was no token'}", file=sys.stderr)
    return 0


def _changed(
    before: PrincipalRecord,
    roles: list[Role] | None,
    models: list[str] | None,
    quota: Mapping[str, object],
) -> PrincipalRecord:
    update: dict[str, object] = {}
    if roles:
        update["roles"] = tuple(sorted(set(roles)))
    if models:
        update["models"] = None if "*" in models else tuple(dict.fromkeys(models))
    if quota:
        update["quota"] = before.quota.model_copy(update=quota)
    return before.model_copy(update=update)


def _write(path: Path, file: TokenFile, principals: Mapping[str, PrincipalRecord]) -> None:
    changed = file.model_copy(update={"principals": principals})
    files.parse(files.format_file(changed))  # nothing is written that a server would not read
    files.write(path, changed)


# ---- what is told ----


def _list(path: Path, *, as_json: bool) -> int:
    file, now = files.read(path), datetime.now(UTC)
    if as_json:
        told = file.model_dump(mode="json", exclude_none=True)
        for principal in told["principals"].values():
            for token in principal["tokens"]:
                del token["sha256"]
        print(json.dumps(told))
        return 0
    rows = [("PRINCIPAL", "ROLES", "MODELS", "QUOTAS", "TOKEN", "CREATED", "EXPIRES")]
    for name, principal in sorted(file.principals.items()):
        head = (name, _roles(principal), _models(principal), _quotas(principal))
        for token in principal.tokens or (None,):
            rows.append((*head, *_token(token, now)))
            head = ("", "", "", "")
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def _token(token: TokenRecord | None, now: datetime) -> tuple[str, str, str]:
    if token is None:
        return ("none", "", "")
    expires = "never" if token.expires is None else _shown(token.expires)
    return (
        token.id,
        _shown(token.created),
        f"{expires} (expired)" if token.is_expired(now) else expires,
    )


def _told(name: str, principal: PrincipalRecord) -> str:
    return (
        f"{name}: roles {_roles(principal)}; models {_models(principal)}; "
        f"quotas {_quotas(principal)}"
    )


def _roles(principal: PrincipalRecord) -> str:
    return ",".join(sorted(principal.roles)) or "none"


def _models(principal: PrincipalRecord) -> str:
    if principal.models is None:
        return "all"
    text = ",".join(principal.models) or "none"
    return text if text.isprintable() else ascii(text)


def _quotas(principal: PrincipalRecord) -> str:
    found = principal.quota.model_dump(exclude_none=True)
    return (
        ",".join(
            f"{name}={value:{',' if isinstance(value, int) else ',g'}}"
            for name, value in found.items()
        )
        or "none"
    )


def _shown(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"
