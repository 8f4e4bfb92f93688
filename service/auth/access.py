"""Who may call: read from the file of tokens, and again whenever it changes."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from service.auth import file as files
from service.auth.authenticator import Authenticator, KnownToken
from service.auth.file import TokenFile, TokenFileError
from service.auth.principals import Principals
from service.watched import is_open_to_all, mark_of

_log = structlog.get_logger("cellar")
_PERIOD_S = 1.0
_NAMED = 20  # principals or tokens in one entry of the log


class Access:
    """The principals and the tokens of a file, as it is now.

    A file that became bad, or that is gone, changes nothing: those who were let in are, those who
    were not are not.

    Attributes:
        principals: those it names, and all that were named before.
        authenticator: holds the tokens of callers against its tokens.
        is_sound: whether the file could be used when it was read last.

    Args:
        path: of the file.
        counts: see `Authenticator`.

    Raises:
        TokenFileError: it cannot be used.
    """

    def __init__(self, path: Path, *, counts: Counter[tuple[str, str]] | None = None) -> None:
        self._path = path
        self._mark = mark_of(path)
        self._file = files.read(path)
        self.principals = Principals()
        self.authenticator = Authenticator({}, counts=counts)
        self.is_sound = True
        self._listeners: list[Callable[[], None]] = []
        self._complaint = ""
        self._use(self._file)
        found = sum(1 for _ in self._file.tokens())
        if found:
            _log.info(
                "tokens are wanted",
                path=str(path),
                principals=len(self._file.principals),
                tokens=found,
            )
        else:
            _log.warning(
                "the file of tokens has none: nobody can call",
                path=str(path),
                mend=f"cellar-serve token add NAME --role step --tokens {path}",
            )
        self._look_at_mode()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have something called, on the event loop, every second or so: tokens expire, too."""
        self._listeners.append(listener)

    async def watch(self) -> None:
        """Look every second whether the file is another one; never ends by itself."""
        while True:
            await asyncio.sleep(_PERIOD_S)
            try:
                await self.look()
                for listener in self._listeners:
                    listener()
            except Exception:  # memory may be short: revoked tokens must go all the more
                _log.exception("the file of tokens could not be looked at")

    async def look(self) -> None:
        """Read the file if it is another one since it was read last.

        Its mark is taken before it is read: what is written meanwhile is read the next time. A
        link is followed, so that Kubernetes' secrets are seen to change.
        """
        mark = await asyncio.to_thread(mark_of, self._path)
        if mark is not None and mark == self._mark:
            return
        try:
            found = await asyncio.to_thread(files.read, self._path)
        except TokenFileError as error:
            self.is_sound = False
            # What the disk did not give it may give the next time.
            self._mark = None if isinstance(error.__cause__, OSError) else mark
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.error(
                    "the file of tokens cannot be used: those of before hold", reason=str(error)
                )
            return
        self._mark, self._complaint, self.is_sound = mark, "", True
        before, self._file = self._file, found
        self._use(found)
        self._tell(before, found)
        self._look_at_mode()

    def _use(self, file: TokenFile) -> None:
        of = self.principals.of
        self.principals.grant({name: each.grant for name, each in file.principals.items()})
        self.authenticator.replace(
            {
                token.id: KnownToken(
                    id=token.id,
                    sha256=bytes.fromhex(token.sha256),
                    expires_s=token.expires_s,
                    principal=of(name),
                )
                for name, token in file.tokens()
            }
        )

    def _tell(self, before: TokenFile, now: TokenFile) -> None:
        """Let the log say who and what came and went."""
        old, new = before.principals, now.principals
        old_ids = {token.id: token for _, token in before.tokens()}
        new_ids = {token.id: token for _, token in now.tokens()}
        changes = {
            "principals_added": new.keys() - old.keys(),
            "principals_removed": old.keys() - new.keys(),
            "principals_changed": {
                name for name in old.keys() & new.keys() if old[name].grant != new[name].grant
            },
            "tokens_added": new_ids.keys() - old_ids.keys(),
            "tokens_removed": old_ids.keys() - new_ids.keys(),
            "tokens_changed": {
                each for each in old_ids.keys() & new_ids.keys() if old_ids[each] != new_ids[each]
            },
        }
        told = {name: _few(found) for name, found in changes.items() if found}
        _log.info("the file of tokens was read again", **told)

    def _look_at_mode(self) -> None:
        if is_open_to_all(self._path):
            _log.warning(
                "the file of tokens can be read by everybody on this machine",
                path=str(self._path),
                mend=f"chmod o= {self._path}",
            )


def _few(names: Iterable[str]) -> list[str]:
    found = sorted(names)
    rest = len(found) - _NAMED
    return found if rest <= 0 else [*found[:_NAMED], f"and {rest} more"]
