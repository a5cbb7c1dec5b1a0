"""Work reports its phases item by item."""

from __future__ import annotations

from dinac_cli.jobs.executor.phase import Phase, watch_items


def test_each_item_is_reported_after_the_work_on_it() -> None:
    phases: list[Phase] = []
    for item in watch_items("ab", phases.append, "reading", 2):
        phases.append(Phase(item))
    assert phases == [
        Phase("reading", 0, 2),
        Phase("a"),
        Phase("reading", 1, 2),
        Phase("b"),
        Phase("reading", 2, 2),
    ]


def test_more_items_than_expected_make_the_total_unknown() -> None:
    phases: list[Phase] = []
    assert list(watch_items("abc", phases.append, "reading", 2)) == ["a", "b", "c"]
    assert [phase.total for phase in phases] == [2, 2, 2, None]
