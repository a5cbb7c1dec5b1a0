"""Predicts the time of a run into shards, what limits it, and what a device needs to be busy."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.errors import DinacError
from dinac_cli.jobs.encode import EncodeOptions
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.local import run_opened
from dinac_cli.jobs.freshness import is_latent_file
from dinac_cli.jobs.results import FileResult
from dinac_cli.jobs.shards.packing import SampleJob
from dinac_cli.jobs.shards.sample import Sample, SampleChoice
from dinac_cli.jobs.shards.sample_images import Probe
from dinac_cli.jobs.trial import Trial, run_trial
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.output import STDOUT, Output, OutputKind

PACK_SECONDS_PER_PIXEL = 2.5e-9
PIPELINE_SECONDS = 0.5e-3
"""CPU time of one core, as `dinac bench --only shards` measures it: to pack a record, for each
pixel; and for the rest of the work on an image, except for reading it."""

_LIMITS = {"read": "decode", "model": "device", "write": "pack"}


@dataclass(frozen=True)
class SampleSizes:
    """Means over the readable images of a probe.

    `pixels` are encoded for each image, after scaling and cropping, and `kept_bytes` of other files
    are copied. `read_seconds` is the CPU time of one core to read and decode an image.
    """

    images: int
    pixels: float
    bytes_in: float
    kept_bytes: float
    read_seconds: float

    @property
    def host_seconds(self) -> float:
        """The CPU time of one core for each image: measured for reading, typical for the rest."""
        return self.read_seconds + PACK_SECONDS_PER_PIXEL * self.pixels + PIPELINE_SECONDS


def measure_samples(
    probe: Probe, model: ModelHandle, options: EncodeOptions, choice: SampleChoice
) -> SampleSizes | None:
    """Reads the images of a probe. Returns None if none can be read. Loads no model."""
    job = _make_job(model, options, choice)
    sizes: list[tuple[int, int, int]] = []
    spent = 0.0
    for entry in probe.entries:
        began = time.thread_time()
        work = _read(job, entry)
        seconds = time.thread_time() - began
        if work is not None:
            kept = sum(map(len, entry.beside.values()))
            sizes.append((work.source.height * work.source.width, work.source.size_bytes, kept))
            spent += seconds
    if not sizes:
        return None
    pixels, bytes_in, kept_bytes = (sum(column) / len(sizes) for column in zip(*sizes, strict=True))
    return SampleSizes(len(sizes), pixels, bytes_in, kept_bytes, spent / len(sizes))


@dataclass(frozen=True, kw_only=True)
class SpeedEstimate:
    """How long a run takes, and why.

    `seconds` is None if the time is unknown; `basis` says how it was found, or why not. It does not
    count the network. `device_rate` is the speed of one device in images per second: measured
    here, or, if `is_assumed`, as the user says. `host_seconds` is the CPU time of one core for each
    image. `limit` is decode, device or pack. `record_bytes` is the mean size of tried records.
    """

    seconds: float | None
    basis: str
    tried: int = 0
    device_rate: float | None = None
    is_assumed: bool = False
    host_seconds: float | None = None
    limit: str | None = None
    record_bytes: float | None = None

    @property
    def cores(self) -> int | None:
        """The number of cores that keep one device busy."""
        if self.device_rate is None or self.host_seconds is None:
            return None
        return max(1, math.ceil(self.device_rate * self.host_seconds))

    def count_processes(self, cpus: int) -> int | None:
        """Returns the number of processes that keep one device busy, with `cpus` cores each."""
        return None if self.cores is None else math.ceil(self.cores / cpus)


@dataclass(frozen=True, kw_only=True)
class SpeedTrial:
    """A trial of the images of a probe, with the model and the options of a run."""

    probe: Probe
    sizes: SampleSizes
    model: ModelHandle
    options: EncodeOptions
    choice: SampleChoice

    def estimate(self, images: float, control: RunControl) -> SpeedEstimate:
        """Encodes the images and discards the records. Raises ModelError, DeviceError."""
        trial = run_trial(self.probe, self.model, self.options, control, self._encode)
        if trial is None:
            return SpeedEstimate(seconds=None, basis="no image of the sample can be encoded")
        return SpeedEstimate(
            seconds=trial.estimate_seconds(round(images * self.sizes.pixels)),
            basis=trial.basis,
            tried=trial.files,
            device_rate=_find_device_rate(trial, control),
            host_seconds=self.sizes.host_seconds,
            limit=_LIMITS[control.clock.limiting],
            record_bytes=trial.record_bytes,
        )

    def _encode(
        self, entries: Iterable[Input], control: RunControl
    ) -> Generator[FileResult, None, None]:
        open_job = partial(_open_job, self.model, self.options, self.choice)
        return run_opened(open_job, entries, control, control.stdout)


def assume_speed(
    rate: float, images: float, sizes: SampleSizes, processors: int | None
) -> SpeedEstimate:
    """Predicts the time on one device that computes `rate` images per second.

    `processors` read and pack; None if their number is unknown, because it is a cluster's.
    """
    feed = math.inf if processors is None else processors / sizes.host_seconds
    beside = "" if processors is None else f" and {processors} cores"
    return SpeedEstimate(
        seconds=images / min(rate, feed),
        basis=f"assumed: one device with --model-rate {rate:g}{beside}",
        device_rate=rate,
        is_assumed=True,
        host_seconds=sizes.host_seconds,
        limit="decode" if feed < rate else "device",
    )


def _find_device_rate(trial: Trial, control: RunControl) -> float | None:
    """Returns the speed of a GPU in images per second; None on a CPU, which also does the rest."""
    busy = control.clock.device_seconds
    return trial.encoded / busy if busy else None


def _read(job: SampleJob, entry: Sample) -> Any:
    """Returns an image that was read; None if that is impossible."""
    try:
        work = job.read(entry, lambda size_bytes: None)
    except (DinacError, OSError, MemoryError):
        return None
    return None if isinstance(work, FileResult) else work


def _make_job(model: ModelHandle, options: EncodeOptions, choice: SampleChoice) -> SampleJob:
    output = Output(STDOUT, OutputKind.STREAM, is_latent_file)
    return SampleJob(output, model, options, keep=choice.keep)


@contextmanager
def _open_job(
    model: ModelHandle,
    options: EncodeOptions,
    choice: SampleChoice,
    stdin: BinaryIO | None = None,
) -> Iterator[SampleJob]:
    yield _make_job(model, options, choice)
