"""The table of topics: every page of the package is in it, and links become commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinac_cli.commands import topics
from dinac_cli.commands.topics import (
    PACKAGE,
    TOPICS,
    Topic,
    find_section,
    prepare_page,
    prepare_section,
    read_page,
    read_section,
)


def test_every_page_of_the_package_has_a_topic() -> None:
    pages = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.md")}
    listed = [topic.path for topic in TOPICS.values()]
    assert pages == set(listed)
    assert len(listed) == len(pages)


@pytest.mark.parametrize("topic", list(TOPICS))
def test_a_page_begins_with_a_title_and_says_something(topic: str) -> None:
    title, _, text = prepare_page(topic).partition("\n")
    assert title.startswith("# ")
    assert len(text.split()) >= 5
    assert prepare_page(topic) in read_page(topic) or "dinac man" in prepare_page(topic)


@pytest.mark.parametrize(
    ("heading", "topic", "first", "last"),
    [
        ("masks", "images", "## Masks", "## Diffusion settings"),
        ("Captions", "training", "### Captions", "### Captions in shards"),
        ("report a problem", "troubleshooting", "## Report a problem", None),
    ],
)
def test_a_heading_names_its_section(
    heading: str, topic: str, first: str, last: str | None
) -> None:
    section = find_section(heading)
    assert section is not None
    assert section.topic == topic
    for text in (read_section(section), prepare_section(section)):
        assert text.startswith(f"{first}\n\n")
        assert text.endswith(f"\n\nThis is a section of `dinac man {topic}`.")
        assert last is None or last not in text
    assert find_section("nothing of the kind") is None


def test_links_to_pages_become_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (
        "---\nlicense: mit\n---\n\n# A\n\nSee [models](../models/B.md#get), [this](A.md#below), "
        "[code](../x.py), [web](https://a.b/c) and ![picture](p.png).\n\n---\n\nEnd\n"
    )
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/A.md").write_text(page)
    monkeypatch.setattr(topics, "PACKAGE", tmp_path)
    monkeypatch.setattr(
        topics, "TOPICS", {"a": Topic("jobs/A.md", "a"), "models": Topic("models/B.md", "b")}
    )
    assert read_page("a") == page
    assert prepare_page("a") == (
        "# A\n\nSee models (`dinac man models`), this, code, [web](https://a.b/c) "
        "and ![picture](p.png).\n\n---\n\nEnd\n"
    )
