"""The pages: the README, and every Markdown file of the package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dinac_cli"

_FENCE = re.compile(r"^ *```(\w*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `section` is the heading above it."""

    section: str
    language: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines, each with its end."""
        return "".join(f"{line}\n" for line in self.lines)


@dataclass(frozen=True)
class Page:
    """A Markdown file of the project. `name` is its path below the root, such as `README.md`."""

    name: str
    text: str

    @property
    def path(self) -> Path:
        """The file."""
        return ROOT / self.name

    @property
    def prose(self) -> str:
        """The page without its fenced blocks."""
        lines, inside = [], False
        for line in self.text.splitlines():
            if _FENCE.match(line):
                inside = not inside
            elif not inside:
                lines.append(line)
        return "\n".join(lines)

    @property
    def headings(self) -> list[str]:
        """The headings of all levels, in order."""
        return re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)

    def list_blocks(self, *languages: str) -> Iterator[Block]:
        """Lists the fenced blocks in these languages."""
        section, language, lines = "", None, list[str]()
        for line in self.text.splitlines():
            fence = _FENCE.match(line)
            if fence is not None and language is None:
                language, lines = fence[1], []
            elif fence is not None:
                if language in languages:
                    yield Block(section, str(language), tuple(lines))
                language = None
            elif language is not None:
                lines.append(line)
            elif line.startswith("#"):
                section = line.lstrip("# ")


def read_page(name: str) -> Page:
    """Reads a page by its path below the root."""
    return Page(name, (ROOT / name).read_text(encoding="utf-8"))


def list_pages() -> list[Page]:
    """Reads all pages, the README first."""
    found = sorted(path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.md"))
    return [read_page(name) for name in ("README.md", *found)]


PAGES = list_pages()
README = PAGES[0]


def find_anchor(heading: str) -> str:
    """The anchor that code hosts give a heading: `Add a metric` → `add-a-metric`."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return kept.replace(" ", "-")
