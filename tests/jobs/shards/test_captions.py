"""Captions beside loose images, as a sorted listing shows them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dinac_cli.jobs.shards.captions import match_captions
from dinac_cli.storage.store import Stat


def match(*names: str) -> dict[str, bool]:
    """Returns whether each file has a caption, in the order of the result."""
    files = (Stat(name, 1, "v") for name in sorted(names))
    return {file.name: has_caption for file, has_caption in match_captions(files)}


@pytest.mark.parametrize(
    ("names", "captioned"),
    [
        ((), set()),
        (("a.jpg", "b.jpg"), set()),
        (("a.jpg", "a.txt", "b.jpg"), {"a.jpg"}),
        (("a.json", "a.png", "b.png"), {"a.png"}),
        (("a.JPG", "a.TXT", "b.JPG", "b.Json"), {"a.JPG", "b.JPG"}),
        (("a.jpg", "a.txt", "b/a.jpg", "c/a.txt"), {"a.jpg"}),
        (("a.b.jpg", "a.jpg", "a.txt"), {"a.jpg"}),
        (("a.b.jpg", "a.b.txt", "a.jpg", "a.png"), {"a.b.jpg"}),
        (("a.jpg", "a.k.jpg", "a.k.txt", "a.png", "a.txt"), {"a.jpg", "a.k.jpg", "a.png"}),
        (("a-1.jpg", "a.jpg", "a1.jpg", "a.txt"), {"a.jpg"}),
        (("frame.1.png", "frame.2.json", "frame.2.png", "frame.3.png"), {"frame.2.png"}),
        (("z.jpg", "z.txt"), {"z.jpg"}),
    ],
)
def test_captions_belong_to_the_names_before_their_last_dot(
    names: tuple[str, ...], captioned: set[str]
) -> None:
    found = match(*names)
    assert list(found) == sorted(names)
    images = {name for name in found if not name.lower().endswith((".txt", ".json"))}
    assert {name for name in images if found[name]} == captioned


def test_files_are_passed_on_as_soon_as_their_captions_are_known() -> None:
    """A listing may be long."""
    read = 0

    def list_files() -> Iterator[Stat]:
        nonlocal read
        for number in range(1000):
            read += 1
            yield Stat(f"frame.{number:04}.png", 1, "v")

    ahead = [read - given for given, _ in enumerate(match_captions(list_files()), 1)]
    assert max(ahead) == 1
