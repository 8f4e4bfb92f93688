"""What stands for no value in a field."""

_MARKS_LIST = (
    "-|--|---|–|—|.|..|...|?|:|*|na|n/a|n.a.|n.a|#n/a|<na>|nan|none|null|nil|nd|n/d|nat|"
    "missing|#value!|#div/0!|#ref!|#name?|#num!|\\n|(null)|(blank)||no data|#n/a n/a"
)
MARKS = frozenset(_MARKS_LIST.split("|"))
"""In small letters."""


def is_mark(text: str) -> bool:
    """Whether a field says that there is no value."""
    return text.strip().lower() in MARKS
