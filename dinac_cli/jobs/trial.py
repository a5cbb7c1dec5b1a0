"""Estimates the time of an encode run: encodes a sample of the images and discards the records."""

from __future__ import annotations

import heapq
import itertools
import math
import os
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.jobs.encode import EncodeOptions, encode_inputs
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.freshness import is_latent_file
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.output import STDOUT, Output, OutputKind

TRIAL_FILES = 32
TRIAL_SECONDS = 2.0


class Sampled(Protocol):
    """Some of the images of a run; if `is_all` is set, all of them."""

    @property
    def entries(self) -> Sequence[Input]:
        """The images."""

    @property
    def is_all(self) -> bool:
        """Whether these are all images of the run."""


Encode = Callable[[Iterable[Input], RunControl], Generator[FileResult, None, None]]
"""Encodes images, and yields their results; the records go to `control.stdout`."""


class TrialSample:
    """A sample of at most `TRIAL_FILES` images. Images are chosen by the CRC of their names.

    The first images would be a poor sample, because images of one folder are often alike.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[int, int, Input]] = []
        self._added = 0

    def add(self, entry: Input) -> None:
        """Adds one image, which may replace another image of the sample."""
        self._added += 1
        heapq.heappush(self._kept, (-rank_name(entry.name), self._added, entry))
        if len(self._kept) > TRIAL_FILES:
            heapq.heappop(self._kept)

    @property
    def entries(self) -> list[Input]:
        """The images of the sample, in the order in which they were added."""
        return [entry for _, _, entry in sorted(self._kept, key=lambda kept: kept[1])]

    @property
    def is_all(self) -> bool:
        """Whether the sample contains every image that was added."""
        return self._added == len(self._kept)


def rank_name(name: str) -> int:
    """Returns a number that depends on nothing but the name; the lowest ones are in the sample."""
    return zlib.crc32(name.encode(errors="surrogateescape"))


@dataclass(frozen=True)
class Trial:
    """The results of a trial of `files` images. `compute` names the device and the dtype.

    They were encoded `encoded` times. `record_bytes` is the mean size of their records.
    """

    files: int
    start_seconds: float
    seconds_per_pixel: float
    compute: str
    encoded: int = 0
    record_bytes: float = 0.0

    @property
    def basis(self) -> str:
        """What an estimate is based on, such as "cpu/f32, from a sample of 3 images"."""
        return (
            f"{self.compute}, from a sample of {self.files} image{'' if self.files == 1 else 's'}"
        )

    def estimate_seconds(self, pixels: int) -> float:
        """Estimates the time to load the model and encode `pixels` pixels, in seconds."""
        return self.start_seconds + self.seconds_per_pixel * pixels


def run_trial(
    sample: Sampled,
    model: ModelHandle,
    options: EncodeOptions,
    control: RunControl,
    encode: Encode | None = None,
) -> Trial | None:
    """Encodes images as a run does and discards the records.

    Returns None if no image can be encoded. Ends `TRIAL_SECONDS` after the first image is done, or
    when a stop is requested. If the sample does not contain all images, the sample is encoded
    repeatedly until this time. One pass is not enough: a GPU may compute the whole sample as its
    first batch, and the time of the first batch says nothing about later batches. `encode` replaces
    the encoding of files. Raises DinacError if the trial cannot go on.
    """
    began = time.perf_counter()
    engine = model.engine
    loaded = time.perf_counter()
    entries = sample.entries
    repeated = entries if sample.is_all else itertools.cycle(entries)
    encode = encode or partial(_encode_files, model, options)
    ends: list[float] = []
    sizes: list[tuple[int, int]] = []
    record_bytes = 0
    is_cut = False
    with (
        open(os.devnull, "wb") as nowhere,
        closing(encode(repeated, replace(control, stdout=nowhere, processes=1))) as results,
    ):
        for number, result in enumerate(results, start=1):
            if result.status is Status.WRITTEN:
                ends.append(time.perf_counter())
                sizes.append((result.height or 0, result.width or 0))
                record_bytes += result.bytes_out
            is_cut = ends[-1] - ends[0] > TRIAL_SECONDS if ends else number >= len(entries)
            if is_cut or control.stop:
                break
    if not ends:
        return None
    files = min(len(ends), len(entries))
    seconds, pixels = ends[-1] - loaded, sum(map(math.prod, sizes))
    if is_cut:
        # The time of the first batch includes other work. Later batches show the model's speed.
        later = pixels - engine.batch_size(*sizes[0]) * math.prod(sizes[0])
        if later > 0:
            seconds, pixels = ends[-1] - ends[0], later
    mean_bytes = record_bytes / len(ends)
    return Trial(files, loaded - began, seconds / pixels, engine.compute, len(ends), mean_bytes)


def _encode_files(
    model: ModelHandle, options: EncodeOptions, entries: Iterable[Input], control: RunControl
) -> Generator[FileResult, None, None]:
    output = Output(STDOUT, OutputKind.STREAM, is_latent_file)
    return encode_inputs(entries, output, model, options, control)
