"""Pages for people: one HTML file each, with everything in it and nothing asked of a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from pydantic import BaseModel
from rich.table import Table
from rich.text import Text

from training.reports.glossary import Glossary
from training.reports.plots import PIXELS_PER_IN, data_uri
from training.reports.sections import Grid, Section
from training.settings import flag_of

_pages = Environment(
    loader=PackageLoader("training.reports", "pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A figure that is drawn."""

    source: str
    caption: str
    least_px: int
    """It is shown no smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A section with its figures drawn."""

    title: str
    text: str
    images: tuple[Image, ...]
    table: Grid | None
    html: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting for people."""

    flag: str
    value: str
    meaning: str


def render(template: str, **content: object) -> str:
    """Fill a template of `training/reports/pages`; what is not marked as safe there is escaped.

    What it passes through the filter ``terms`` has the terms of the glossary linked.
    """
    return _pages.get_template(template).render(glossary=Glossary(), **content)


def part_of(section: Section) -> Part:
    """A section as the templates take it."""
    return Part(
        title=section.title,
        text=section.text,
        images=tuple(
            Image(
                source=data_uri(picture.figure),
                caption=picture.caption,
                least_px=round(PIXELS_PER_IN * picture.figure.get_figwidth()),
            )
            for picture in section.pictures
        ),
        table=section.table,
        html=section.html,
    )


def grid_of(table: Table) -> Grid:
    """A terminal's table as text."""
    columns = [[_plain(cell) for cell in column.cells] for column in table.columns]
    bold = (n for n, row in enumerate(table.rows) if "bold" in str(row.style or ""))
    return Grid(
        title=_plain(table.title),
        headers=tuple(_plain(column.header) for column in table.columns)
        if table.show_header
        else (),
        rows=tuple(zip(*columns, strict=True)),
        is_number=tuple(column.justify == "right" for column in table.columns),
        bold=frozenset(bold),
    )


def settings_of(config: BaseModel, values: Mapping[str, object]) -> list[Setting]:
    """Settings that were given or have a default, with what ``--help`` says of each."""
    fields = type(config).model_fields
    return [
        Setting(
            flag=flag_of(name),
            value=_value(value) + (" s" if name.endswith("_s") else ""),
            meaning=(fields[name].description or "") if name in fields else "",
        )
        for name, value in values.items()
        if name != "task" and value not in (None, [], ())
    ]


def caption_of(table: Table) -> str:
    """What stands under a terminal's table: the verdict."""
    return _plain(table.caption)


def _plain(cell: object) -> str:
    if isinstance(cell, Text):
        return cell.plain
    return "" if cell is None else Text.from_markup(str(cell)).plain


@pass_context
def _terms(context: Context, text: str) -> Markup:
    linked = cast(Glossary, context["glossary"]).link(text)
    return Markup(str(linked).replace(" %", "\N{NO-BREAK SPACE}%"))


_pages.filters["terms"] = _terms


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value))
    return str(value)
