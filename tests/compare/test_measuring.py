"""Batches go through encoder, records and decoder without idle time, and images fail alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinac_cli.compare.gallery import Gallery
from dinac_cli.compare.measuring import Board, MeasureJob, open_measure_job
from dinac_cli.compare.result_files import ResultFile
from dinac_cli.compare.variants import ComparedModel, Variant, list_variants
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import ImageError
from dinac_cli.jobs.encode import EncodeOptions
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.local import run_opened
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.models.interface import DECODER, ENCODER
from dinac_cli.storage.inputs import Input

from ..jobs.hand_made import make_handle, select_images, write_images

BATCH, CHANNELS, PATCH = 2, 8, 16


@dataclass
class Done:
    """A batch that is done when `result` is called."""

    value: Any
    is_done: bool = False

    def result(self) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@dataclass
class GpuLikeEngine:
    """Works on batches of `BATCH` images, and notes what it is asked for."""

    calls: list[str] = field(default_factory=list)
    broken: frozenset[int] = frozenset()
    too_large: frozenset[int] = frozenset()
    compute: str = "cuda/bf16"
    encoded: int = 0
    decoded: int = 0

    def batch_size(self, height: int, width: int) -> int:
        return BATCH

    def check_size(self, height: int, width: int) -> None:
        return

    def take_busy_spans(self) -> list[Any]:
        return []

    def take_remarks(self) -> list[str]:
        return []

    def submit_images(self, images: Sequence[Any]) -> Done:
        self.calls.append(f"encode {self.encoded}")
        shape = (CHANNELS, -(-images[0].shape[0] // PATCH), -(-images[0].shape[1] // PATCH))
        latents = [np.zeros(shape, np.float32) for _ in images]
        if self.encoded in self.broken:
            latents[0][:] = np.nan
        self.encoded += 1
        return Done([Encoded(array) for array in latents])

    def submit_latents(self, latents: Sequence[Any], sizes: Sequence[Any], settings: Any) -> Done:
        self.calls.append(f"decode {self.decoded}")
        self.decoded += 1
        if self.decoded - 1 in self.too_large:
            return Done(ImageError("out of memory on cuda:0"))
        return Done([np.zeros((*size, 3), np.uint8) for size in sizes])


@pytest.fixture
def model() -> ComparedModel:
    handle = replace(make_handle("tiny", ENCODER), more_parts=(DECODER,))
    return ComparedModel("tiny", "tiny", handle)


@pytest.fixture
def results(tmp_path: Path, model: ComparedModel) -> Iterator[dict[Variant, ResultFile]]:
    [variant] = list_variants([model], ["bf16"], [1], EncodeOptions(), 0)
    file = ResultFile(str(tmp_path / "results"), {"digest": "x"}, overwrite=False)
    yield {variant: file}
    file.close()


class Workbench:
    """A model that takes any engine, and images to measure with it."""

    def __init__(
        self, folder: Path, model: ComparedModel, results: dict[Variant, ResultFile]
    ) -> None:
        self._folder = folder
        self._model = model
        self._results = results

    def open_job(self, engine: GpuLikeEngine) -> AbstractContextManager[MeasureJob]:
        self._model.handle.__dict__["engine"] = engine
        gallery = Gallery(str(self._folder / "out"), "")
        return open_measure_job(self._model, self._results, EncodeOptions(), gallery, (), Board())

    def list_images(self, count: int) -> list[Input]:
        write_images(self._folder / "in", *(f"{number}.png" for number in range(count)))
        return list(select_images(self._folder / "in"))

    def measure(self, engine: GpuLikeEngine, count: int) -> list[FileResult]:
        """Measures images in one variant; returns the results in the order of their names."""
        control = RunControl(workers=1, in_flight=2 * count)
        images = self.list_images(count)
        made = list(run_opened(partial(self.open_job, engine), images, control))
        [file] = self._results.values()
        for result in made:
            assert (file.find(result.name) is None) == result.failed
        return sorted(made, key=lambda result: result.name)


@pytest.fixture
def workbench(
    tmp_path: Path, model: ComparedModel, results: dict[Variant, ResultFile]
) -> Workbench:
    return Workbench(tmp_path, model, results)


def test_the_next_batch_is_encoded_before_the_host_packs_records(workbench: Workbench) -> None:
    engine, images = GpuLikeEngine(), workbench.list_images(3 * BATCH)
    with workbench.open_job(engine) as job:
        works = [job.read(entry, lambda size_bytes: None) for entry in images]
        ready = [work for work in works if not isinstance(work, FileResult)]
        batches = [ready[start : start + BATCH] for start in range(0, len(ready), BATCH)]
        computing = [job.submit(batch) for batch in batches]
        for batch, submitted in zip(batches, computing, strict=True):
            for work, computed in zip(batch, submitted.result(), strict=True):
                assert job.finish(work, computed).result.status is Status.MEASURED
    assert engine.calls == ["encode 0", "encode 1", "decode 0", "encode 2", "decode 1", "decode 2"]


def test_an_image_whose_record_cannot_be_built_fails_alone(workbench: Workbench) -> None:
    made = workbench.measure(GpuLikeEngine(broken=frozenset({1})), 3 * BATCH)
    assert [result.failed for result in made] == [False, False, True, False, False, False]


def test_a_batch_that_does_not_fit_into_memory_fails_alone(workbench: Workbench) -> None:
    made = workbench.measure(GpuLikeEngine(too_large=frozenset({1})), 3 * BATCH)
    assert [result.failed for result in made] == [False, False, True, True, False, False]
    assert made[2].reason == "out of memory on cuda:0"
