"""The pages of the manual: Markdown files in the package, each under a topic."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parent.parent

_FRONT_MATTER = re.compile(r"\A---\n.*?^---\n+", re.DOTALL | re.MULTILINE)
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

    return _LINK.sub(replace, _FRONT_MATTER.sub("", read_page(topic)))
