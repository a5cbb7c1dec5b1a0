"""Measures what an image costs the processor on its way into a shard: reading, packing, the rest.

CPU time depends less on other work on the machine than the speed does.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from dinac_cli.bench.host import keep_stored
from dinac_cli.codec.handle import ModelHandle
from dinac_cli.errors import DinacError
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.images.geometry import Geometry
from dinac_cli.images.reading import WHITE, read_shaped
from dinac_cli.images.writing import write_image
from dinac_cli.jobs.encode import EncodeOptions
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.local import run_opened
from dinac_cli.jobs.executor.pool import run_in_processes
from dinac_cli.jobs.freshness import is_latent_file
from dinac_cli.jobs.results import FileResult
from dinac_cli.jobs.shards.packing import SampleJob, ShardJob
from dinac_cli.jobs.shards.run_settings import RunSettings
from dinac_cli.jobs.shards.sample import Sample, SampleChoice
from dinac_cli.jobs.shards.shard import LooseFile, Shard, ShardKind, number_shard
from dinac_cli.jobs.shards.shard_run import open_shard_job
from dinac_cli.storage.local import LocalStore
from dinac_cli.storage.output import STDOUT, Output, OutputKind
from dinac_cli.storage.store import Store

SIDES = ((256, None), (512, None), (1024, 256))
"""The images that are measured: the side of the square JPEG, and the side that it is scaled to."""

PRECISIONS = ("bf16", "q8", "q6")
"""The precisions of the records that are measured."""

QUALITY = 85
"""The quality of the JPEGs, which decides their size and the time to decode them."""

SHARD_IMAGES = 250
"""The images in each shard while the pipeline is measured."""

_MOST_IMAGES = 24
_LEAST_ROUNDS = 2
_WORKERS = 2


@dataclass(frozen=True)
class RecordCost:
    """Records of one precision: their mean size, and the CPU time to pack one."""

    precision: str
    kilobytes: float
    pack_ms: float


@dataclass(frozen=True)
class ImageCost:
    """JPEGs of `side` x `side` pixels, which are scaled to `resize` x `resize` unless it is None.

    `kilobytes` is their mean size, and `read_ms` the CPU time to read and decode one.
    """

    side: int
    resize: int | None
    kilobytes: float
    read_ms: float
    records: tuple[RecordCost, ...]


@dataclass(frozen=True)
class PipelineCost:
    """How `processes` processes write shards of 256 x 256 JPEGs, with a model that takes no time.

    In one process: `cpu_ms` is the CPU time of all its threads for each image, and `main_ms` that
    of the thread that runs the model. With several processes, `parent_us` is the CPU time of the
    process that hands the shards out, in microseconds for each image.
    """

    processes: int
    images_per_second: float
    cpu_ms: float | None = None
    main_ms: float | None = None
    parent_us: float | None = None


def make_jpegs(images: Sequence[Path], side: int, folder: Path) -> list[Path]:
    """Scales and crops images to squares, and writes them as JPEGs. Raises ImageError."""
    folder.mkdir(parents=True, exist_ok=True)
    square = Geometry(resize=side, crop=(side, side))
    paths = []
    for number, path in enumerate(images[:_MOST_IMAGES]):
        image = read_shaped(
            path.read_bytes(), _hold, background=WHITE, max_pixels=MAX_PIXELS, geometry=square
        )
        paths.append(folder / f"{number:04}.jpg")
        paths[-1].write_bytes(write_image(image.pixels, "jpg", quality=QUALITY))
    return paths


def measure_images(
    images: Sequence[Path], model: ModelHandle, folder: Path, seconds: float
) -> Iterator[ImageCost]:
    """Yields the costs of images of each of `SIDES`. Each takes some seconds. Raises DinacError."""
    for side, resize in SIDES:
        paths = make_jpegs(images, side, folder / str(side))
        yield _measure_image(paths, side, resize, model, seconds)


def _measure_image(
    paths: Sequence[Path], side: int, resize: int | None, model: ModelHandle, seconds: float
) -> ImageCost:
    options = EncodeOptions(geometry=Geometry(resize=resize))
    entries = [Sample(str(path), path.name) for path in paths]
    share = seconds / (1 + len(PRECISIONS))
    job = _open_job(model, options)
    works, read_ms = _repeat(lambda: [_read(job, entry) for entry in entries], share)
    computed = [job.submit([work]).result()[0] for work in works]
    pairs = list(zip(works, computed, strict=True))
    records = []
    for precision in PRECISIONS:
        packer = _open_job(model, replace(options, precision=precision))
        made, pack_ms = _repeat(lambda p=packer: [p.finish(*pair) for pair in pairs], share)
        size = sum(len(one.data) for one in made) / len(made)
        records.append(RecordCost(precision, size / 1000, pack_ms / len(made)))
    size = sum(path.stat().st_size for path in paths) / len(paths)
    return ImageCost(side, resize, size / 1000, read_ms / len(paths), tuple(records))


def _repeat(work: Any, seconds: float) -> tuple[list[Any], float]:
    """Repeats work for some seconds. Returns its result, and its mean CPU time in ms."""
    result = work()  # fills the caches
    end, count, began = time.monotonic() + seconds, 0, time.thread_time()
    while count < _LEAST_ROUNDS or time.monotonic() < end:
        result = work()
        count += 1
    return result, 1000 * (time.thread_time() - began) / count


def measure_pipeline(
    paths: Sequence[Path], model: ModelHandle, folder: Path, processes: int, seconds: float
) -> PipelineCost:
    """Writes shards of JPEGs for some seconds, counted from the first one. Raises DinacError."""
    options, choice = EncodeOptions(), SampleChoice()
    settings = RunSettings.of(model, options, choice, SHARD_IMAGES, 1)
    store = LocalStore(str(folder))
    open_job = partial(_open_shard_job, store, settings, options, choice, model)
    control = RunControl(
        workers=_WORKERS if processes == 1 else 0,
        in_flight=8,
        processes=processes,
        sharers=processes,
        threads=1,
        part_size=1,
    )
    run = run_opened if processes == 1 else run_in_processes
    with closing(run(open_job, _list_shards(paths), control)) as results:
        for _ in range(processes):
            _require_done(next(results))
        thread, process, began = time.thread_time(), time.process_time(), time.perf_counter()
        images = 0
        while time.perf_counter() - began < seconds:
            images += _require_done(next(results))
        spent = time.perf_counter() - began
        thread, process = time.thread_time() - thread, time.process_time() - process
    rate = images / spent
    if processes > 1:
        return PipelineCost(processes, rate, parent_us=1e6 * process / images)
    return PipelineCost(1, rate, 1000 * process / images, 1000 * thread / images)


@contextmanager
def _open_shard_job(
    store: Store,
    settings: RunSettings,
    options: EncodeOptions,
    choice: SampleChoice,
    model: ModelHandle,
    stdin: BinaryIO | None = None,
) -> Iterator[ShardJob]:
    with open_shard_job(store, settings, options, choice, keep_stored(model)) as job:
        yield job


def _list_shards(paths: Sequence[Path]) -> Iterator[Shard]:
    """Yields shards of the same files without end, each file under new names."""
    for number in itertools.count():
        files = itertools.islice(itertools.cycle(paths), SHARD_IMAGES)
        yield Shard(
            name=number_shard(number),
            kind=ShardKind.LOOSE,
            fingerprint="0" * 16,
            files=tuple(
                LooseFile(str(path), f"{index:06}.jpg", 0, "") for index, path in enumerate(files)
            ),
        )


def _require_done(result: FileResult) -> int:
    if result.failed or result.parts:
        [first, *_] = [*result.parts, result]
        raise DinacError(f"{first.file}: {first.reason}")
    assert result.output is not None, "a shard has a tar"
    os.unlink(result.output)  # they would fill the disk
    return result.images


def _open_job(model: ModelHandle, options: EncodeOptions) -> SampleJob:
    return SampleJob(Output(STDOUT, OutputKind.STREAM, is_latent_file), model, options)


def _read(job: SampleJob, entry: Sample) -> Any:
    read = job.read(entry, _hold)
    if isinstance(read, FileResult):
        raise DinacError(f"{entry.label}: {read.reason}")
    return read


def _hold(size_bytes: int) -> None:
    """Any amount of memory may be used."""
