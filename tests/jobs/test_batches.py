"""A batch holds one group and never exceeds its capacity; the waiting items are bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dinac_cli.jobs.executor.batches import MAX_OPEN_BUCKETS, Batcher

CAPACITIES = {"single": 1, "pair": 2, "five": 5}
Item = tuple[int, str]


def make_batcher(limit_bytes: int = 10**9) -> Batcher[str, Item]:
    return Batcher(lambda group: CAPACITIES.get(group, 4), limit_bytes)


def test_full_batch_is_released_at_once() -> None:
    batcher = make_batcher()
    assert list(batcher.add((0, "pair"), "pair", 1)) == []
    assert list(batcher.add((1, "single"), "single", 1)) == [[(1, "single")]]
    assert list(batcher.add((2, "pair"), "pair", 1)) == [[(0, "pair"), (2, "pair")]]
    assert list(batcher.flush()) == []


def test_flush_releases_the_rest_oldest_first() -> None:
    batcher = make_batcher()
    for number, group in enumerate(("five", "pair", "five")):
        assert list(batcher.add((number, group), group, 1)) == []
    assert list(batcher.flush()) == [[(0, "five"), (2, "five")], [(1, "pair")]]
    assert list(batcher.flush()) == []


def test_too_many_groups_release_the_oldest() -> None:
    batcher = make_batcher()
    released = [
        batch
        for number in range(MAX_OPEN_BUCKETS + 2)
        for batch in batcher.add((number, "x"), f"group {number}", 1)
    ]
    assert released == [[(0, "x")], [(1, "x")]]


def test_too_many_bytes_release_the_oldest() -> None:
    batcher = make_batcher(limit_bytes=10)
    assert list(batcher.add((0, "a"), "a", 6)) == []
    assert list(batcher.add((1, "b"), "b", 4)) == []
    assert list(batcher.add((2, "b"), "b", 1)) == [[(0, "a")]]
    assert list(batcher.add((3, "c"), "c", 11)) == [[(1, "b"), (2, "b")], [(3, "c")]]


@given(
    st.lists(
        st.tuples(st.sampled_from([*CAPACITIES, *"abcdefghijklmnopqrstu"]), st.integers(0, 9))
    ),
    st.integers(0, 30),
)
def test_every_item_is_released_once_in_order_and_within_bounds(
    added: list[tuple[str, int]], limit_bytes: int
) -> None:
    batcher = make_batcher(limit_bytes)
    waiting: dict[int, int] = {}
    released: list[Item] = []

    def release(batch: list[Item]) -> None:
        (group,) = {group for _, group in batch}
        assert len(batch) <= CAPACITIES.get(group, 4)
        for number, _ in batch:
            del waiting[number]
        released.extend(batch)

    for number, (group, size) in enumerate(added):
        waiting[number] = size
        for batch in batcher.add((number, group), group, size):
            release(batch)
        assert sum(waiting.values()) <= limit_bytes
        assert len({added[number][0] for number in waiting}) <= MAX_OPEN_BUCKETS
    for batch in batcher.flush():
        release(batch)
    assert not waiting
    for group in {group for group, _ in added}:
        numbers = [number for number, its_group in released if its_group == group]
        assert numbers == sorted(numbers)
