"""Times each stage of a run alone, and then the whole run, without the loading of the model."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.errors import DinacError
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.jobs.decode import DecodeJob, DecodeOptions
from dinac_cli.jobs.encode import EncodeJob, EncodeOptions
from dinac_cli.jobs.entries import RecordEntry
from dinac_cli.jobs.executor.batches import Batcher
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.job import E, Job, R, W
from dinac_cli.jobs.executor.local import REORDER_BYTES, run_job
from dinac_cli.jobs.executor.phase import Phase, Watch, ignore_phase
from dinac_cli.jobs.freshness import is_latent_file, is_stamped_image
from dinac_cli.jobs.model_choice import FixedModel
from dinac_cli.jobs.results import FileResult
from dinac_cli.models.interface import DinacAEInferenceConfig
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.output import Output, OutputKind

T = TypeVar("T")

ROUNDS = 3


@dataclass(frozen=True)
class StageFigures:
    """The times of a run and of its stages. Each time is the shortest of `ROUNDS` measurements.

    `read`, `model` and `write` are the times of single stages, with as many threads as in a run.
    For `model`, the model computes one micro-batch at a time. For `overlapped`, it computes several
    micro-batches at the same time, as in a run. `whole` is the time of the whole run.
    """

    command: str
    files: int
    read_seconds: float
    model_seconds: float
    write_seconds: float
    overlapped_seconds: float
    whole_seconds: float

    @property
    def ratio(self) -> float:
        """The time of the whole run, divided by the time of the slowest stage."""
        return self.whole_seconds / max(self.read_seconds, self.model_seconds, self.write_seconds)

    @property
    def overlapped_ratio(self) -> float:
        """The time of the whole run, divided by `overlapped_seconds`.

        The ratio is 1 if reading and writing take no extra time.
        """
        return self.whole_seconds / self.overlapped_seconds


def measure_encode(
    images: Sequence[Path],
    model: ModelHandle,
    workers: int,
    folder: Path,
    watch: Watch = ignore_phase,
) -> StageFigures:
    """Times each stage of encoding images into `folder`, and the whole run. Raises DinacError."""

    def make_job(name: str) -> EncodeJob:
        return EncodeJob(_make_output(folder / name, is_latent_file), model, EncodeOptions())

    entries = [Input(str(path), f"{number:06d}") for number, path in enumerate(images)]
    return _measure("encode", make_job, entries, workers, folder, watch)


def measure_decode(
    latents: Sequence[Path],
    model: ModelHandle,
    workers: int,
    folder: Path,
    watch: Watch = ignore_phase,
) -> StageFigures:
    """Times each stage of decoding records to PNG, and the whole run. Raises DinacError."""
    options = DecodeOptions(settings=DinacAEInferenceConfig(seed=0), format=OUTPUT_FORMATS["png"])

    def make_job(name: str) -> DecodeJob:
        output = _make_output(folder / name, is_stamped_image)
        return DecodeJob(output, FixedModel(model), options)

    entries = [RecordEntry(str(path), path.name, path=str(path)) for path in latents]
    return _measure("decode", make_job, entries, workers, folder, watch)


def _measure(
    command: str,
    make_job: Callable[[str], Job[E, W, R]],
    entries: Sequence[E],
    workers: int,
    folder: Path,
    watch: Watch,
) -> StageFigures:
    """Times the command `ROUNDS` times. The outputs of the last run stay in `folder/whole`."""
    name = f"timing the stages of {command}"
    watch(Phase(name, 0, ROUNDS, "loading the model"))
    _run(make_job("warm"), entries[:2], workers)
    rounds = []
    for done in range(ROUNDS):
        watch(Phase(name, done, ROUNDS, f"{len(entries)} files"))
        for part in ("parts", "whole"):
            shutil.rmtree(folder / part, ignore_errors=True)
        rounds.append(_time_round(make_job, entries, workers))
    return StageFigures(command, len(entries), *map(min, zip(*rounds, strict=True)))


def _time_round(
    make_job: Callable[[str], Job[E, W, R]], entries: Sequence[E], workers: int
) -> tuple[float, ...]:
    """Returns the times of one round in seconds, in the order of the fields of `StageFigures`."""
    job = make_job("parts")
    with ThreadPoolExecutor(workers) as pool:
        read, works = _time(lambda: list(pool.map(partial(_read, job), entries)))
        batches = _gather(job, works)
        model, _ = _time(lambda: [job.submit(batch).result() for batch in batches])
        overlapped, made = _time(partial(_compute, job, batches))
        write, _ = _time(partial(_finish, job, made, pool))
    works.clear()
    made.clear()
    whole, _ = _time(lambda: _run(make_job("whole"), entries, workers))
    return read, model, write, overlapped, whole


def _read(job: Job[E, W, R], entry: E) -> W:
    read = job.read(entry, lambda size_bytes: None)
    if isinstance(read, FileResult):
        raise DinacError(f"{entry.label}: {read.reason or 'is up to date'}")
    return read


def _gather(job: Job[E, W, R], works: Sequence[W]) -> list[list[W]]:
    """Returns the micro-batches that a run would form."""
    batcher: Batcher[object, W] = Batcher(job.batch_size, REORDER_BYTES)
    added = (batcher.add(work, work.group, work.held_bytes) for work in works)
    return [*itertools.chain.from_iterable(added), *batcher.flush()]


def _compute(job: Job[E, W, R], batches: Sequence[list[W]]) -> list[tuple[W, R]]:
    in_flight = [(batch, job.submit(batch)) for batch in batches]
    return [
        pair
        for batch, computing in in_flight
        for pair in zip(batch, computing.result(), strict=True)
    ]


def _finish(job: Job[E, W, R], made: list[tuple[W, R]], pool: ThreadPoolExecutor) -> None:
    for written in pool.map(lambda pair: job.finish(*pair), made):
        if written.result.failed:
            raise DinacError(f"{written.result.file}: {written.result.reason}")


def _run(job: Job[E, W, R], entries: Sequence[E], workers: int) -> None:
    for result in run_job(job, entries, RunControl(workers=workers, in_flight=4 * workers)):
        if result.failed:
            raise DinacError(f"{result.file}: {result.reason}")


def _make_output(folder: Path, is_ours: Callable[[str], bool]) -> Output:
    return Output(str(folder), OutputKind.FOLDER, is_ours)


def _time(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
