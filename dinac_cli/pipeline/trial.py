"""How long an encode run takes, found out by encoding some of its images to nowhere."""

from __future__ import annotations

import heapq
import os
import time
import zlib
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass

from dinac_cli.codec.loading import ModelHandle
from dinac_cli.files.inputs import Input
from dinac_cli.files.output import STDOUT, Output, OutputKind
from dinac_cli.pipeline.encode import EncodeOptions, encode_files
from dinac_cli.pipeline.freshness import is_latent_file
from dinac_cli.pipeline.job import RunControl
from dinac_cli.results import Status

TRIAL_FILES = 32
TRIAL_SECONDS = 2.0


class TrialSample:
    """At most `TRIAL_FILES` of all images that are added, chosen by the CRC of their names.

    The first ones would not do: images of one folder are often alike.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[int, int, Input]] = []
        self._added = 0

    def add(self, entry: Input) -> None:
        """Offer one image."""
        crc = zlib.crc32(entry.name.encode(errors="surrogateescape"))
        self._added += 1
        heapq.heappush(self._kept, (-crc, self._added, entry))
        if len(self._kept) > TRIAL_FILES:
            heapq.heappop(self._kept)

    @property
    def entries(self) -> list[Input]:
        """What was kept, in the order in which it was added."""
        return [entry for _, _, entry in sorted(self._kept, key=lambda kept: kept[1])]


@dataclass(frozen=True)
class Trial:
    """What a trial of `files` images found: seconds until the first is done, and from then on.

    `compute` is device and arithmetic.
    """

    files: int
    start_seconds: float
    seconds_per_pixel: float
    compute: str

    def estimate_seconds(self, pixels: int) -> float:
        """What a run over so many pixels takes, start-up included."""
        return self.start_seconds + self.seconds_per_pixel * pixels


def run_trial(
    entries: Iterable[Input], model: ModelHandle, options: EncodeOptions, control: RunControl
) -> Trial | None:
    """Encode images as a run does, and write nothing; None where not one of them can be encoded.

    Takes no new image after `TRIAL_SECONDS`, nor after a stop request. Raises DinacError where the
    run could not go on either.
    """
    began = time.perf_counter()
    compute = model.engine.compute
    loaded = time.perf_counter()
    output = Output(STDOUT, OutputKind.STREAM, is_latent_file)
    ends: list[float] = []
    pixels: list[int] = []
    with (
        open(os.devnull, "wb") as nowhere,
        closing(encode_files(entries, output, model, options, control, stdout=nowhere)) as results,
    ):
        for result in results:
            if result.status is Status.WRITTEN:
                ends.append(time.perf_counter())
                pixels.append((result.width or 0) * (result.height or 0))
                if ends[-1] - ends[0] > TRIAL_SECONDS:
                    control.stop.set()
    if not ends:
        return None
    # The first one waits for more than its own work, unless it is the only one.
    alone = len(ends) == 1
    seconds = ends[-1] - (loaded if alone else ends[0])
    rate = seconds / sum(pixels if alone else pixels[1:])
    return Trial(len(ends), (loaded if alone else ends[0]) - began, rate, compute)
