"""Measures how many images per second the host feeds to a model that takes no time.

The host reads, unpacks, packs and writes files. Never imports torch.
"""

from __future__ import annotations

import itertools
import shutil
import time
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
from dinac_cli.jobs.executor.job import Job, deliver
from dinac_cli.jobs.executor.local import run_opened
from dinac_cli.jobs.executor.phase import Phase, Watch, ignore_phase
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


@dataclass(frozen=True)
class HostFigures:
    """How fast `processes` processes feed a model that takes no time.

    `parent_us` is the CPU time that the parent process needs for each image, in microseconds. If
    `processes` is 1, there is no other process, and the parent does all the work.
    """

    task: str
    processes: int
    images_per_second: float
    parent_us: float


@dataclass(frozen=True)
class HostStages:
    """How fast one thread does each stage, in images per second.

    A stage of `encode` reads an image file, packs latents into a record, or writes a record. A
    stage of `decode` reads and unpacks a record, packs pixels into an image file, or writes it.
    """

    task: str
    read: float
    pack: float
    write: float


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


def list_tasks(images: Sequence[Path], model: ModelHandle, folder: Path) -> Iterator[HostTask]:
    """Yields the tasks: encode the images, and decode their records to each of `FORMATS`.

    Writes the records into `folder`. Raises DinacError if an image cannot be read.
    """
    entries = [Input(str(path), path.name) for path in images]
    encode = HostTask("encode", partial(_open_encode, model), entries)
    yield encode
    with encode.open_job(str(folder)) as job:
        for _, result in zip(entries, _run(job, entries), strict=True):
            _require_done(result)
    records = sorted(folder.glob(f"*{LATENT_SUFFIX}"))
    latents = [RecordEntry(str(path), path.name, path=str(path)) for path in records]
    for form in FORMATS:
        yield HostTask(f"decode to {form}", partial(_open_decode, model, form), latents)


def measure_stages(task: HostTask, folder: Path) -> HostStages:
    """Times each stage of a task alone, in one thread. Raises DinacError."""
    entries = list(itertools.islice(task.list_entries(), _STAGE_FILES))
    with task.open_job("-", is_stream=True) as job:
        read, works = _time(lambda: [_read(job, entry) for entry in entries])
        computed = [job.submit([work]).result()[0] for work in works]
        pairs = list(zip(works, computed, strict=True))
        pack, made = _time(lambda: [job.finish(*pair) for pair in pairs])
    output = Output(str(folder), OutputKind.FOLDER, lambda path: False)
    write, _ = _time(
        lambda: [deliver(output, one.result.name, one.data, one.result) for one in made]
    )
    return HostStages(task.name, *(len(entries) / seconds for seconds in (read, pack, write)))


def measure_host(
    task: HostTask, processes: int, folder: Path, seconds: float, watch: Watch = ignore_phase
) -> HostFigures:
    """Runs a task for some seconds, counted from its first result. Raises DinacError."""
    watch(Phase("timing the host", detail=f"{task.name}, {processes} processes"))
    control = RunControl(workers=0, in_flight=4, processes=processes, sharers=processes, threads=1)
    shutil.rmtree(folder, ignore_errors=True)
    open_job: OpenJob[Any, Any, Any] = partial(task.open_job, str(folder))
    run = run_opened if processes == 1 else run_in_processes
    with closing(run(open_job, task.list_entries(), control)) as results:
        _require_done(next(results))
        began, used, count, now = time.perf_counter(), time.process_time(), 0, 0.0
        for result in results:
            _require_done(result)
            count += 1
            now = time.perf_counter()
            if now - began > seconds:
                break
        used = time.process_time() - used
    return HostFigures(task.name, processes, count / (now - began), 1e6 * used / count)


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
    model: ModelHandle, folder: str, *, is_stream: bool = False
) -> Iterator[EncodeJob]:
    output = _open_output(folder, is_latent_file, is_stream=is_stream)
    yield EncodeJob(output, _store_engine(model), EncodeOptions())


@contextmanager
def _open_decode(
    model: ModelHandle, form: str, folder: str, *, is_stream: bool = False
) -> Iterator[DecodeJob]:
    options = DecodeOptions(settings=DinacAEInferenceConfig(seed=0), format=OUTPUT_FORMATS[form])
    output = _open_output(folder, is_stamped_image, is_stream=is_stream)
    yield DecodeJob(output, FixedModel(_store_engine(model)), options)


def _open_output(folder: str, is_ours: Callable[[str], bool], *, is_stream: bool) -> Output:
    return Output(folder, OutputKind.STREAM if is_stream else OutputKind.FOLDER, is_ours)


def _store_engine(model: ModelHandle) -> ModelHandle:
    """Returns the model with an engine that takes no time."""
    stored = replace(model)
    stored.__dict__["engine"] = _StoredEngine(model.config.patch_size, model.config.bottleneck_dim)
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
