"""Predicts what a run would do with each shard. Reads the listings, the index and some markers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, NamedTuple

from dinac_cli.jobs.shards.loose_plan import GONE
from dinac_cli.jobs.shards.shard import MASKS_CHANGED, SOURCE_CHANGED, Shard, ShardKind
from dinac_cli.jobs.shards.shard_run import ShardPlan
from dinac_cli.storage.atomic import refuse_foreign


class ShardState(str, Enum):
    """What a run would do with a shard."""

    NEW = "new"
    STALE = "stale"  # its source changed, or --overwrite encodes it again
    DAMAGED = "damaged"  # it was complete, and its tar is gone or has changed
    RETRIED = "retried"  # with --retry-failed: some of its images failed
    DONE = "done"
    CONFLICT = "conflict"  # its tar must not be replaced
    FAILED = "failed"  # its archive cannot be read


TODO = (ShardState.NEW, ShardState.STALE, ShardState.DAMAGED, ShardState.RETRIED)
"""The states of shards that the run would encode."""


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """One shard. `reason` explains its `state` in one line. None stands for an unknown number.

    `name` is its path in OUT without `.tar`, and `source` the archive that it comes from. `images`
    is the number of images to encode, or of records if the shard is done. `bytes_in` is the size of
    its source. `bytes_out` is the size of its tar, if it is done. `failed` and `skipped` images of
    a shard in OUT have no record. `gone` images of it are no longer among the inputs. `shard` is
    given if the run would encode it.
    """

    name: str
    state: ShardState
    output: str
    source: str | None = None
    images: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    failed: int = 0
    skipped: int = 0
    gone: int = 0
    reason: str | None = None
    shard: Shard | None = None

    @property
    def label(self) -> str:
        """The shard's name in messages."""
        return self.source or f"shard {self.name}"

    def to_json(self) -> dict[str, Any]:
        """Returns one flat JSON object without the empty fields."""
        facts = {
            "shard": self.name,
            "state": self.state.value,
            "output": self.output,
            "source": self.source,
            "images": self.images,
            "bytes_in": self.bytes_in,
            "bytes": self.bytes_out,
            "images_failed": self.failed or None,
            "images_skipped": self.skipped or None,
            "images_gone": self.gone or None,
            "reason": self.reason,
        }
        return {key: value for key, value in facts.items() if value is not None}


class _Counts(NamedTuple):
    """The numbers of images of a complete shard, and the size of its tar by its marker."""

    images: int
    failed: int
    skipped: int
    size_bytes: int


def plan_shards(plan: ShardPlan) -> Iterator[PlannedShard]:
    """Yields every shard of a plan that was made, in order.

    Reads the markers of those complete shards that are not in it or have images
    without a record. Raises InputError, StorageError.
    """
    counts = _count_done(plan)
    for name, _, shard in plan.list_all():
        output = plan.store.locate(f"{name}.tar")
        if shard is not None:
            yield _plan_work(plan, shard, output)
            continue
        yield _plan_done(name, output, counts[name], plan.contents.tars[name])


def _plan_done(name: str, output: str, counts: _Counts, size_bytes: int) -> PlannedShard:
    if size_bytes != counts.size_bytes:
        problem = f"its tar has {size_bytes} bytes, not {counts.size_bytes} as its marker says"
        reason = f"{problem}; delete it, and the shard is encoded again"
        return PlannedShard(name=name, state=ShardState.FAILED, output=output, reason=reason)
    return PlannedShard(
        name=name,
        state=ShardState.DONE,
        output=output,
        images=counts.images,
        bytes_out=size_bytes,
        failed=counts.failed,
        skipped=counts.skipped,
    )


def _count_done(plan: ShardPlan) -> dict[str, _Counts]:
    counts, unknown = {}, []
    for name, mark in plan.list_done():
        entry = plan.contents.find_entry(name, mark)
        if entry is None or entry.missed:
            unknown.append((name, mark))
        else:
            counts[name] = _Counts(entry.nsamples, 0, 0, entry.filesize)
    for each in plan.contents.read_markers(unknown):
        counts[each.shard] = _Counts(each.images, each.failed, each.skipped, each.size_bytes)
    return counts


def _plan_work(plan: ShardPlan, shard: Shard, output: str) -> PlannedShard:
    state, reason = _judge(plan, shard)
    is_loose = shard.kind is ShardKind.LOOSE
    usable = [file for file in shard.files if file.problem is None]
    return PlannedShard(
        name=shard.name,
        state=state,
        output=output,
        source=None if is_loose else shard.label,
        images=len(usable) if is_loose else None,
        bytes_in=sum(file.size_bytes for file in usable) if is_loose else shard.size_bytes,
        gone=sum(file.problem == GONE for file in shard.files),
        reason=reason,
        shard=shard if state in TODO else None,
    )


def _judge(plan: ShardPlan, shard: Shard) -> tuple[ShardState, str | None]:
    if shard.problem is not None:
        return ShardState.FAILED, shard.problem
    name, contents = shard.name, plan.contents
    has_mark, has_tar = name in contents.marks, name in contents.tars
    if plan.request.overwrite:
        is_new = not (has_mark or has_tar)
        return (ShardState.NEW, None) if is_new else (ShardState.STALE, "--overwrite encodes it")
    if contents.is_foreign(name):
        return ShardState.CONFLICT, str(refuse_foreign(plan.store.locate(f"{name}.tar")))
    if name in plan.failed and contents.is_done(name, shard.fingerprint):
        return ShardState.RETRIED, "some of its images failed"
    if has_tar and contents.marks.get(name) == {shard.fingerprint}:
        return ShardState.DAMAGED, "its tar has changed"
    if has_mark and has_tar:
        return ShardState.STALE, SOURCE_CHANGED if plan.inputs.masks is None else MASKS_CHANGED
    if has_mark:
        return ShardState.DAMAGED, "its tar is gone"
    return ShardState.NEW, "a run that was stopped left its tar" if has_tar else None


@dataclass
class StateCount:
    """Totals of the shards that have the same state. `unknown` shards have no number of images."""

    shards: int = 0
    images: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    unknown: int = 0
    unknown_bytes: int = 0


@dataclass
class ShardTotals:
    """Totals of all shards of a plan.

    `failed`, `skipped` and `gone` count images. `failed_shards` have the failed images, and
    `retried_images` is the number of images that --retry-failed would read again.
    """

    counts: dict[ShardState, StateCount] = field(
        default_factory=lambda: {state: StateCount() for state in ShardState}
    )
    failed: int = 0
    failed_shards: int = 0
    retried_images: int = 0
    skipped: int = 0
    gone: int = 0

    def add(self, planned: PlannedShard) -> None:
        """Counts one shard."""
        count = self.counts[planned.state]
        count.shards += 1
        count.images += planned.images or 0
        count.bytes_in += planned.bytes_in or 0
        count.bytes_out += planned.bytes_out or 0
        if planned.images is None:
            count.unknown += 1
            count.unknown_bytes += planned.bytes_in or 0
        self.failed += planned.failed
        self.skipped += planned.skipped
        self.gone += planned.gone
        if planned.failed:
            self.failed_shards += 1
            self.retried_images += (planned.images or 0) + planned.failed + planned.skipped

    @property
    def todo(self) -> StateCount:
        """Totals of the shards that the run would encode."""
        counts = [self.counts[state] for state in TODO]
        names = [each.name for each in fields(StateCount)]
        return StateCount(**{name: sum(getattr(c, name) for c in counts) for name in names})
