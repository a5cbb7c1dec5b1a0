"""The pages of the manual: Markdown files in the package, each under a topic."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parent.parent

_FRONT_MATTER = re.compile(r"\A---\n.*?^---\n+", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"(#+) (.+)")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:)([^)\s]+)\)")
"""Matches a link that is no image and has no scheme such as `https:`."""


@dataclass(frozen=True)
class Topic:
    """A page. `path` is relative to the package; `summary` says in a few words what it covers."""

    path: str
    summary: str


TOPICS = {
    "format": Topic("container/FORMAT.md", "the bytes of a .dinac record"),
    "models": Topic("models/MODELS.md", "which models there are, and how to get and choose them"),
    "nano": Topic("weights/nano/CARD.md", "the embedded model"),
    "credits": Topic("weights/nano/CREDITS.md", "the photographs that nano was trained on"),
    "figures": Topic("bench/FIGURES.md", "measured quality and speed, with the commands"),
    "running": Topic("jobs/RUNNING.md", "large runs: resuming, sharding, failures, signals"),
    "places": Topic("storage/PLACES.md", "buckets, web servers and credentials"),
    "images": Topic("images/IMAGES.md", "which images dinac reads and writes, and how"),
    "training": Topic("training/TRAINING.md", "training a model on your own images"),
    "report": Topic("report/REPORT.md", "the page that compares reconstructions"),
    "metrics": Topic(
        "jobs/METRICS.md", "PSNR, SSIM, MS-SSIM, LPIPS and rFID: definitions, weights"
    ),
    "compare": Topic("compare/COMPARE.md", "models measured on your images, and their model card"),
    "features": Topic("jobs/FEATURES.md", "class tokens, posteriors and similar images"),
    "preview": Topic("jobs/PREVIEW.md", "latents as pictures, and the maps of their colours"),
    "python": Topic("PYTHON.md", "dinac from Python"),
    "troubleshooting": Topic("TROUBLESHOOTING.md", "error messages and what to do"),
    "architecture": Topic("ARCHITECTURE.md", "how the code is organised"),
    "changes": Topic("CHANGES.md", "what changed in each version"),
}
"""Name of a topic → its page."""


def read_page(topic: str) -> str:
    """Returns the Markdown source of a page. `topic` is a key of `TOPICS`."""
    return (PACKAGE / TOPICS[topic].path).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Section:
    """A section of the page of a topic: from the line `first`, counted from 0, to before `end`.

    The lines are those of the page without its front matter.
    """

    topic: str
    first: int
    end: int

    def cut(self, page: str) -> str:
        """Returns the section of the page, and where the page is."""
        lines = page.splitlines()[self.first : self.end]
        text = "\n".join(lines).rstrip()
        return f"{text}\n\nThis is a section of `dinac man {self.topic}`."


def list_headings() -> Iterator[str]:
    """Yields the headings of the sections of all pages, in lower case."""
    for topic in TOPICS:
        for _, depth, title in _list_headings(_strip(read_page(topic))):
            if depth > 1:
                yield title.casefold()


def find_section(heading: str) -> Section | None:
    """Returns the first section with this heading, in any case; None if no page has it."""
    for topic in TOPICS:
        level = first = 0
        for number, depth, title in _list_headings(page := _strip(read_page(topic))):
            if level and depth <= level:
                return Section(topic, first, number)
            if not level and depth > 1 and title.casefold() == heading.casefold():
                level, first = depth, number
        if level:
            return Section(topic, first, len(page.splitlines()))
    return None


def _list_headings(page: str) -> Iterator[tuple[int, int, str]]:
    """Yields the number of the line, the level and the text of each heading of a page."""
    is_code = False
    for number, line in enumerate(page.splitlines()):
        is_code ^= line.startswith("```")
        if not is_code and (match := _HEADING.match(line)):
            yield number, len(match[1]), match[2].replace("`", "")


def _strip(page: str) -> str:
    """Returns a page without its front matter."""
    return _FRONT_MATTER.sub("", page)


def read_section(section: Section) -> str:
    """Returns the Markdown source of a section."""
    return section.cut(_strip(read_page(section.topic)))


def prepare_section(section: Section) -> str:
    """Returns a section for a terminal; see `prepare_page`."""
    return section.cut(prepare_page(section.topic))


def prepare_page(topic: str) -> str:
    """Returns a page for a terminal: without front matter, and without links to files.

    A link to another page becomes the command that shows the page. Of any other relative link,
    only the text is kept.
    """
    folder = posixpath.dirname(TOPICS[topic].path)
    pages = {page.path: name for name, page in TOPICS.items()}

    def replace(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2].partition("#")[0]))
        name = pages.get(target)
        return link[1] if name in (None, topic) else f"{link[1]} (`dinac man {name}`)"

    return _LINK.sub(replace, _strip(read_page(topic)))
