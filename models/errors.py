"""What can be wrong with a model."""


class ModelError(Exception):
    """A model cannot be used; the message names the file and what to mend."""


def plain(text: str, most: int = 600) -> str:
    """A text of which a part may be from a file, as one line that a terminal does not act on."""
    line = "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii")
        for sign in text[: most + 1]
    )
    return line if len(text) <= most else f"{line[:most]}..."


class ModelNotFoundError(ModelError):
    """No such model, or no such version of it."""
