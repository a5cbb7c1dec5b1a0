"""Encodes shards and packs the records of each into one tar.

The images of all shards flow through one pipeline, so the model is never idle between two shards.
One thread reads archives ahead, one packs tars, and others upload them. A shard is complete when
its tar and then its marker have their final names.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any, NamedTuple

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.errors import (
    DecodedImageError,
    DinacError,
    InputError,
    StorageError,
    UnwritableDiskError,
    UsageError,
)
from dinac_cli.images.stamp import read_stamp
from dinac_cli.jobs.encode import IS_DECODED, EncodeJob
from dinac_cli.jobs.executor.control import RunControl, StopRequest, until_stopped
from dinac_cli.jobs.executor.job import Computing, Job, Made
from dinac_cli.jobs.executor.local import run_numbered
from dinac_cli.jobs.executor.read_ahead import ReadAhead
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.jobs.shards.open_shard import OpenShard, make_marker
from dinac_cli.jobs.shards.replaced import Replaced
from dinac_cli.jobs.shards.run_settings import (
    RunSettings,
    complete_settings,
    find_settings,
    read_settings,
)
from dinac_cli.jobs.shards.sample import Sample, SampleChoice, list_samples, read_beside
from dinac_cli.jobs.shards.shard import MASKS_CHANGED, SOURCE_CHANGED, Shard, ShardKind
from dinac_cli.storage.content import Content, read_content
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.markers import RUN_NAME, name_marker
from dinac_cli.storage.naming import LATENT_SUFFIX
from dinac_cli.storage.store import Store, open_folder, read_place, split_place
from dinac_cli.storage.urls import is_url

MOST_TRIES = 4
"""How many times a shard is tried if a place does not answer."""

BACKOFF_SECONDS = (1.0, 4.0, 16.0)
"""The pauses between the tries of a shard."""

MOST_STORAGE_ERRORS = 10
"""If this many shards in a row fail because a place does not answer, the run ends."""

_PACKED_AHEAD = 64
_UPLOADS = 2


class SampleJob(EncodeJob):
    """Encodes the images of shards. Records go to the packer, in the order of the images."""

    def __init__(self, *args: Any, keep: tuple[str, ...] = (), **named: Any) -> None:
        super().__init__(*args, **named)
        self._keep = keep

    def _read_content(self, entry: Input) -> Content:
        assert isinstance(entry, Sample)
        if entry.data is not None:
            return Content(entry.data)
        assert entry.path is not None, "an image has content or a path"
        entry.beside.update(read_beside(entry.path, self._keep, _read_if_present))
        if is_url(entry.path):
            return Content(read_place(entry.path))
        content = read_content(entry.path)
        if entry.skips_decoded and read_stamp(content.data) is not None:
            raise DecodedImageError(IS_DECODED)
        return content


def _read_if_present(path: str) -> bytes | None:
    folder, name = split_place(path)
    store = open_folder(folder)
    return None if store.stat(name) is None else store.read(name)


class ShardJob(Job[Shard, Any, Any]):
    """Encodes whole shards into tars in `store`. Its entries are shards.

    With --overwrite, `replaces` is what OUT held before.
    """

    def __init__(
        self,
        job: SampleJob,
        store: Store,
        choice: SampleChoice,
        settings: RunSettings,
        model: ModelHandle,
        replaces: Replaced | None = None,
    ) -> None:
        self.job = job
        self.store = store
        self.choice = choice
        self.model = model
        self._settings = settings
        self._replaces = replaces
        self._is_prepared = False
        self._remarks: list[str] = []

    def prepare(self) -> None:
        """Writes the settings of the run, unless OUT has them. Runs where the model computes.

        Does nothing if it was called before. With --overwrite, removes what the run replaces.
        Raises UsageError if another run has written other settings meanwhile.
        """
        if self._is_prepared:
            return
        own = complete_settings(self._settings, self.model.compute)
        if self._replaces is None:
            held = read_settings(self.store)
            is_free = held is None
        else:
            self._replaces.remove(self.store)
            held = find_settings(self.store)
            is_free = held is None or held == self._replaces.settings
        if held is not None and not is_free:
            self._compare(held, own)
        elif held != own:
            self.store.write(RUN_NAME, own.to_bytes())
        self._is_prepared = True

    def explain_again(self, shard: Shard) -> str | None:
        """Says why a shard is encoded again; None if it is new, or if the user asks for that."""
        if not shard.is_stale or self._replaces is not None:
            return None
        return MASKS_CHANGED if self.mask_kind == "files" else SOURCE_CHANGED

    @property
    def mask_kind(self) -> str:
        """The `MaskKind` of the run."""
        return self._settings.mask

    def _compare(self, held: RunSettings, own: RunSettings) -> None:
        place = self.store.locate("")
        if conflict := held.find_conflict(replace(own, threads=held.threads)):
            raise UsageError(
                f"{place} holds shards of another run with {conflict[0]}; you asked for "
                f"{conflict[1]}; choose another OUT"
            )
        if (held.compute, held.threads) != (own.compute, own.threads):
            self._remarks.append(
                f"{place} holds shards computed as {_describe_compute(held)}; this run computes as "
                f"{_describe_compute(own)}, so the bytes of its records may differ"
            )

    def run(
        self, entries: Iterable[Shard], control: RunControl
    ) -> Generator[tuple[int, Made], None, None]:
        """Encodes every shard and yields its result with its number, when the shard is complete.

        Tries a shard again if a place does not answer. Raises StorageError if this happens to many
        shards in a row.
        """
        tries: list[tuple[int, Shard]] = []
        numbered: Iterable[tuple[int, Shard]] = enumerate(until_stopped(entries, control.stop))
        for count in range(MOST_TRIES):
            is_last = count == MOST_TRIES - 1
            with _Packing(self, control) as packing:
                for number, outcome in packing.go(numbered):
                    if isinstance(outcome, StorageError) and not is_last and not control.stop:
                        tries.append((number, packing.shards[number]))
                    else:
                        yield number, Made(_settle(packing.shards[number], outcome))
                    del packing.shards[number]
            if not tries:
                return
            numbered, tries = tries, []
            _pause(BACKOFF_SECONDS[count], control.stop)

    def read(self, entry: Shard, hold: Callable[[int], None]) -> FileResult:
        raise NotImplementedError("a shard is read image by image")

    def submit(self, batch: list[Any]) -> Computing[Any]:
        raise NotImplementedError("a shard is computed image by image")

    def finish(self, work: Any, computed: Any) -> Made:
        raise NotImplementedError("a shard is finished image by image")

    def use_device(self, name: str) -> None:
        self.job.use_device(name)

    @property
    def is_on_cpu(self) -> bool:
        return self.job.is_on_cpu

    def measure_room(self) -> tuple[int, int] | None:
        return self.job.measure_room()

    def take_remarks(self) -> list[str]:
        remarks, self._remarks = self._remarks, []
        return remarks


def _describe_compute(settings: RunSettings) -> str:
    threads = settings.threads
    return settings.compute + (f" with --threads {threads}" if threads else "")


def _settle(shard: Shard, outcome: FileResult | DinacError) -> FileResult:
    if isinstance(outcome, FileResult):
        return outcome
    return FileResult.fail(shard.label, outcome, name=shard.name)


def _pause(seconds: float, stop: StopRequest) -> None:
    end = time.monotonic() + seconds
    while not stop and time.monotonic() < end:
        time.sleep(min(0.1, seconds))


class _Listed(NamedTuple):
    """An image of a shard, and the memory that it occupies. After the last one comes None."""

    pack: OpenShard
    sample: Sample | None
    held_bytes: int


class _Packing:
    """One pass over shards: lists their images, encodes them and packs the records."""

    def __init__(self, job: ShardJob, control: RunControl) -> None:
        self._job = job
        self._control = control
        self.shards: dict[int, Shard] = {}
        self._packs: deque[OpenShard] = deque()  # in order, until every image has a result
        self._samples: deque[tuple[OpenShard, Sample]] = deque()
        self._packed: deque[Future[None]] = deque()
        self._commits: deque[tuple[OpenShard, Future[FileResult]]] = deque()
        self._storage_errors = self._unread = 0

    def __enter__(self) -> _Packing:
        self._stack = ExitStack()
        self._packer = self._stack.enter_context(ThreadPoolExecutor(1, "pack"))
        self._uploads = self._stack.enter_context(ThreadPoolExecutor(_UPLOADS, "upload"))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        for pack in self._packs:
            pack.stack.close()

    def go(
        self, shards: Iterable[tuple[int, Shard]]
    ) -> Iterator[tuple[int, FileResult | DinacError]]:
        """Yields the result of every shard, or the error that ended it."""
        control = replace(self._control, stop=StopRequest())  # a shard that was begun is finished
        with (
            ReadAhead(self._list(shards)) as listed,
            closing(
                run_numbered(self._job.job, self._begin(listed), control, ordered=True)
            ) as outputs,
        ):
            for _, made in outputs:
                self._control.tick()
                pack, sample = self._samples.popleft()
                pack.taken += 1
                self._pack(pack, sample, made)
                self._close_taken()
                yield from self._take_commits(_UPLOADS)
        self._close_taken()
        yield from self._take_commits(0)

    def _begin(self, listed: Iterable[_Listed]) -> Iterator[Sample]:
        """Yields the images. After a stop request, leaves the shards that have not begun."""
        for pack, sample, _ in listed:
            if sample is None:
                self._note_listed(pack)
                continue
            if self._control.stop and not pack.has_begun:
                pack.is_left = True
                continue
            pack.has_begun = True
            self._samples.append((pack, sample))
            yield sample

    def _list(self, shards: Iterable[tuple[int, Shard]]) -> Iterator[_Listed]:
        """Yields the images of each shard, and its end. Runs in the thread that reads ahead."""
        for number, shard in shards:
            pack = OpenShard(number, shard)
            self.shards[number] = shard
            self._packs.append(pack)
            count = 0
            try:
                if shard.problem is not None:
                    raise InputError(shard.problem)
                for sample in list_samples(shard, self._job.choice, pack.left):
                    if pack.is_left:
                        break
                    count += 1
                    yield _Listed(pack, sample, sample.held_bytes)
            except DinacError as exc:
                pack.error = exc
            except MemoryError:
                pack.error = InputError("not enough memory to read it; use fewer --processes")
            pack.listed = count
            yield _Listed(pack, None, 0)

    def _note_listed(self, pack: OpenShard) -> None:
        """Commits the shard if it waits for this alone.

        Raises StorageError if many shards in a row could not be read: then no image comes.
        """
        self._close_taken()
        is_lost = isinstance(pack.error, StorageError)
        self._unread = self._unread + 1 if is_lost else 0
        if self._unread == MOST_STORAGE_ERRORS and pack.error is not None:
            raise pack.error

    def _pack(self, pack: OpenShard, sample: Sample, made: Made) -> None:
        self._packed.append(self._packer.submit(self._add, pack, sample, made))
        while len(self._packed) > _PACKED_AHEAD or (self._packed and self._packed[0].done()):
            self._packed.popleft().result()

    def _add(self, pack: OpenShard, sample: Sample, made: Made) -> None:
        """Adds an image to its tar. Runs in the packer's thread."""
        result = self._note_lacking(pack, sample, made.result)
        if pack.error is None and result.error == StorageError.__name__:
            pack.error = StorageError(result.reason or "", result.details)
        if pack.error is not None:
            return
        pack.count(result)
        if result.failed:
            pack.failures.append(result)
            pack.failed_keys.append(sample.key)
            return
        if result.status is not Status.WRITTEN or result.warnings or self._is_named(result):
            pack.remarked.append(result)
        if result.status is not Status.WRITTEN:
            return
        self._control.clock.add_images(1)
        try:
            tar = pack.open(self._job.store)
            tar.add(f"{sample.key}{LATENT_SUFFIX}", made.data)
            for extension, data in sample.beside.items():
                tar.add(f"{sample.key}.{extension}", data)
        except Exception as exc:
            pack.error = exc  # the tar may lack a part, so it gets no name
            if isinstance(exc, UnwritableDiskError) or not isinstance(exc, DinacError):
                raise

    def _is_named(self, result: FileResult) -> bool:
        """True for an image that lacks a file that the user asked for. Opaque images are many."""
        lacks_mask = bool(result.unmasked) and self._job.mask_kind == "files"
        return lacks_mask or bool(result.lacking)

    def _note_lacking(self, pack: OpenShard, sample: Sample, result: FileResult) -> FileResult:
        """Adds to the result of an encoded image which files to keep are not beside it.

        A row of a parquet file has no files beside it, and all rows have the same columns.
        """
        keep = self._job.choice.keep
        lacking = tuple(extension for extension in keep if extension not in sample.beside)
        is_row = pack.shard.kind is ShardKind.PARQUET
        if result.status is not Status.WRITTEN or is_row or not lacking:
            return result
        return replace(result, lacking=lacking)

    def _close_taken(self) -> None:
        """Commits the shards whose images all have a result."""
        while self._packs and (self._packs[0].is_taken or self._packs[0].is_left):
            if self._packs[0].is_left:
                self._packs.popleft()
                continue
            self._prepare(self._packs[0])
            pack = self._packs.popleft()
            sealed = self._packer.submit(self._seal, pack)
            self._commits.append((pack, self._uploads.submit(self._commit, pack, sealed)))

    def _prepare(self, pack: OpenShard) -> None:
        if pack.error is not None:
            return
        try:
            self._job.prepare()
        except StorageError as exc:
            pack.error = exc
        for remark in self._job.take_remarks():
            self._control.warn(remark)

    def _seal(self, pack: OpenShard) -> None:
        """Ends the tar. Runs in the packer's thread."""
        if pack.error is None:
            pack.open(self._job.store).finish()

    def _commit(self, pack: OpenShard, sealed: Future[None]) -> FileResult:
        """Gives the tar and then its marker their names. Runs in a thread that uploads."""
        with pack.stack:
            sealed.result()
            if pack.error is not None:
                raise pack.error
            assert pack.spool is not None
            for mark in pack.shard.marks:  # they would vouch for the new tar
                self._job.store.remove(name_marker(pack.shard.name, mark))
            pack.spool.commit()
        job = self._job
        marker = make_marker(pack, job.model.compute, anonymous=job.choice.anonymous)
        self._job.store.write(marker.name, marker.to_bytes())
        output = self._job.store.locate(f"{pack.shard.name}.tar")
        return pack.make_result(output, self._job.explain_again(pack.shard))

    def _take_commits(self, at_most: int) -> Iterator[tuple[int, FileResult | DinacError]]:
        """Yields the shards that are complete. Waits until at most `at_most` are not."""
        while self._commits and (len(self._commits) > at_most or self._commits[0][1].done()):
            pack, commit = self._commits.popleft()
            try:
                result = commit.result()
            except UnwritableDiskError:
                raise
            except DinacError as exc:
                self._control.clock.add_images(-pack.counts[Status.WRITTEN])  # they have no result
                if isinstance(exc, StorageError):
                    self._note_storage_error(exc)
                yield pack.number, exc
            else:
                self._storage_errors = 0
                yield pack.number, result

    def _note_storage_error(self, exc: StorageError) -> None:
        self._storage_errors += 1
        if self._storage_errors == MOST_STORAGE_ERRORS:
            raise exc
