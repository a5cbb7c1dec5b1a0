"""Links of the pages lead somewhere, on a code host and in an installed package."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from .pages import PACKAGE, PAGES, README, Page, find_anchor, read_page

LINK = re.compile(r"\]\(([^)\s]+)\)")
STANDARDS = "https://www.rfc-editor.org/"


def list_links() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for target in LINK.findall(page.prose):
            yield page.name, target


@pytest.mark.parametrize(("name", "link"), list(list_links()))
def test_link_leads_to_a_file_and_a_heading(name: str, link: str) -> None:
    if link.startswith(STANDARDS):
        return
    page = read_page(name)
    path, _, anchor = link.partition("#")
    target = (page.path.parent / path).resolve() if path else page.path
    assert target.is_file(), "no such file"
    if page is not README and page.name != README.name:
        assert PACKAGE in target.parents, "leaves the package, and so breaks once it is installed"
    if anchor:
        headings = Page(target.name, target.read_text(encoding="utf-8")).headings
        assert anchor in map(find_anchor, headings), "no such heading"


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_every_page_is_linked_from_the_readme(page: Page) -> None:
    if page.name.endswith("CREDITS.md"):
        return  # linked from the card
    assert f"]({page.name})" in README.text


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_table_of_contents_is_complete(page: Page) -> None:
    """A page that begins with a list of its sections lists all of them, in order."""
    sections = re.findall(r"^## (.+)$", page.prose, re.MULTILINE)
    listed = re.findall(r"^- \[(.+)\]\(#(.+)\)$", page.prose, re.MULTILINE)
    if listed:
        assert listed == [(section, find_anchor(section)) for section in sections]
    else:
        assert len(sections) < 8, "a page of this length needs a list of its sections"
