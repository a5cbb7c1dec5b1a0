"""Measures how many images per second the host feeds to a model that takes no time.

The host reads, unpacks, packs and writes files.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import DinacError
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.images.pixels import Pixels
from dinac_cli.jobs.decode import DecodeJob, DecodeOptions
from dinac_cli.jobs.encode import EncodeJob, EncodeOptions
from dinac_cli.jobs.entries import RecordEntry
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.job import Job
from dinac_cli.jobs.executor.local import BATCHES_AHEAD, run_opened
from dinac_cli.jobs.executor.pool import OpenJob, run_in_processes
from dinac_cli.jobs.freshness import is_latent_file, is_stamped_image
from dinac_cli.jobs.model_choice import FixedModel
from dinac_cli.jobs.results import FileResult
from dinac_cli.models.interface import DinacAEInferenceConfig
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.naming import LATENT_SUFFIX
from dinac_cli.storage.output import Output, OutputKind

FORMATS = ("png", "jpg", "webp")
"""The image formats whose decoding is measured."""

_BATCH_TOKENS = 8192  # as on a GPU
_STAGE_FILES = 64
_WARM_SECONDS = 1.0  # after the first result; until then, all processes have started


@dataclass(frozen=True)
class ProcessFigures:
    """How fast `processes` processes do a task with a model that takes no time.

    `parent_us` is the CPU time that the parent process needs for each image, in microseconds; None
    if `processes` is 1, because then the parent does all the work.
    """

    processes: int
    images_per_second: float
    parent_us: float | None


@dataclass(frozen=True)
class HostTaskFigures:
    """How fast one thread does each stage of a task, in images per second; `whole` is all of it.

    A stage of `encode` reads an image file, packs latents into a record, or writes a record. A
    stage of `decode` reads and unpacks a record, packs pixels into an image file, or writes it.
    `model` is the speed of the model on its device: measured, or as the user says. If `whole` is
    slower, the device waits for the host.
    """

    task: str
    read: float
    pack: float
    write: float
    model: float
    whole: tuple[ProcessFigures, ...]


@dataclass(frozen=True)
class HostTask:
    """One command and its input files. `open_job(folder, is_stream)` opens its job."""

    name: str
    open_job: Callable[..., Any]
    entries: Sequence[Input | RecordEntry]

    def list_entries(self) -> Iterator[Any]:
        """Yields the entries again and again, each time with another name."""
        for number, entry in enumerate(itertools.cycle(self.entries)):
            yield replace(entry, name=f"{number:09d}")


def list_counts(processors: int) -> list[int]:
    """Returns the numbers of processes to measure: 1, 2, 4… and the number of processors."""
    counts = {2**power for power in range(processors.bit_length())}
    return sorted(counts | {processors})


def list_tasks(
    images: Sequence[Path], encoder: ModelHandle, decoder: ModelHandle, folder: Path
) -> Iterator[HostTask]:
    """Yields the tasks: encode the images, and decode their records to each of `FORMATS`.

    Writes the records into `folder`. Raises DinacError if an image cannot be read.
    """
    entries = [Input(str(path), path.name) for path in images]
    encode = HostTask("encode", partial(_open_encode, encoder), entries)
    yield encode
    with encode.open_job(str(folder)) as job:
        for _, result in zip(entries, _run(job, entries), strict=True):
            _require_done(result)
    records = sorted(folder.glob(f"*{LATENT_SUFFIX}"))
    latents = [RecordEntry(str(path), path.name, path=str(path)) for path in records]
    for form in FORMATS:
        yield HostTask(f"decode to {form}", partial(_open_decode, decoder, form), latents)


def measure_task(
    task: HostTask,
    counts: Sequence[int],
    folder: Path,
    seconds: float,
    model_rate: float | None = None,
) -> HostTaskFigures:
    """Times each stage of a task alone, and then the task in each number of processes.

    If `model_rate` is None, also times the model. Each measurement takes some `seconds`. Raises
    DinacError.
    """
    read, pack, write = _measure_stages(task, folder / "stages")
    model = model_rate or _measure_model(task, seconds)
    whole = [_measure_whole(task, count, folder / "whole", seconds) for count in counts]
    return HostTaskFigures(task.name, read, pack, write, model, tuple(whole))


def _measure_stages(task: HostTask, folder: Path) -> tuple[float, float, float]:
    """Returns how many images per second one thread reads, packs and writes."""
    entries = list(itertools.islice(task.list_entries(), _STAGE_FILES))
    with task.open_job("-", is_stream=True) as job:
        read, works = _time(lambda: [_read(job, entry) for entry in entries])
        computed = [job.submit([work]).result()[0] for work in works]
        pairs = list(zip(works, computed, strict=True))
        pack, made = _time(lambda: [job.finish(*pair) for pair in pairs])
    shutil.rmtree(folder, ignore_errors=True)
    output = Output(str(folder), OutputKind.FOLDER, lambda path: False)
    write, _ = _time(lambda: [output.deliver(one.result.name, one.data) for one in made])
    count = len(entries)
    return count / read, count / pack, count / write


def _measure_whole(task: HostTask, processes: int, folder: Path, seconds: float) -> ProcessFigures:
    """Runs a task for some seconds, counted from its first result."""
    control = RunControl(workers=0, in_flight=4, processes=processes, sharers=processes, threads=1)
    shutil.rmtree(folder, ignore_errors=True)
    open_job: OpenJob[Any, Any, Any] = partial(task.open_job, str(folder))
    run = run_opened if processes == 1 else run_in_processes
    with closing(run(open_job, task.list_entries(), control)) as results:
        _take_for(results, 0.0 if processes == 1 else _WARM_SECONDS)
        used, began = time.process_time(), time.perf_counter()
        count = _take_for(results, seconds)
        used, spent = time.process_time() - used, time.perf_counter() - began
    parent_us = None if processes == 1 else 1e6 * used / count
    return ProcessFigures(processes, count / spent, parent_us)


def _take_for(results: Iterator[FileResult], seconds: float) -> int:
    """Takes results for some seconds, counted from the first one. Returns their number."""
    _require_done(next(results))
    end, count = time.perf_counter() + seconds, 1
    while time.perf_counter() < end:
        _require_done(next(results))
        count += 1
    return count


def _measure_model(task: HostTask, seconds: float) -> float:
    """Returns how many images per second the model of a task computes, without reading and writing.

    Several batches are in flight, as in a run. Loads the model. Raises DinacError.
    """
    with task.open_job("-", is_stream=True, stored=False) as job:
        work = _read(job, task.entries[0])
        batch = [work] * job.batch_size(work.group)
        job.submit(batch).result()
        in_flight = deque(job.submit(batch) for _ in range(BATCHES_AHEAD))
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            in_flight.popleft().result()
            count += len(batch)
            in_flight.append(job.submit(batch))
        spent = time.perf_counter() - began
        while in_flight:
            in_flight.popleft().result()
    return count / spent


def _run(job: Job[Any, Any, Any], entries: Sequence[Any]) -> Iterator[FileResult]:
    for entry in entries:
        [computed] = job.submit([work := _read(job, entry)]).result()
        yield job.finish(work, computed).result


def _read(job: Job[Any, Any, Any], entry: Any) -> Any:
    read = job.read(entry, lambda size_bytes: None)
    if isinstance(read, FileResult):
        raise DinacError(f"{entry.label}: {read.reason or 'is up to date'}")
    return read


def _require_done(result: FileResult) -> None:
    if result.failed:
        raise DinacError(f"{result.file}: {result.reason}")


def _time(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


@contextmanager
def _open_encode(
    model: ModelHandle, folder: str, *, is_stream: bool = False, stored: bool = True
) -> Iterator[EncodeJob]:
    output = _open_output(folder, is_latent_file, is_stream=is_stream)
    yield EncodeJob(output, keep_stored(model) if stored else model, EncodeOptions())


@contextmanager
def _open_decode(
    model: ModelHandle, form: str, folder: str, *, is_stream: bool = False, stored: bool = True
) -> Iterator[DecodeJob]:
    options = DecodeOptions(settings=DinacAEInferenceConfig(seed=0), format=OUTPUT_FORMATS[form])
    output = _open_output(folder, is_stamped_image, is_stream=is_stream)
    yield DecodeJob(output, FixedModel(keep_stored(model) if stored else model), options)


def _open_output(folder: str, is_ours: Callable[[str], bool], *, is_stream: bool) -> Output:
    return Output(folder, OutputKind.STREAM if is_stream else OutputKind.FOLDER, is_ours)


def keep_stored(model: ModelHandle) -> ModelHandle:
    """Returns the model with an engine that takes no time."""
    stored = replace(model)
    stored.__dict__["engine"] = _StoredEngine(model.traits.patch, model.traits.channels)
    return stored


class _StoredEngine:
    """In place of `codec.engine.Engine`: gives all images of one size the same stored result."""

    compute = "host/none"

    def __init__(self, patch: int, channels: int) -> None:
        self._patch = patch
        self._channels = channels
        self._stored: dict[Hashable, Any] = {}

    def batch_size(self, height: int, width: int) -> int:
        return max(1, _BATCH_TOKENS // (height * width // self._patch**2))

    def check_size(self, height: int, width: int) -> None:
        pass

    def take_busy_spans(self) -> list[Any]:
        return []

    def take_remarks(self) -> list[str]:
        return []

    def measure_room(self) -> None:
        pass

    def submit_images(self, images: Sequence[Pixels], **extras: bool) -> _Ready:
        height, width, _ = images[0].shape
        shape = (self._channels, -(-height // self._patch), -(-width // self._patch))
        return _Ready([self._recall(shape, _draw_latents)] * len(images))

    def submit_latents(
        self, latents: Sequence[object], sizes: Sequence[tuple[int, int]], settings: object
    ) -> _Ready:
        return _Ready([self._recall((*size, 3), _draw_pixels) for size in sizes])

    def _recall(self, shape: tuple[int, ...], draw: Callable[[tuple[int, ...]], Any]) -> Any:
        if shape not in self._stored:
            self._stored[shape] = draw(shape)
        return self._stored[shape]


@dataclass(frozen=True)
class _Ready:
    """A batch that is done at once."""

    results: list[Any]
    is_done: bool = True

    def result(self) -> list[Any]:
        return self.results


def _draw_latents(shape: tuple[int, ...]) -> Encoded:
    return Encoded(np.random.default_rng(0).standard_normal(shape, np.float32))


def _draw_pixels(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Draws a gradient with some noise, which is as hard to compress as a photograph."""
    rows, columns, _ = np.indices(shape)
    noise = np.random.default_rng(0).integers(0, 8, shape)
    pixels: npt.NDArray[np.uint8] = ((rows // 2 + columns // 3 + noise) % 256).astype(np.uint8)
    return pixels
