"""The documents say what is: links lead somewhere, commands exist, tables are complete."""

import re
from pathlib import Path

import pytest

from service.auth import tool
from service.settings import read_settings
from tests.documents import OPERATIONS, ROOT, Page, pages, written

PAGES = pages()
# What was once decided, tried or changed is history: it may name what is no longer there.
LIVING = [
    page
    for page in PAGES
    if page.name not in ("CHANGELOG.md", "docs/log.md")
    and not page.name.startswith("docs/decisions/")
]
PATH = re.compile(
    r"(cellar|models|service|training|tests|benchmarks|examples|deploy|docs|proto)/[\w./*-]*"
)

of_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
of_each_living_page = pytest.mark.parametrize("page", LIVING, ids=lambda page: page.name)


@of_each_page
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page: Page) -> None:
    assert [link for link in page.links() if not leads_somewhere(page, link)] == []


def leads_somewhere(page: Page, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (page.path.parent / name).resolve() if name else page.path
    if not (target.exists() and anchor):
        return target.exists()
    return anchor in Page(target.relative_to(ROOT).as_posix()).anchors()


@of_each_living_page
def test_every_path_in_code_exists(page: Page) -> None:
    paths = [span for span in page.spans() if PATH.fullmatch(span)]
    assert [path for path in paths if not any(ROOT.glob(path.rstrip("/")))] == []


@of_each_page
def test_every_make_target_exists(page: Page) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    code = "\n".join([*page.spans(), *page.blocks()])
    named = set(re.findall(r"(?:^|[\s;&(])make ([a-z][a-z-]*)", code))
    assert sorted(named - targets) == []


@of_each_living_page
def test_every_call_of_the_server_has_flags_that_it_takes(page: Page) -> None:
    for block in page.blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.partition("#")[0].partition(" > ")[0].split()
            if words[:2] == ["cellar-serve", "token"]:
                tool.parser().parse_args(words[2:])  # so does this
            elif words and words[0] == "cellar-serve":
                read_settings(words[1:])  # ends the test's process where one is wrong


def test_the_tables_of_settings_and_metrics_are_what_the_server_says() -> None:
    text = OPERATIONS.read_text("utf-8")
    assert text == written(text), "write them anew: python -m tests.documents"


def test_the_tree_in_the_readme_is_of_folders_and_files_that_exist() -> None:
    (tree,) = [b for b in Page("README.md").blocks() if "proto/cellar/v1/" in b]
    parents: list[Path] = [ROOT]
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        path = parents[indent // 2] / line.split()[0]
        assert path.exists(), line
        parents[indent // 2 + 1 :] = [path]


def test_the_tree_in_the_readme_has_every_room_of_the_engine() -> None:
    engine = ROOT / "service" / "engine"
    rooms = {path.parent.name for path in engine.glob("*/__init__.py")}
    (tree,) = [b for b in Page("README.md").blocks() if "proto/cellar/v1/" in b]
    _, _, inside = tree.partition("\n  engine/")
    named = re.findall(r"^    (\w+)/", inside, re.MULTILINE)
    assert sorted(named) == sorted(rooms)
