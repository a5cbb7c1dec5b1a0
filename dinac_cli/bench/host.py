"""Measures how many images per second the host can feed to a model, with a model that takes no time.

Never imports torch.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
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
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.local import run_opened
from dinac_cli.jobs.executor.processes import OpenJob, run_in_processes
from dinac_cli.jobs.freshness import is_latent_file, is_stamped_image
from dinac_cli.jobs.model_choice import FixedModel
from dinac_cli.models.interface import DinacAEInferenceConfig
from dinac_cli.storage.output import Output, OutputKind

_BATCH_TOKENS = 8192  # as on a GPU


@dataclass(frozen=True)
class _Ready:
    """A batch that is done at once."""

    results: list[Any]
    is_done: bool = True

    def result(self) -> list[Any]:
        return self.results


class StoredEngine:
    """An engine that takes no time: it returns the same latents, or pixels, for each size."""

    compute = "host/none"

    def __init__(self, patch: int, channels: int) -> None:
        self.patch = patch
        self._channels = channels
        self._stored: dict[Hashable, Any] = {}

    def batch_size(self, height: int, width: int) -> int:
        return max(1, _BATCH_TOKENS // (height * width // self.patch**2))

    def check_size(self, height: int, width: int) -> None:
        pass

    def submit_images(self, images: Sequence[Pixels], **extras: bool) -> _Ready:
        height, width, _ = images[0].shape
        shape = (self._channels, -(-height // self.patch), -(-width // self.patch))
        return _Ready([self._recall(shape, self._draw_latents)] * len(images))

    def submit_latents(
        self, latents: Sequence[object], sizes: Sequence[tuple[int, int]], settings: object
    ) -> _Ready:
        return _Ready([self._recall((*size, 3), self._draw_pixels) for size in sizes])

    def _recall(self, shape: tuple[int, ...], draw: Callable[[tuple[int, ...]], Any]) -> Any:
        if shape not in self._stored:
            self._stored[shape] = draw(shape)
        return self._stored[shape]

    @staticmethod
    def _draw_latents(shape: tuple[int, ...]) -> Encoded:
        return Encoded(np.random.default_rng(0).standard_normal(shape, np.float32))

    @staticmethod
    def _draw_pixels(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        rows, columns, _ = np.indices(shape, np.uint8)
        noise = np.random.default_rng(0).integers(0, 8, shape, np.uint8)
        pixels: npt.NDArray[np.uint8] = rows // 2 + columns // 3 + noise
        return pixels


def store_engine(model: ModelHandle) -> ModelHandle:
    """Gives a model the engine that takes no time."""
    engine = StoredEngine(model.config.patch_size, model.config.bottleneck_dim)
    model.__dict__["engine"] = engine
    return model


@contextmanager
def open_encode(model: ModelHandle, folder: str) -> Iterator[EncodeJob]:
    """Opens a job that encodes into `folder` with the engine that takes no time."""
    output = Output(folder, OutputKind.FOLDER, is_latent_file)
    yield EncodeJob(output, store_engine(model), EncodeOptions())


@contextmanager
def open_decode(model: ModelHandle, folder: str, form: str) -> Iterator[DecodeJob]:
    """Opens a job that decodes into `folder` with the engine that takes no time."""
    options = DecodeOptions(settings=DinacAEInferenceConfig(seed=0), format=OUTPUT_FORMATS[form])
    output = Output(folder, OutputKind.FOLDER, is_stamped_image)
    yield DecodeJob(output, FixedModel(store_engine(model)), options)


@dataclass(frozen=True)
class HostFigures:
    """How fast the host feeds a model with `processes` worker processes (0: threads).

    `parent_us` are the microseconds of CPU time that the parent process needs for each image.
    """

    command: str
    processes: int
    images: int
    seconds: float
    parent_us: float

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


def measure(
    command: str,
    open_job: OpenJob[Any, Any, Any],
    entries: Iterator[Any],
    control: RunControl,
    seconds: float,
) -> HostFigures:
    """Runs a job for some seconds, counted from its first result."""
    count, began, used = 0, 0.0, 0.0
    is_alone = control.processes == 1
    run = run_opened if is_alone else run_in_processes
    with closing(run(open_job, entries, control)) as results:
        for result in results:
            if result.failed:
                raise DinacError(f"{result.file}: {result.reason}")
            now = time.perf_counter()
            if not began:
                began, used = now, _count_cpu()
            count += 1
            if now - began > seconds:
                control.stop.set()
                break
    ended, spent = time.perf_counter(), _count_cpu() - used
    return HostFigures(command, control.processes, count, now - began, 1e6 * spent / count)


def _count_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
