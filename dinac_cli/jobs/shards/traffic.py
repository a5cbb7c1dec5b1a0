"""Predicts how many requests a run makes to remote places, and how many objects it writes.

The counts are those of S3: a LIST names 1,000 objects, and a large object is uploaded in parts.
Other places count in similar ways. Repeated requests come on top.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from dinac_cli.jobs.shards.shard import Shard
from dinac_cli.jobs.shards.shard_run import ShardPlan
from dinac_cli.jobs.shards.shard_states import PlannedShard, ShardState
from dinac_cli.storage.remote import UPLOAD_PART_BYTES
from dinac_cli.storage.remote_file import READ_BLOCK_BYTES
from dinac_cli.storage.urls import WEB, find_scheme, is_url

MOST_LOOSE_OBJECTS = 10_000_000
"""If more loose remote images are to be read, they should be packed into tars first."""

LIST_OBJECTS = 1000
"""How many objects one LIST request names."""


@dataclass
class Requests:
    """Numbers of requests to one place."""

    list: int = 0
    head: int = 0
    get: int = 0
    put: int = 0
    delete: int = 0

    def describe(self) -> str:
        """Returns e.g. `2 LIST, 2000 GET`; "none" if there are none."""
        found = [f"{count} {kind.upper()}" for kind, count in asdict(self).items() if count]
        return ", ".join(found) or "none"


@dataclass
class Traffic:
    """The requests of a run to its inputs (`source`) and to OUT, and the objects it writes.

    `loose` remote images and `loose_bytes` of them are read one by one. The upload of a tar takes
    `tar_requests`; 0 if OUT is on this machine. Call `add` with every shard, and then `finish`.
    """

    source: Requests = field(default_factory=Requests)
    out: Requests = field(default_factory=Requests)
    objects: int = 0
    loose: int = 0
    loose_bytes: int = 0
    shards: int = 0
    tar_requests: int = 0
    _done: int = 0
    _missed: int = 0

    def add(self, plan: ShardPlan, planned: PlannedShard) -> None:
        """Counts what one shard adds."""
        if planned.shard is not None:
            self.shards += 1
            self._add_source(plan, planned.shard)
            marks = plan.contents.marks.get(planned.name, set())
            self.out.delete += len(marks)  # of an earlier state
        elif planned.state is ShardState.DONE:
            self._done += 1
            self._missed += bool(planned.failed or planned.skipped)

    def _add_source(self, plan: ShardPlan, shard: Shard) -> None:
        if is_url(shard.place):
            is_web = find_scheme(shard.place) in WEB
            self.source.head += not is_web
            self.source.get += 1 if is_web else count_blocks(shard.size_bytes)
        remote = [each for each in shard.files if each.problem is None and is_url(each.path)]
        self.loose += len(remote)
        self.loose_bytes += sum(each.size_bytes for each in remote)
        self.source.get += len(remote)
        self.source.head += len(remote) * len(plan.settings.keep)

    def finish(self, plan: ShardPlan, tar_bytes: float | None) -> None:
        """Adds what the whole run asks for. A tar in OUT has about `tar_bytes`, if known."""
        self.source.list += sum(map(count_pages, plan.inputs.listed))
        self.source.head += plan.inputs.asked
        # A tar and a marker for each shard, parts of the plan, run.json and the index.
        self.objects = 2 * self.shards + plan.loose.new_parts
        self.objects += ((not plan.contents.has_settings) + 1) * bool(self.shards)
        if plan.store.is_remote:
            self.tar_requests = count_parts(tar_bytes or 0)
            self._add_uploads(plan)
            self._add_look_ups(plan)
        else:
            self.out = Requests()

    def _add_uploads(self, plan: ShardPlan) -> None:
        self.out.put += self.objects + self.shards * (self.tar_requests - 1)
        if plan.request.engine == "ray" and self.shards:  # the file that all nodes must see
            self.out.put += 1
            self.out.delete += 1

    def _add_look_ups(self, plan: ShardPlan) -> None:
        contents, request = plan.contents, plan.request
        after = contents.objects + self.objects
        self.out.list += count_pages(contents.objects) + 2 * count_pages(after)
        if plan.inputs.has_loose and (plan.loose.starts_anew or not plan.settings.anonymous):
            self.out.list += count_pages(max(plan.loose.known_parts, plan.loose.new_parts))
        self.out.get += 2 * plan.loose.known_parts  # the plan is read twice
        # For the index, markers are read: the new ones, and those that name failures.
        self.out.get += self.shards + (self._done if request.retry_failed else self._missed)
        self.out.get += self._missed  # to report them again
        if request.retry_failed:
            self.out.get += contents.count_missed()
        self._look_up(1 + bool(self.shards), exists=contents.has_settings)
        self._look_up_index(plan)

    def _look_up_index(self, plan: ShardPlan) -> None:
        """Counts the five times that a run looks for the index: the last time, it is there."""
        request, is_there = plan.request, bool(plan.contents.index)
        removes = request.retry_failed or request.overwrite
        self._look_up(1, exists=is_there)
        self.out.delete += removes and is_there
        self._look_up(3, exists=is_there and not removes)
        self._look_up(1, exists=True)

    def _look_up(self, times: int, *, exists: bool) -> None:
        """Counts looking for a file: a missing one could be a folder, so it takes a LIST."""
        self.out.head += times
        if exists:
            self.out.get += times
        else:
            self.out.list += times

    def advise(self, shard_size: int) -> str | None:
        """Says that the images should be packed first if there are too many loose objects."""
        if self.loose <= MOST_LOOSE_OBJECTS:
            return None
        tars = math.ceil(self.loose / shard_size)
        blocks = max(tars, count_blocks(self.loose_bytes))
        return (
            f"{self.loose} loose objects take {count_pages(self.loose)} LIST requests in every "
            f"run, and {self.loose} GET requests; pack them into tars first: {tars} tars of "
            f"{shard_size} images take {count_pages(tars)} LIST and about {blocks} GET requests"
        )


def count_pages(objects: int) -> int:
    """Returns the number of LIST requests for this many objects."""
    return max(1, math.ceil(objects / LIST_OBJECTS))


def count_blocks(size_bytes: int) -> int:
    """Returns the number of GET requests that read an archive of this size."""
    return max(1, math.ceil(size_bytes / READ_BLOCK_BYTES))


def count_parts(size_bytes: float) -> int:
    """Returns the number of PUT requests that upload an object of this size.

    A large object also takes a request to start its upload, and one to end it.
    """
    if size_bytes < 2 * UPLOAD_PART_BYTES:
        return 1
    return math.ceil(size_bytes / UPLOAD_PART_BYTES) + 2
