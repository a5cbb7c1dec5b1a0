"""A run of `encode` into shards: checks the request, finds what is to do, and runs it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import BinaryIO, ClassVar, TypeVar

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.errors import InputError, OutputError, StorageError, UsageError
from dinac_cli.jobs.encode import EncodeOptions, EncodeRequest, EncodeRun
from dinac_cli.jobs.executor.cluster import Cluster
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.local import run_opened
from dinac_cli.jobs.executor.phase import Phase, Watch, ignore_phase, watch_items
from dinac_cli.jobs.executor.pool import run_in_processes
from dinac_cli.jobs.executor.ray import run_on_ray
from dinac_cli.jobs.freshness import is_latent_file
from dinac_cli.jobs.held import HeldRecord, announce_followed
from dinac_cli.jobs.image_masks import suggest_mask_folder
from dinac_cli.jobs.listing import SCANNING
from dinac_cli.jobs.model_choice import choose_encoder, explain_default
from dinac_cli.jobs.request import Announce, advise_on_images, refuse_file_name
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.jobs.shards.contents import OutContents, write_index
from dinac_cli.jobs.shards.loose_plan import LoosePlan
from dinac_cli.jobs.shards.node_check import NodeCheck, relocate, show_nonce
from dinac_cli.jobs.shards.packing import MOST_STORAGE_ERRORS, SampleJob, ShardJob
from dinac_cli.jobs.shards.partition import ShardInputs, names_shards
from dinac_cli.jobs.shards.replaced import Replaced
from dinac_cli.jobs.shards.run_settings import (
    DEFAULT_SHARD_SIZE,
    HeldRun,
    RunSettings,
    read_settings,
)
from dinac_cli.jobs.shards.sample import SampleChoice
from dinac_cli.jobs.shards.shard import MAX_SHARD_SIZE, Shard, ShardKind, find_kind, parse_number
from dinac_cli.storage import parquet
from dinac_cli.storage.atomic import refuse_foreign
from dinac_cli.storage.local import LocalStore
from dinac_cli.storage.markers import RUN_NAME, Marker, holds_shards
from dinac_cli.storage.output import STDOUT, Output, OutputKind
from dinac_cli.storage.parts import parse_shard
from dinac_cli.storage.shard_layout import INDEX_NAME
from dinac_cli.storage.store import Store, open_store
from dinac_cli.storage.urls import is_url

_RAY_DEVICES = ("auto", "cuda", "cpu")

T = TypeVar("T")


def needs_shards(request: EncodeRequest) -> bool:
    """True if a request writes shards: it says so, a place is remote, or OUT holds shards."""
    asks = request.shard_size is not None or bool(request.keep) or request.engine != "here"
    named = any(map(names_shards, request.inputs.paths))
    return asks or named or is_url(request.out) or holds_shards(request.out)


def open_shard_run(request: EncodeRequest, announce: Announce) -> ShardRun:
    """Checks a request for shards, chooses its model and finds its settings.

    Raises UsageError, ModelError, OutputError, StorageError.
    """

    def choose(held: HeldRecord | None, companions: Collection[str]) -> ModelHandle:
        model_choice = replace(request.model, device=request.choose_device(announce))
        return choose_encoder(model_choice, held, announce, companions=companions)

    setup = prepare_shards(request, announce, choose)
    return ShardRun(
        work=partial(_start, request, setup),
        output=_describe_out(request),
        model=setup.model,
        why_model=explain_default(request.model, setup.held, setup.model),
        geometry=setup.options.geometry,
        mask_kind=setup.options.mask_kind,
        masks=setup.options.masks,
        whole_folders=request.inputs.whole_folders,
        plan=setup.plan,
        threads=setup.threads,
    )


ChooseModel = Callable[[HeldRecord | None, Collection[str]], ModelHandle]
"""Returns the encoder for what OUT holds; the second argument says whether it needs features."""


@dataclass(frozen=True, kw_only=True)
class ShardSetup:
    """What is decided before a run into shards lists its inputs.

    The run follows `held`, the settings in OUT. `threads` must compute in each process, because so
    many made OUT.
    """

    plan: ShardPlan
    options: EncodeOptions
    choice: SampleChoice
    model: ModelHandle
    held: HeldRun | None
    threads: int | None


def prepare_shards(
    request: EncodeRequest, announce: Announce, choose_model: ChooseModel
) -> ShardSetup:
    """Checks a request for shards, and compares it with OUT. Writes nothing.

    Raises UsageError, ModelError, OutputError, StorageError.
    """
    _refuse_options(request)
    store = _open_out(request)
    earlier = None if request.overwrite else read_settings(store)
    held = None if earlier is None else HeldRun.of(store.locate(RUN_NAME), earlier)
    options = request.options.follow(held)
    model = choose_model(held, options.companions)
    options.check_model(model)
    choice = _choose_samples(request, options, earlier)
    followed = DEFAULT_SHARD_SIZE if earlier is None else earlier.shard_size
    size = request.shard_size or followed
    threads = request.threads or (None if earlier is None else earlier.threads)
    settings = RunSettings.of(model, options, choice, size, threads)
    if earlier is not None and (conflict := earlier.find_conflict(settings)) is not None:
        raise UsageError(
            f"{store.locate('')} holds shards with {conflict[0]}; you asked for {conflict[1]}; "
            "choose another OUT, or add --overwrite to encode everything again"
        )
    announce_followed(held, request.options.list_followed(held), announce)
    inputs = ShardInputs.find(request.image_inputs, request.out, choice.keep, options.masks)
    if any(find_kind(archive.place) is ShardKind.PARQUET for archive in inputs.archives):
        parquet.require_pyarrow()
    plan = ShardPlan(inputs, store, settings, request, model)
    return ShardSetup(
        plan=plan, options=options, choice=choice, model=model, held=held, threads=threads
    )


def _refuse_options(request: EncodeRequest) -> None:
    """Raises UsageError for options that shards cannot have."""
    request.options.fill().require_consistent()
    if request.out == STDOUT:
        raise UsageError("shards cannot be written to standard output; name a folder or a URL")
    if request.engine == "ray" and request.model.device not in _RAY_DEVICES:
        raise UsageError(
            f"--device {request.model.device}: Ray chooses the device of each process; use "
            f"{' or '.join(_RAY_DEVICES)}"
        )
    if request.prune is not None:
        raise UsageError(
            "--prune works on loose records only; shards keep the records of gone images"
        )
    if request.options.checksum:
        raise UsageError(
            "--checksum works on loose records only; for shards, size and time or ETag count"
        )
    size = request.shard_size
    if size is not None and not 1 <= size <= MAX_SHARD_SIZE:
        raise UsageError(f"--shard-size {size}: expected 1 to {MAX_SHARD_SIZE}")
    if not is_url(request.out) and os.path.exists(request.out) and not os.path.isdir(request.out):
        raise UsageError(f"{request.out}: OUT must be a folder or a URL for shards")
    refuse_file_name(request.out)


def _open_out(request: EncodeRequest) -> Store:
    if not is_url(request.out):
        return LocalStore(request.out, fsync=request.fsync)
    return open_store(request.out, for_writing=True)


def _describe_out(request: EncodeRequest) -> Output | None:
    if is_url(request.out):
        return None
    return Output(request.out, OutputKind.FOLDER, is_latent_file, request.overwrite, request.fsync)


def _choose_samples(
    request: EncodeRequest, options: EncodeOptions, earlier: RunSettings | None
) -> SampleChoice:
    followed = (
        SampleChoice()
        if earlier is None
        else SampleChoice(keep=earlier.keep, column=earlier.column)
    )
    return SampleChoice(
        keep=tuple(sorted(request.keep)) if request.keep else followed.keep,
        column=request.image_column or followed.column,
        anonymous=options.anonymous,
    )


@dataclass(kw_only=True)
class ShardRun(EncodeRun):
    """An encode run into shards."""

    plan: ShardPlan
    writes_shards: ClassVar[bool] = True

    @property
    def not_inputs(self) -> int:
        return self.plan.inputs.others

    def count(self, watch: Watch = ignore_phase) -> int | None:
        with suggest_mask_folder(self.mask_kind):
            self.plan.make(watch)
        return self.plan.total

    @property
    def total(self) -> int | None:
        return self.plan.total

    def count_unmasked(self, unmasked: int, images: int) -> tuple[int, int]:
        """Counts the images of finished shards too, unless they are in tars, or this is a part."""
        if self.masks is None or self.plan.total is None:
            return unmasked, images
        return self.plan.unmasked, self.plan.total

    def describe_orphans(self) -> str | None:
        vanished = self.plan.vanished
        if not vanished:
            return None
        if vanished == 1:
            return "1 image of the shards in OUT is gone from the inputs; its record stays"
        return (
            f"{vanished} images of the shards in OUT are gone from the inputs; their records stay"
        )

    def start(self, control: RunControl) -> Generator[FileResult, None, None]:
        if not self.plan.is_made:
            self.plan.make()
        return super().start(control)


@dataclass
class ShardPlan:
    """The shards of a run: those that OUT holds already, and those to do.

    `make` lists OUT and the inputs once. Afterwards, `total` is the number of images, if it is
    known; `shards` is the number of shards; `vanished` images of the plan in OUT are gone, and
    `changed` images have another version there. `unmasked` loose images have no file of --masks.
    `failed` are the shards with images that failed; only --retry-failed looks for them.
    """

    inputs: ShardInputs
    store: Store
    settings: RunSettings
    request: EncodeRequest
    model: ModelHandle
    is_made: bool = field(default=False, init=False)
    total: int | None = field(default=None, init=False)
    shards: int = field(default=0, init=False)
    vanished: int = field(default=0, init=False)
    changed: int = field(default=0, init=False)
    unmasked: int = field(default=0, init=False)
    replaces: Replaced | None = field(default=None, init=False)
    failed: set[str] = field(default_factory=set, init=False)

    def make(self, watch: Watch = ignore_phase) -> None:
        """Lists OUT and the inputs. Raises UsageError, InputError, OutputError, StorageError."""
        watch(Phase(SCANNING))
        self.contents = OutContents.list(self.store)
        self._refuse_loose()
        self._share = self._parse_share()
        if self.request.retry_failed:
            self.failed = self.contents.find_failed()
        self.loose = self._list_loose(watch)
        self._archives = self.inputs.make_shards(self.settings.digest)
        if self.request.overwrite:
            self.replaces = self._find_replaced()
        else:
            self._refuse_unplanned()
        self.shards = sum(1 for _ in self._take_share(range(self._count_all())))
        self.vanished, self.changed = self.loose.vanished, self.loose.changed
        self.unmasked = self.loose.images - self.inputs.masked if self.inputs.masks else 0
        is_whole = self._share == (0, 1) and self.request.inputs.limit is None
        self.total = self.loose.images if is_whole and not self._archives else None
        self.is_made = True

    def write(self) -> None:
        """Writes the division of loose images into OUT. Raises OutputError, StorageError."""
        if self.inputs.has_loose:
            self.loose.write()
        if self.request.retry_failed or self.request.overwrite:
            self.store.remove(INDEX_NAME)  # it does not show which state of a shard it describes

    def list_done(self) -> list[tuple[str, str]]:
        """Returns the names and the fingerprints of the shards that OUT holds."""
        return [(name, mark) for name, mark, shard in self.list_all() if shard is None]

    def list_todo(self) -> Iterator[Shard]:
        """Yields the shards to do."""
        for name, _, shard in self.list_all():
            if shard is not None:
                marks = tuple(sorted(self.contents.marks.get(name, ())))
                yield replace(shard, marks=marks)

    def list_all(self) -> Iterator[tuple[str, str, Shard | None]]:
        """Yields the name, the fingerprint and, if it is to do, the shard; only this share."""
        return self._take_share(self._list_unshared())

    def _list_unshared(self) -> Iterator[tuple[str, str, Shard | None]]:
        for shard in self._archives:
            is_done = shard.problem is None and self._is_done(shard.name, shard.fingerprint)
            yield shard.name, shard.fingerprint, None if is_done else shard
        yield from self.loose.list_all()

    def _count_all(self) -> int:
        return len(self._archives) + self.loose.count

    def _take_share(self, items: Iterable[T]) -> Iterator[T]:
        index, count = self._share
        shared = (item for number, item in enumerate(items) if number % count == index)
        return itertools.islice(shared, self.request.inputs.limit)

    def _parse_share(self) -> tuple[int, int]:
        if self.request.inputs.shard is None:
            return 0, 1
        share = parse_shard(self.request.inputs.shard, os.environ)
        return share.index, share.count

    def _refuse_loose(self) -> None:
        if self.contents.first_loose is not None:
            raise UsageError(
                f"{self.store.locate(self.contents.first_loose)} is a loose record; shards and "
                "loose records never mix; choose another OUT"
            )

    def _refuse_unplanned(self) -> None:
        """Raises UsageError if OUT has numbered shards without a part of the plan.

        Their images may be in other shards too: a run with --overwrite was stopped, or a part of
        the plan was lost. Without a plan, the images have become fewer.
        """
        numbered = (shard for shard in self.contents.marks if parse_number(shard) is not None)
        unplanned = set(numbered) - self.loose.names if self.inputs.has_loose else ()
        if unplanned:
            first = self.store.locate(f"{min(unplanned)}.tar")
            raise UsageError(
                f"{first}: not in the plan of this run, and its images may be in another shard "
                "too; add --overwrite to encode everything again, or choose another OUT"
            )

    def _list_loose(self, watch: Watch) -> LoosePlan:
        settings = self.settings
        # Without a shard, nobody needs the plan; another run may be writing it, or was killed.
        starts_anew = self.request.overwrite or not self.contents.marks
        loose = LoosePlan(
            self.store,
            settings.digest,
            settings.shard_size,
            settings.anonymous,
            self._is_done,
            starts_anew,
        )
        if self.inputs.has_loose:
            loose.add(watch_items(self.inputs.list_loose(), watch, SCANNING))
        masks = self.inputs.masks
        if masks is not None and loose.images and not (self.inputs.masked or self.inputs.archives):
            raise UsageError(
                f"--masks {masks}: holds no mask of any image; check the folder and the names"
            )
        if not loose.images and not self.inputs.archives:
            others = self.inputs.others
            found = f" ({others} other file{'' if others == 1 else 's'})" if others else ""
            advice = advise_on_images(self.inputs.first_archive)
            raise UsageError(
                f"no images found{found}; "
                f"{advice or 'name images, folders, tars, parquet files or URLs'}"
            )
        return loose

    def _find_replaced(self) -> Replaced:
        planned = self.loose.names | {shard.name for shard in self._archives}
        has_loose = self.inputs.has_loose
        return Replaced.find(self.contents, self.settings, planned, has_loose=has_loose)

    def _is_done(self, name: str, fingerprint: str) -> bool:
        if self.request.overwrite or not self.contents.is_done(name, fingerprint):
            return False
        return not (self.request.retry_failed and name in self.failed)


def _start(
    request: EncodeRequest, setup: ShardSetup, control: RunControl
) -> Generator[FileResult, None, None]:
    """Yields the results of the shards in OUT, then of the shards that are encoded now."""
    plan = setup.plan
    plan.write()
    yield from _report_done(plan)
    open_job = partial(
        open_shard_job,
        plan.store,
        plan.settings,
        setup.options,
        setup.choice,
        setup.model,
        plan.replaces,
    )
    control.part_size = 1
    foreign: list[FileResult] = []
    written: set[str] = set()
    shards = _take_ours(plan, foreign)
    with closing(_run_shards(request, plan, open_job, shards, control)) as results:
        for result in _until_lost(results):
            yield from result.parts
            yield replace(result, parts=())
            if result.status is Status.WRITTEN:
                written.add(result.name)
    yield from foreign
    if not control.stop:
        plan.contents.drop_nonces()
    write_index(plan.store, written)
    plan.contents.sweep(written)


def _until_lost(results: Iterable[FileResult]) -> Iterator[FileResult]:
    """Yields the results of shards. Raises StorageError if many in a row say that a place is lost.

    A process that runs one shard at a time, as on a cluster, cannot see that itself.
    """
    lost = 0
    for result in results:
        lost = lost + 1 if result.error == StorageError.__name__ else 0
        if lost == MOST_STORAGE_ERRORS:
            raise StorageError(result.reason or "", result.details)
        yield result


OpenShardJob = Callable[[], AbstractContextManager[ShardJob]]
"""Opens a `ShardJob`, also in another process."""


def _run_shards(
    request: EncodeRequest,
    plan: ShardPlan,
    open_job: OpenShardJob,
    shards: Iterator[Shard],
    control: RunControl,
) -> Generator[FileResult, None, None]:
    if request.engine == "ray":
        return _run_on_ray(request, plan, open_job, shards, control)
    if control.processes > 1:
        return run_in_processes(open_job, shards, control)
    return run_opened(open_job, shards, control)


def choose_cluster(request: EncodeRequest) -> Cluster:
    """Returns the cluster of a run, with what the other options of the request say about it."""
    device = request.model.device
    return replace(
        request.cluster,
        processes=request.processes,
        uses_gpus=None if device == "auto" else device != "cpu",
    )


def _run_on_ray(
    request: EncodeRequest,
    plan: ShardPlan,
    open_job: OpenShardJob,
    shards: Iterator[Shard],
    control: RunControl,
) -> Generator[FileResult, None, None]:
    """Runs the shards on a Ray cluster. Starts nothing if there are none."""
    first = next(shards, None)
    if first is None:
        return
    place = first.place or next((file.path for file in first.files if not file.problem), None)
    cluster = choose_cluster(request)
    control = replace(control, threads=plan.settings.threads)  # not divided: nodes have their own
    with show_nonce(plan.store) as nonce:
        check = NodeCheck(plan.store, nonce, plan.model, place, plan.inputs.masks)
        every = itertools.chain([first], shards)
        with closing(run_on_ray(open_job, every, control, cluster, check)) as results:
            yield from results


@contextmanager
def open_shard_job(
    store: Store,
    settings: RunSettings,
    options: EncodeOptions,
    choice: SampleChoice,
    model: ModelHandle,
    replaces: Replaced | None = None,
    stdin: BinaryIO | None = None,
) -> Iterator[ShardJob]:
    """Opens a `ShardJob`."""
    output = Output(STDOUT, OutputKind.STREAM, is_latent_file)
    model = relocate(model)
    job = SampleJob(output, model, options, keep=choice.keep)
    yield ShardJob(job, store, choice, settings, model, replaces)


def _take_ours(plan: ShardPlan, foreign: list[FileResult]) -> Iterator[Shard]:
    """Yields the shards to do, except those whose tar dinac did not write."""
    for shard in plan.list_todo():
        name = f"{shard.name}.tar"
        if not plan.request.overwrite and plan.contents.is_foreign(shard.name):
            error = refuse_foreign(plan.store.locate(name))
            foreign.append(FileResult.fail(shard.label, error, name=shard.name))
        else:
            yield shard


def _report_done(plan: ShardPlan) -> Iterator[FileResult]:
    """Yields the results of the shards in OUT; failures of earlier runs are failures again.

    Reads only the markers of shards with failures, and of shards that are not in the index.
    """
    unknown = []
    for name, mark in plan.list_done():
        entry = plan.contents.find_entry(name, mark)
        if entry is None or entry.missed:
            unknown.append((name, mark))
        else:
            yield _make_done(plan, name, entry.nsamples)
    damaged: list[FileResult] = []

    def refuse(shard: str, exc: InputError) -> None:
        damaged.append(FileResult.fail(f"shard {shard}", exc, name=shard))

    for marker in plan.contents.read_markers(unknown, refuse):
        yield from _report_marker(plan, marker)
    yield from damaged


def _report_marker(plan: ShardPlan, marker: Marker) -> Iterator[FileResult]:
    shard = f"shard {marker.shard}"
    if (size := plan.contents.tars[marker.shard]) != marker.size_bytes:
        where = plan.store.locate(f"{marker.shard}.tar")
        problem = f"{where}: has {size} bytes, not {marker.size_bytes} as its marker says"
        error = OutputError(f"{problem}; delete it, and its shard is encoded again")
        yield FileResult.fail(shard, error, name=marker.shard)
        return
    yield _make_done(plan, marker.shard, marker.images)
    for failure in marker.failures:
        file = failure.name or f"{shard}: {failure.key}"
        reason = failure.reason or "failed in an earlier run; --retry-failed tries it again"
        yield FileResult(file, Status.FAILED, reason=reason, error=failure.error)
    if marker.skipped:
        reason = "skipped by an earlier run"
        yield FileResult(shard, Status.SKIPPED, reason=reason, images=marker.skipped, pixels=0)


def _make_done(plan: ShardPlan, name: str, images: int) -> FileResult:
    output = plan.store.locate(f"{name}.tar")
    return FileResult(
        f"shard {name}", Status.DONE, output=output, name=name, images=images, pixels=0
    )
