"""The byte budget never blocks for ever; reading ahead keeps the order and the bounds."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from dinac_cli.jobs.executor import budget as budget_module
from dinac_cli.jobs.executor.budget import ByteBudget, map_bounded, start_ahead
from dinac_cli.jobs.executor.control import RunControl

from .hand_made import Counted

PATIENCE_SECONDS = 120.0
MOMENT_SECONDS = 0.05


def start(work: object, *arguments: int) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def is_blocked(thread: threading.Thread) -> bool:
    thread.join(MOMENT_SECONDS)
    return thread.is_alive()


def ends(thread: threading.Thread) -> bool:
    """Whether a thread ends in time."""
    thread.join(PATIENCE_SECONDS)
    return not thread.is_alive()


class TestByteBudget:
    def test_the_oldest_gets_any_size(self) -> None:
        budget = ByteBudget(10)
        budget.take(0, 10**12)
        budget.give_back(0)
        budget.take(1, 10**12)

    def test_a_later_one_waits_for_room(self) -> None:
        budget = ByteBudget(10)
        budget.take(0, 4)
        budget.take(1, 6)
        third = start(budget.take, 2, 1)
        assert is_blocked(third)
        budget.give_back(0)
        assert ends(third)

    def test_a_smaller_share_than_before_makes_room(self) -> None:
        budget = ByteBudget(10)
        budget.take(0, 1)
        budget.take(1, 9)
        waiting = start(budget.take, 2, 5)
        assert is_blocked(waiting)
        budget.take(1, 3)
        assert ends(waiting)
        budget.give_back(1)
        budget.give_back(0)
        assert not is_blocked(start(budget.take, 3, 5))

    def test_a_waiting_share_that_becomes_the_oldest_is_granted(self) -> None:
        budget = ByteBudget(10)
        budget.take(0, 4)
        large = start(budget.take, 1, 1000)
        assert is_blocked(large)
        budget.give_back(0)
        assert ends(large)

    def test_the_oldest_need_not_take_a_share_to_make_way(self) -> None:
        budget = ByteBudget(10)
        large = start(budget.take, 1, 1000)
        assert is_blocked(large)
        budget.give_back(0)  # number 0 failed before it knew its size
        assert ends(large)

    def test_the_end_of_a_run_releases_every_waiting_reader(self) -> None:
        with ByteBudget(10) as budget:
            budget.take(0, 10)
            waiting = [start(budget.take, number, 5) for number in range(1, 5)]
            assert all(is_blocked(thread) for thread in waiting)
        for thread in waiting:
            assert ends(thread)

    @pytest.mark.parametrize("seed", range(3))
    def test_it_never_stalls_and_exceeds_the_limit_by_one_share(self, seed: int) -> None:
        limit, largest, rng = 100, 150, random.Random(seed)
        sizes = [rng.choice([0, 1, 30, 90, largest]) for _ in range(200)]
        held, peak, lock = 0, 0, threading.Lock()

        with ThreadPoolExecutor(8) as pool, ByteBudget(limit) as budget:

            def work(number: int) -> int:
                nonlocal held, peak
                if sizes[number]:
                    budget.take(number, sizes[number])
                    with lock:
                        held += sizes[number]
                        peak = max(peak, held)
                return number

            for expected, future in enumerate(start_ahead(pool, work, range(len(sizes)), 20)):
                number = future.result()
                assert number == expected
                with lock:
                    held -= sizes[number]
                budget.give_back(number)
        assert peak <= limit + largest


class TestStartAhead:
    def test_results_keep_the_order_of_the_items(self) -> None:
        def work(number: int) -> int:
            time.sleep(0.002 * (number % 3))
            return number * number

        with ThreadPoolExecutor(4) as pool:
            squares = [future.result() for future in start_ahead(pool, work, range(30), 7)]
        assert squares == [n * n for n in range(30)]

    @pytest.mark.parametrize("window", [1, 2, 5])
    def test_at_most_a_window_of_items_is_taken(self, window: int) -> None:
        items = Counted(range(20))
        with ThreadPoolExecutor(2) as pool:
            for given, future in enumerate(start_ahead(pool, str, items, window)):
                assert future.result() == str(given)
                assert items.taken <= given + window
        assert items.taken == 20

    def test_no_items_give_no_futures(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            assert list(start_ahead(pool, str, range(0), 3)) == []

    def test_an_error_is_raised_in_its_turn(self) -> None:
        def work(number: int) -> float:
            return 1 / (3 - number)

        with ThreadPoolExecutor(2) as pool:
            futures = start_ahead(pool, work, range(9), 4)
            assert [next(futures).result() for _ in range(3)] == [1 / 3, 1 / 2, 1]
            with pytest.raises(ZeroDivisionError):
                next(futures).result()

    def test_closing_cancels_items_that_have_not_started(self) -> None:
        started: list[int] = []
        go = threading.Event()

        def work(number: int) -> int:
            started.append(number)
            if number:
                go.wait(PATIENCE_SECONDS)
            return number

        with ThreadPoolExecutor(1) as pool:
            futures = start_ahead(pool, work, range(100), 10)
            next(futures).result()
            futures.close()
            go.set()
        assert len(started) <= 2

    def test_closing_never_starts_an_item_after_a_cancelled_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The thread becomes free while the closing run cancels what has not started."""
        go = threading.Event()
        started: list[int] = []

        def work(number: int) -> int:
            started.append(number)
            if number == 1:
                go.wait(PATIENCE_SECONDS)
            return number

        real_cancel = Future.cancel

        def cancel(future: Future[int]) -> bool:
            is_cancelled = real_cancel(future)
            if is_cancelled:
                go.set()
                time.sleep(MOMENT_SECONDS)
            return is_cancelled

        with ThreadPoolExecutor(1) as pool:
            futures = start_ahead(pool, work, range(10), 4)
            next(futures).result()
            monkeypatch.setattr(Future, "cancel", cancel)
            futures.close()
        assert started == list(range(len(started)))


