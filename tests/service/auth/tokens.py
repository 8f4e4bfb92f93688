"""Files of tokens for tests."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from service.auth import file as files
from service.auth import tokens
from service.auth.file import PrincipalRecord, QuotaRecord, TokenFile, TokenRecord
from service.auth.principal import Role


class Tokens:
    """A file of tokens that a test writes as it likes.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._principals: dict[str, PrincipalRecord] = {}
        self._save()

    def add(
        self,
        name: str,
        *roles: Role,
        models: Sequence[str] | None = None,
        expires_in_s: float | None = None,
        quota: QuotaRecord | None = None,
    ) -> str:
        """Give a principal a token, and these roles and models; returns the token."""
        new, now = tokens.make(name), datetime.now(UTC)
        record = TokenRecord(
            id=new.id,
            sha256=tokens.digest(new.secret).hex(),
            created=now,
            expires=None if expires_in_s is None else now + timedelta(seconds=expires_in_s),
        )
        before = self._principals.get(name, PrincipalRecord())
        self._principals[name] = PrincipalRecord(
            roles=roles,
            models=None if models is None else tuple(models),
            tokens=(*before.tokens, record),
            quota=quota or QuotaRecord(),
        )
        self._save()
        return str(new)

    def grant(self, name: str, *roles: Role, models: Sequence[str] | None = None) -> None:
        """Give a principal other roles and models."""
        models = None if models is None else tuple(models)
        update = {"roles": roles, "models": models}
        self._principals[name] = self._principals[name].model_copy(update=update)
        self._save()

    def remove(self, name: str) -> None:
        """Take a principal away."""
        del self._principals[name]
        self._save()

    def _save(self) -> None:
        files.write(self.path, TokenFile(principals=self._principals))


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call with a token."""
    return (("authorization", f"Bearer {token}"),)
