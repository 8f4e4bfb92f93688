"""Under which arithmetic the steps in a journal were run, of one model.

Where it was another one, reading them again may come to other bits. Knows nothing of what an
arithmetic is: they are equal, or they are not.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from service.engine.work.columns import Ints, Mask
from service.store.records import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetics:
    """From which group on which arithmetic is that of a model; the last is the present one.

    Attributes:
        begins: the first group of each, ascending.
        digests: one for each.
    """

    begins: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)

    def followed_by(self, digest: str, group: int, *, oldest: int) -> "Arithmetics":
        """With the one that steps are run under from a group on.

        Those that end before the ``oldest`` group that is still read are left out.
        """
        if self.digests and self.digests[-1] == digest:
            return self
        begins, digests = [*self.begins, group], [*self.digests, digest]
        first = max(0, int(np.searchsorted(begins, oldest, side="right")) - 1)
        return Arithmetics(begins=begins[first:], digests=digests[first:])

    def same(self, groups: Ints) -> Mask:
        """Which groups were run under the present one, (groups,)."""
        at = np.searchsorted(self.begins, groups, side="right") - 1
        is_present = np.array([digest == self.digests[-1] for digest in self.digests], np.bool_)
        same: Mask = (at >= 0) & is_present[at]
        return same

    def all_same(self, oldest: int) -> bool:
        """Whether all groups from one on were run under the present one."""
        first = int(np.searchsorted(self.begins, oldest, side="right")) - 1
        return first >= 0 and set(self.digests[first:]) == {self.digests[-1]}

    def pack(self) -> list[Section]:
        """For the table."""
        return [
            Section("arithmetic", {"begins": group, "digest": digest}, {})
            for group, digest in zip(self.begins, self.digests, strict=True)
        ]

    @classmethod
    def unpack(cls, sections: Iterable[Section]) -> "Arithmetics":
        """What `pack` made."""
        metas = [section.meta for section in sections]
        return cls(
            begins=[int(meta["begins"]) for meta in metas],
            digests=[str(meta["digest"]) for meta in metas],
        )
