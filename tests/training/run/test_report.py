"""The page of a run: all in one file, and nothing from the data is markup."""

import base64
import random
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from rich.table import Table

from training.families.parsing import parse_config
from training.reports import page
from training.reports.plots import Picture, data_uri
from training.reports.sections import Section
from training.run.fit import train

NAME = "<img src=x onerror=alert(1)> [red]$x$.txt"


class Reader(HTMLParser):
    """Collects what a page refers to, and checks that its tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def words(html: str) -> str:
    """A page without its markup."""
    return re.sub(r"<[^>]+>", "", html)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    dice = random.Random(0)
    body = "".join(dice.choices("ab<>&\"' \n", k=1500))
    (folder / NAME).write_bytes(body.encode() + b"\r\n")
    run = train(
        parse_config(
            {
                "task": "char",
                "text": [folder / NAME],
                "hidden": 48,
                "embedding": 8,
                "batch": 8,
                "window": 16,
                "steps": 120,
                "learning_rate": 0.02,
                "device": "cpu",
                "models": folder / "models",
                "runs": folder / "runs",
            }
        )
    )
    return (run.folder / "report.html").read_text(encoding="utf-8")


def test_page_stands_alone(report: str) -> None:
    found = read(report)
    assert "script" not in found.seen
    assert len(found.references) >= 2
    inside = ("data:image/", "#term-")
    assert all(value.startswith(inside) for value in found.references)
    assert not re.search(r"https?://|url\(|@import", report)
    assert len(report.encode()) < 2_000_000


def test_page_says_what_was_done_and_how_it_went(report: str) -> None:
    for wanted in (
        "CR LF became LF",
        "cold256: windows of 256",
        "exported ONNX differs",
        "does NOT beat counting single characters",
        "Overfitting set in: validation was best",
        "What memory buys",
        "cellar-train char",
        "learning rate",
        "SHA-256",
    ):
        assert wanted in words(report)
    assert "&lt;img src=x onerror=alert(1)&gt; [red]$x$.txt" in report


def test_terms_that_are_linked_are_told_and_no_others(report: str) -> None:
    linked = set(re.findall(r'href="#(term-[^"]+)"', report))
    told = re.findall(r'<dt id="(term-[^"]+)">', report)
    assert sorted(linked) == sorted(told)
    assert {"term-nats", "term-cold256", "term-gradient-norm", "term-overfitting"} <= linked
    assert not {"term-mase", "term-recall"} & linked


def test_settings_say_what_they_are(report: str) -> None:
    (row,) = re.findall(r"<tr><th scope=.row.><code>--clip</code>.*?</tr>", report)
    assert words(row) == "--clip1gradient norm above which gradients are scaled"


def test_overfitting_is_told_with_the_weights_that_were_kept(report: str) -> None:
    pattern = r"best at step (\d+) of 120 and ended at ([\d.]+); .* step (\d+) were"
    told = re.search(pattern, words(report))
    assert told is not None, "random text can only be learnt by heart"
    assert int(told[1]) == int(told[3]) < 120


def test_sections_of_a_task_are_laid_out() -> None:
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4])
    axes.set_title("Close ($) of $ACME 株")
    picture = Picture(figure=figure, caption="close")
    part = page.part_of(Section(title="T", text="x < y", pictures=(picture,), html="<p>ready</p>"))
    (image,) = part.images
    kind, data = image.source.split(",", 1)
    assert kind == "data:image/svg+xml;base64"
    drawing = base64.b64decode(data)
    assert ElementTree.fromstring(drawing).tag.endswith("svg")
    assert "Close ($) of $ACME 株" in drawing.decode()


def test_large_drawings_become_pixels() -> None:
    figure = Figure(figsize=(3, 2))
    figure.subplots().scatter(range(6000), range(6000))
    image = data_uri(figure)
    assert image.startswith("data:image/png;base64,")
    assert len(image) < 400_000


def test_tables_of_the_terminal_keep_titles_and_alignment() -> None:
    table = Table(title="[bold]title[/bold]", caption="said")
    table.add_column("name")
    table.add_column("figure", justify="right")
    table.add_row("[dim]a[/dim]", "1")
    table.add_row("b", "2", style="bold")
    grid = page.grid_of(table)
    assert (grid.title, page.caption_of(table)) == ("title", "said")
    assert grid.headers == ("name", "figure")
    assert grid.rows == (("a", "1"), ("b", "2"))
    assert grid.is_number == (False, True)
    assert grid.bold == {1}
