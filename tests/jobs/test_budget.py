"""The byte budget never blocks for ever, reading ahead keeps order and bounds."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from dinac_cli.jobs.executor.budget import ByteBudget, read_ahead, read_within
from dinac_cli.jobs.executor.control import StageClock, StopRequest, until_stopped

PATIENCE_SECONDS = 10.0
MOMENT_SECONDS = 0.05


def start(work: object, *arguments: int) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def is_blocked(thread: threading.Thread) -> bool:
    thread.join(MOMENT_SECONDS)
    return thread.is_alive()


class TestByteBudget:
    def test_oldest_is_admitted_whatever_its_size(self) -> None:
        budget = ByteBudget(10)
        budget.take(0, 10**12)
        budget.give_back(0)
        budget.take(1, 10**12)

    def test_later_ones_wait_for_room(self) -> None:
        budget = ByteBudget(10)
        budget.take(0, 4)
        budget.take(1, 6)
        third = start(budget.take, 2, 1)
        assert is_blocked(third)
        budget.give_back(0)
        third.join(PATIENCE_SECONDS)
        assert not third.is_alive()

    def test_one_that_holds_less_than_before_makes_room(self) -> None:
        budget = ByteBudget(10)
        budget.take(0, 1)
        budget.take(1, 9)
        waiting = start(budget.take, 2, 5)
        assert is_blocked(waiting)
        budget.take(1, 3)
        waiting.join(PATIENCE_SECONDS)
        assert not waiting.is_alive()
        budget.give_back(1)
        budget.give_back(0)
        assert not is_blocked(start(budget.take, 3, 5))

    def test_one_that_becomes_the_oldest_is_admitted(self) -> None:
        budget = ByteBudget(10)
        budget.take(0, 4)
        large = start(budget.take, 1, 1000)
        assert is_blocked(large)
        budget.give_back(0)
        large.join(PATIENCE_SECONDS)
        assert not large.is_alive()

    def test_one_that_never_took_anything_makes_way(self) -> None:
        budget = ByteBudget(10)
        large = start(budget.take, 1, 1000)
        assert is_blocked(large)
        budget.give_back(0)  # number 0 failed before it knew its size
        large.join(PATIENCE_SECONDS)
        assert not large.is_alive()

    def test_end_of_a_run_lets_everybody_through(self) -> None:
        with ByteBudget(10) as budget:
            budget.take(0, 10)
            waiting = [start(budget.take, number, 5) for number in range(1, 5)]
            assert all(is_blocked(thread) for thread in waiting)
        for thread in waiting:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()

    @pytest.mark.parametrize("seed", range(3))
    def test_never_stands_still_and_overshoots_by_one_share(self, seed: int) -> None:
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

            for expected, number in enumerate(read_ahead(pool, work, range(len(sizes)), 20)):
                assert number == expected
                with lock:
                    held -= sizes[number]
                budget.give_back(number)
        assert peak <= limit + largest


class TestReadAhead:
    def test_order_is_that_of_the_items(self) -> None:
        def work(number: int) -> int:
            time.sleep(0.002 * (number % 3))
            return number * number

        with ThreadPoolExecutor(4) as pool:
            assert list(read_ahead(pool, work, range(30), 7)) == [n * n for n in range(30)]

    @pytest.mark.parametrize("window", [1, 2, 5])
    def test_no_more_are_taken_than_the_window(self, window: int) -> None:
        taken = 0

        def items() -> Iterator[int]:
            nonlocal taken
            for number in range(20):
                taken += 1
                yield number

        with ThreadPoolExecutor(2) as pool:
            for given, _ in enumerate(read_ahead(pool, lambda number: number, items(), window)):
                assert taken <= given + window

    def test_nothing(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            assert list(read_ahead(pool, lambda number: number, range(0), 3)) == []

    def test_error_of_one_is_raised_in_its_turn(self) -> None:
        def work(number: int) -> float:
            return 1 / (3 - number)

        with ThreadPoolExecutor(2) as pool:
            results = read_ahead(pool, work, range(9), 4)
            assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
            with pytest.raises(ZeroDivisionError):
                next(results)

    def test_closing_takes_back_what_is_not_begun(self) -> None:
        begun: list[int] = []
        go = threading.Event()

        def work(number: int) -> int:
            begun.append(number)
            if number:
                go.wait(PATIENCE_SECONDS)
            return number

        with ThreadPoolExecutor(1) as pool:
            results = read_ahead(pool, work, range(100), 10)
            next(results)
            results.close()
            go.set()
        assert len(begun) <= 2

    def test_closing_never_begins_what_waits_for_something_taken_back(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The thread becomes free while a closing run takes back what has not begun."""
        go = threading.Event()
        begun: list[int] = []

        def work(number: int) -> int:
            begun.append(number)
            if number == 1:
                go.wait(PATIENCE_SECONDS)
            return number

        take_back = Future.cancel

        def cancel(future: Future[int]) -> bool:
            is_cancelled = take_back(future)
            if is_cancelled:
                go.set()
                time.sleep(MOMENT_SECONDS)
            return is_cancelled

        with ThreadPoolExecutor(1) as pool:
            results = read_ahead(pool, work, range(10), 4)
            next(results)
            monkeypatch.setattr(Future, "cancel", cancel)
            results.close()
        assert begun == list(range(len(begun)))


def test_stop_takes_nothing_more() -> None:
    stop = StopRequest()
    assert not stop
    taken = []
    for item in until_stopped(range(10), stop):
        taken.append(item)
        if item == 3:
            stop.set()
    assert stop
    assert taken == [0, 1, 2, 3]


class TestClock:
    def test_names_the_stage_that_took_longest(self) -> None:
        clock = StageClock()
        clock.seconds = {"read": 1.0, "model": 3.0, "write": 2.0}
        assert clock.limiting == "model"

    def test_counts_waiting_for_items_and_not_their_use(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: now)
        clock = StageClock()

        def items() -> Iterator[int]:
            nonlocal now
            for number in range(3):
                now += 2
                yield number

        for _ in clock.wait_for("read", items()):
            now += 5
        assert clock.seconds == {"read": 6.0, "model": 0.0, "write": 0.0}

    def test_counts_a_stage_that_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        times = iter([1.0, 4.0])
        monkeypatch.setattr(time, "perf_counter", lambda: next(times))
        clock = StageClock()
        with pytest.raises(ValueError, match="x"), clock.measure("write"):
            raise ValueError("x")
        assert clock.seconds["write"] == 3.0


def test_what_is_read_ahead_fits_the_limit() -> None:
    lock, held, most = threading.Lock(), 0, 0

    def read(item: int, hold: Callable[[int], None]) -> int:
        nonlocal held, most
        hold(6)
        with lock:
            held += 1
            most = max(most, held)
        time.sleep(MOMENT_SECONDS / 5)
        with lock:
            held -= 1
        return item

    with ThreadPoolExecutor(4) as pool:
        assert list(read_within(pool, read, range(12), 8, limit=13)) == list(range(12))
        assert most <= 3  # two within the limit, and the oldest one
        assert next(read_within(pool, read, range(12), 8, limit=6)) == 0  # nobody is left waiting
