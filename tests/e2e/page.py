"""What Prometheus reads of a server, as data."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

_ENDINGS = ("_bucket", "_sum", "_count")


class Page:
    """One scrape.

    Attributes:
        kinds: the type of each metric, by its name in documents.
        samples: every value, by its name and its labels.
        labels: the labels that a metric's samples have, without a histogram's own; none where it
            has no samples.
    """

    def __init__(self, text: str) -> None:
        self.kinds: dict[str, str] = {}
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.labels: dict[str, set[frozenset[str]]] = {}
        for family in text_string_to_metric_families(text):
            name = family.name + "_total" * (family.type == "counter")
            self.kinds[name] = family.type
            self.labels[name] = {frozenset(sample.labels) - {"le"} for sample in family.samples}
            for sample in family.samples:
                self.samples[sample.name, frozenset(sample.labels.items())] = sample.value

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels, whatever others they have."""
        return sum(value for _, value in self._having(name, labels))

    def by(self, name: str, *labels: str, **only: str) -> dict[tuple[str, ...], float]:
        """The samples that are not 0, summed by some labels; ``only`` those with others."""
        found: dict[tuple[str, ...], float] = {}
        for own, value in self._having(name, only):
            if value:
                key = tuple(own[label] for label in labels)
                found[key] = found.get(key, 0.0) + value
        return found

    def has(self, name: str, **labels: str) -> bool:
        """Whether a sample has this name and these labels."""
        return any(True for _ in self._having(name, labels))

    def label_names(self, name: str) -> set[str]:
        """All labels of a series, a histogram's own, too; nothing where there is no such series."""
        return {label for own, labels in self.samples if own == name for label, _ in labels}

    def names(self) -> set[str]:
        """The names of all series."""
        return {name for name, _ in self.samples}

    def _having(self, name: str, labels: dict[str, str]) -> Iterator[tuple[dict[str, str], float]]:
        for (own, pairs), value in self.samples.items():
            if own == name and labels.items() <= dict(pairs).items():
                yield dict(pairs), value
