"""All principals that this process has heard of. Knows nothing of tokens or files."""

from collections.abc import Mapping

from service.auth.principal import NOBODY, Grant, Principal

NOTHING = Grant(roles=frozenset(), models=())
"""What a principal may do that nobody has granted anything."""


class Principals:
    """One `Principal` per name, for the life of the process.

    So whoever holds one, such as a quota or a session's owner, sees its grant change in place. One
    that is removed, or only owns sessions that a store has kept, may do nothing.
    """

    def __init__(self) -> None:
        self._named: dict[str, Principal] = {}

    def of(self, name: str) -> Principal:
        """The principal of a name; the empty one is `NOBODY`'s."""
        if not name:
            return NOBODY
        found = self._named.get(name)
        if found is None:
            found = self._named[name] = Principal(name, NOTHING)
        return found

    def grant(self, grants: Mapping[str, Grant]) -> None:
        """From now on these may do that, and all others nothing."""
        for name in grants:
            self.of(name)
        for name, principal in self._named.items():
            principal.grant = grants.get(name, NOTHING)
