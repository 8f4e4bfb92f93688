"""A type-ahead that can take back what was typed: ``python -m examples.type_ahead``.

Each key is a step of one session. What somebody deletes is taken back by ``rewind``, so nothing is
read a second time, however long the text is; what might come next is drawn in a few ways, which
leave the session where it is.
"""

import sys

import cellar
from examples.serving import ZOO, served

DELETE = "\b"
KEYS = "def mian" + DELETE * 3 + "ain(" + "argz" + DELETE + "s)"


class TypeAhead:
    """A line of text that somebody types, and how it may go on."""

    def __init__(self, session: cellar.Session) -> None:
        self.text = ""
        self._session = session

    def press(self, key: str) -> None:
        """Reads a character, or takes the last one back."""
        if key != DELETE:
            self._session.step(key)
            self.text += key
        elif self.text:
            self._session.rewind(steps=1)
            self.text = self.text[:-1]

    def suggest(self, ways: int = 3) -> list[str]:
        """How the line may go on, in a few ways, without those that come twice."""
        with self._session.generate(
            n=ways, max_steps=16, stop=[" ", "\n", "("], temperature=0.6, seed=1
        ) as drawn:
            return list(dict.fromkeys(text.strip() for text in drawn.texts()))


def main() -> int:
    with (
        served(ZOO) as address,
        cellar.connect(address) as client,
        client.session("stdlib-text", history_steps="all") as session,
    ):
        line = TypeAhead(session)
        for key in KEYS:
            line.press(key)
            print(f"{line.text:15}{' | '.join(line.suggest())}")
        with client.session("stdlib-text") as fresh:
            fresh.step(line.text)
            unspoilt = TypeAhead(fresh)
            assert unspoilt.suggest() == line.suggest(), "as if nothing had been deleted"
    return 0


if __name__ == "__main__":
    sys.exit(main())
