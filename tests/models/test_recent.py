"""The cache of recent values: bounded, and each value is made once for all threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from dinac_cli.models.recent import Recent, frozen

PATIENCE_SECONDS = 120.0


def test_value_is_made_once() -> None:
    cache: Recent[str, list[int]] = Recent(4)
    first = cache.get("a", lambda: [1])
    assert cache.get("a", lambda: pytest.fail("it is cached")) is first


def test_most_recently_used_values_are_kept() -> None:
    cache: Recent[int, int] = Recent(3)
    for key in (1, 2, 3, 1, 4):
        assert cache.get(key, partial(int, 10 * key)) == 10 * key
    assert cache.list_values() == [30, 10, 40]
    assert cache.weight == 3


def test_weight_is_bounded_except_for_the_newest_value() -> None:
    cache: Recent[str, bytes] = Recent(10, len)
    for key, size in (("a", 4), ("b", 5), ("c", 3)):
        cache.get(key, partial(bytes, size))
    assert [len(value) for value in cache.list_values()] == [5, 3]
    assert cache.get("d", lambda: bytes(99)) == bytes(99)
    assert (len(cache.list_values()), cache.weight) == (1, 99)
    cache.get("e", lambda: bytes(1))
    assert (len(cache.list_values()), cache.weight) == (1, 1)


def test_clear_forgets_all_values() -> None:
    cache: Recent[str, bytes] = Recent(10, len)
    cache.get("a", lambda: bytes(4))
    cache.clear()
    assert (cache.list_values(), cache.weight) == ([], 0)
    assert cache.get("a", lambda: bytes(5)) == bytes(5)


def test_failure_to_make_a_value_leaves_nothing() -> None:
    cache: Recent[str, int] = Recent(4)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 // 0)
    assert cache.get("a", lambda: 7) == 7
    assert cache.weight == 1


def test_a_frozen_cache_makes_nothing_and_keeps_what_it_has() -> None:
    cache: Recent[str, int] = Recent(4)
    assert cache.get("a", lambda: 1) == 1
    with frozen():
        assert cache.get("a", lambda: 2) == 1
        with pytest.raises(RuntimeError, match="the value of b is needed, but was not made before"):
            cache.get("b", lambda: 3)
        with ThreadPoolExecutor(1) as pool:  # other threads go on
            assert pool.submit(cache.get, "c", lambda: 4).result() == 4
    assert cache.get("b", lambda: 5) == 5
    assert cache.list_values() == [1, 4, 5]


def test_threads_share_one_value() -> None:
    cache: Recent[int, object] = Recent(2)
    made: list[int] = []
    start = threading.Barrier(8)

    def ask(number: int) -> object:
        def make() -> object:
            made.append(1)
            time.sleep(0.01)
            return object()

        start.wait(timeout=PATIENCE_SECONDS)
        return cache.get(number % 2, make)

    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(ask, range(8)))
    assert len(made) == 2
    assert len(set(map(id, values))) == 2
