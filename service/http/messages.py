"""What pages are asked, and what they answer. Knows nothing of connections."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, without what it may bring in its body: no page takes one.

    Attributes:
        method: such as GET.
        path: without the query.
        query: what follows the question mark, or nothing.
        headers: by their names in lower case; of those that come twice, all, with commas.
        has_body: whether it brings one.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    has_body: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer.

    Attributes:
        status: such as 200.
        headers: beside those of every answer.
        is_last: whether the connection ends with it.
    """

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    is_last: bool = False


Page = Callable[[Request], Response]


def text(
    status: int, words: str, *, headers: tuple[tuple[str, str], ...] = (), is_last: bool = False
) -> Response:
    """An answer of a line."""
    return Response(status=status, body=f"{words}\n".encode(), headers=headers, is_last=is_last)