class TestMapBounded:
    """The readers may hold `LIMIT` bytes together, and the oldest one any size beyond it."""

    LIMIT = 13

    @pytest.fixture(autouse=True)
    def small_budget(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(budget_module, "READ_BYTES", self.LIMIT)

    @pytest.mark.parametrize("workers", [1, 4])
    def test_results_have_the_order_of_the_entries(self, workers: int) -> None:
        def work(number: int, hold: Callable[[int], None]) -> int:
            hold(number % 5)
            time.sleep(0.002 * (-number % 4))
            return number * number

        results = map_bounded(range(30), work, RunControl(workers=workers))
        assert list(results) == [n * n for n in range(30)]

    def test_no_entries_give_no_results(self) -> None:
        assert list(map_bounded([], lambda entry, hold: entry, RunControl())) == []

    def test_results_ahead_of_the_caller_stay_within_the_limit_and_one_share(self) -> None:
        lock, held, most, share = threading.Lock(), 0, 0, 6

        def work(number: int, hold: Callable[[int], None]) -> int:
            nonlocal held, most
            hold(share)
            with lock:
                held += share
                most = max(most, held)
            return number

        for expected, number in enumerate(map_bounded(range(12), work, RunControl(workers=4))):
            assert number == expected
            if number == 0:
                end = time.monotonic() + PATIENCE_SECONDS
                while most < 2 * share and time.monotonic() < end:
                    time.sleep(0.001)  # in which the readers get ahead
            with lock:
                held -= share
        assert held == 0
        in_callers_hands = share
        assert 2 * share <= most <= self.LIMIT + share + in_callers_hands

    def test_an_entry_larger_than_the_limit_passes(self) -> None:
        def work(number: int, hold: Callable[[int], None]) -> int:
            hold(100 * self.LIMIT)
            return number

        assert list(map_bounded(range(9), work, RunControl(workers=4))) == list(range(9))

    def test_at_most_two_entries_a_worker_are_taken_ahead(self) -> None:
        entries = Counted(range(50))
        results = map_bounded(entries, lambda number, hold: number, RunControl(workers=3))
        for number in results:
            assert entries.taken <= number + 2 * 3
        assert entries.taken == 50

    def test_a_stop_request_finishes_the_entries_in_flight(self) -> None:
        started: list[int] = []

        def work(number: int, hold: Callable[[int], None]) -> int:
            started.append(number)
            return number

        control = RunControl(workers=2)
        results = map_bounded(range(1000), work, control)
        finished = [next(results)]
        control.stop.set()
        finished += results
        assert finished == list(range(len(finished)))
        assert sorted(started) == finished
        assert len(finished) <= 2 * 2

    def test_closing_releases_waiting_readers_and_ends_their_threads(self) -> None:
        before = set(threading.enumerate())
        started: list[int] = []

        def work(number: int, hold: Callable[[int], None]) -> int:
            started.append(number)
            hold(100 * self.LIMIT)
            return number

        results = map_bounded(range(1000), work, RunControl(workers=4))
        assert next(results) == 0
        closing = start(results.close)
        assert ends(closing)
        assert set(threading.enumerate()) <= before
        assert len(started) <= 1 + 2 * 4

    def test_an_error_of_an_entry_is_raised_in_its_turn(self) -> None:
        def work(number: int, hold: Callable[[int], None]) -> float:
            return 1 / (2 - number)

        results = map_bounded(range(9), work, RunControl(workers=2))
        assert [next(results), next(results)] == [1 / 2, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)
