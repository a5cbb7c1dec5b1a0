"""The table of topics: every page of the package is in it, and links become commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinac_cli.commands import topics
from dinac_cli.commands.topics import PACKAGE, TOPICS, Topic, prepare_page, read_page


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
