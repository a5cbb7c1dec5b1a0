"""The origin of a page: what another run may replace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinac_cli.errors import UsageError
from dinac_cli.report.origin import (
    PAGE_START,
    PageOrigin,
    is_page_of,
    is_report,
    read_origin,
    refuse_other_page,
    trace_origin,
)

ORIGIN = PageOrigin(('a & "b"', "c\udcff", "d", "e"), "0123456789abcdef")


def write_page(path: Path, origin: str) -> str:
    path.write_bytes(PAGE_START + b"\n" + origin.encode())
    return str(path)


def test_a_page_holds_its_origin(tmp_path: Path) -> None:
    page = write_page(tmp_path / "page.html", ORIGIN.to_html())
    assert read_origin(page) == ORIGIN
    assert is_page_of(ORIGIN)(page)
    assert not is_page_of(PageOrigin(ORIGIN.names, "f" * 16))(page)
    refuse_other_page(page, ORIGIN)
    with pytest.raises(UsageError, match='compares a & "b" with c\udcff, d and e; choose'):
        refuse_other_page(page, PageOrigin(("a", "b"), ORIGIN.digest))


@pytest.mark.parametrize(
    "content", ["", "null", "[1]", "{&quot;names&quot;: 3}", "{&quot;names&quot;: []}", "[" * 9999]
)
def test_a_page_without_a_readable_origin_is_another_page(tmp_path: Path, content: str) -> None:
    page = write_page(tmp_path / "page.html", f'<meta name="dinac-origin" content="{content}">')
    assert read_origin(page) is None
    with pytest.raises(UsageError, match="is a page of other folders or options"):
        refuse_other_page(page, ORIGIN)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_no_page(tmp_path: Path) -> None:
    """Opening it would wait for a writer."""
    os.mkfifo(tmp_path / "page.html")
    assert not is_report(str(tmp_path / "page.html"))


def test_an_origin_without_names_is_described(tmp_path: Path) -> None:
    page = write_page(tmp_path / "page.html", PageOrigin((), "0").to_html())
    with pytest.raises(UsageError, match="is a page of other folders or options"):
        refuse_other_page(page, ORIGIN)


def test_the_digest_depends_on_the_folders_and_their_order(tmp_path: Path) -> None:
    def trace(*groups: tuple[str, ...], settings: tuple[str, ...] = ("",)) -> str:
        paths = [[str(tmp_path / name) for name in group] for group in groups]
        return trace_origin(("a", "b"), paths, settings).digest

    digests = [
        trace(("a",), ("b", "c"), ()),
        trace(("a",), ("c", "b"), ()),
        trace(("a",), ("b",), ("c",)),
        trace(("a",), ("b", "c"), (), settings=("resize=64",)),
    ]
    assert len(set(digests)) == len(digests)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert trace(("link/.",), ("b", "c"), ()) == digests[0]
