"""Listing inputs: once, in order, with names that collide, and in little memory."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from dinac_cli.errors import UsageError
from dinac_cli.jobs import listing
from dinac_cli.jobs.executor.phase import Phase
from dinac_cli.jobs.listing import LISTED_FIRST, SCANNING, Listing
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.naming import name_latents

PATIENCE_SECONDS = 60.0


def make_inputs(count: int, *, first: int = 0) -> Iterator[Input]:
    for number in range(first, first + count):
        yield Input(f"/in/{number}.jpg", f"{number}.jpg")


def list_all(found: Listing) -> list[Input]:
    found.list_first()
    return list(found)


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, LISTED_FIRST, LISTED_FIRST + 1, 25_000])
def test_every_input_is_listed_in_order(count: int) -> None:
    found = Listing(make_inputs(count), name_latents)
    found.list_first()
    assert found.total == (count if count < LISTED_FIRST else None)
    assert list(found) == list(make_inputs(count))
    assert found.total == count


def test_inputs_of_one_search_share_it() -> None:
    searches = [object(), object(), None]
    inputs = [Input(str(n), str(n), None, searches[n // 2]) for n in range(6)]  # type: ignore[arg-type]
    listed = list_all(Listing(iter(inputs)))
    assert [entry.search for entry in listed] == [searches[n // 2] for n in range(6)]


def test_the_scan_is_a_phase() -> None:
    phases: list[Phase] = []
    Listing(make_inputs(3)).list_first(phases.append)
    assert [(phase.name, phase.done) for phase in phases] == [(SCANNING, n) for n in range(4)]


class TestCollisions:
    """A collision among the first inputs refuses the run; a later one fails the second input."""

    def test_the_error_names_both_inputs_and_the_output(self) -> None:
        inputs = [Input("1/a.jpg", "a.jpg"), Input("b.jpg", "b.jpg"), Input("2/a.jpg", "a.jpg")]
        with pytest.raises(UsageError) as caught:
            Listing(inputs, name_latents).list_first()
        assert str(caught.value) == (
            "1/a.jpg and 2/a.jpg would both be written to a.jpg.dinac; "
            "give them different OUTs or rename one"
        )

    def test_the_first_input_may_be_far_away(self) -> None:
        inputs = [*make_inputs(3000), Input("/other/7.jpg", "7.jpg")]
        with pytest.raises(UsageError, match=r"^/in/7.jpg and /other/7.jpg would"):
            Listing(inputs, name_latents).list_first()

    def test_case_counts_unless_it_is_folded(self) -> None:
        inputs = [Input("a", "a"), Input("A", "A")]
        assert len(list_all(Listing(inputs, name_latents))) == 2
        with pytest.raises(UsageError, match=r"^a and A would"):
            Listing(inputs, name_latents, fold_case=True).list_first()

    def test_an_input_that_fails_anyway_collides_with_none(self) -> None:
        inputs = [Input("x", "a", "missing"), Input("y", "a", "missing"), Input("z", "a")]
        assert list_all(Listing(inputs, name_latents)) == inputs

    def test_without_outputs_equal_names_are_fine(self) -> None:
        inputs = [Input("x", "a"), Input("y", "a")]
        assert list_all(Listing(inputs)) == inputs

    def test_a_later_collision_fails_the_second_input(self) -> None:
        inputs = [*make_inputs(LISTED_FIRST + 10), Input("/other/5.jpg", "5.jpg")]
        *others, last = list_all(Listing(inputs, name_latents))
        assert others == inputs[:-1]
        assert last.path == "/other/5.jpg"
        assert last.problem == (
            "another input of this run is also written to 5.jpg.dinac; "
            "give them different OUTs or rename one"
        )


def test_inputs_are_taken_before_the_list_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "LISTED_FIRST", 1000)
    fed = threading.Event()

    def inputs() -> Iterator[Input]:
        yield from make_inputs(1500)
        assert fed.wait(PATIENCE_SECONDS)
        yield from make_inputs(10, first=1500)

    found = Listing(inputs())
    found.list_first()
    taken = iter(found)
    assert [next(taken) for _ in range(1500)] == list(make_inputs(1500))
    assert found.total is None
    fed.set()
    assert list(taken) == list(make_inputs(10, first=1500))
    assert found.total == 1510


def test_the_list_is_complete_before_the_inputs_are_taken() -> None:
    """So the total is known early, although the run is slow."""
    found = Listing(make_inputs(LISTED_FIRST + 2000))
    found.list_first()
    taken = iter(found)
    next(taken)
    wait_for(lambda: found.total is not None)
    assert found.total == LISTED_FIRST + 2000
    assert sum(1 for _ in taken) == LISTED_FIRST + 1999


def test_an_error_comes_after_the_inputs_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "LISTED_FIRST", 500)

    def inputs() -> Iterator[Input]:
        yield from make_inputs(1000)
        raise UsageError("the list holds NUL characters")

    found = Listing(inputs())
    found.list_first()
    taken = iter(found)
    assert len([next(taken) for _ in range(1000)]) == 1000
    with pytest.raises(UsageError, match="NUL"):
        next(taken)


def test_a_closed_iteration_ends_the_listing() -> None:
    before = threading.active_count()
    found = Listing(make_inputs(10**9))
    found.list_first()
    taken = iter(found)
    next(taken)
    taken.close()  # type: ignore[attr-defined]
    wait_for(lambda: threading.active_count() == before)


def test_listed_inputs_take_few_bytes() -> None:
    tracemalloc.start()
    try:
        found = Listing(make_inputs(LISTED_FIRST - 1))
        found.list_first()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 20 * LISTED_FIRST


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
