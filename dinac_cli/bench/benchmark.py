"""Times the model, whole commands, and the stages of a run, on one device."""

from __future__ import annotations

import gc
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dinac_cli.bench.contenders import FAST, PLAIN, Contender, draw_network, list_contenders
from dinac_cli.bench.cost import NETWORKS, Cost, count_cost, find_gpu
from dinac_cli.bench.host import HostTaskFigures, list_counts, list_tasks, measure_task
from dinac_cli.bench.network import (
    TASKS,
    Accuracy,
    NetworkFigures,
    check_accuracy,
    measure_networks,
)
from dinac_cli.bench.processes import CommandFigures, measure_commands
from dinac_cli.bench.shard_costs import (
    ImageCost,
    PipelineCost,
    make_jpegs,
    measure_images,
    measure_pipeline,
)
from dinac_cli.bench.stages import StageFigures, measure_decode, measure_encode
from dinac_cli.bench.timing import measure_matmul
from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.codec.machine import count_processors
from dinac_cli.images.samples import draw_photographs
from dinac_cli.images.writing import write_image
from dinac_cli.jobs.executor.phase import Phase, Watch, ignore_phase
from dinac_cli.models import interface
from dinac_cli.models.device import prepare_device, resolve_device, resolve_dtype
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.checkpoint import save_checkpoint
from dinac_cli.models.dinac.config import RELEASED, DinacAEConfig
from dinac_cli.models.dinac.fast.ladder import choose_step
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.interface import DECODER, ENCODER

_STAGE_FILES = 300
_SAMPLE_SIDE = 256


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """A request to time a model and the commands.

    If `model` is None, the model has random weights and the sizes of `RELEASED[random_weights]`.
    Commands are timed over each number of files in `file_counts`. `images` are the image files to
    use. If `images` is empty, pictures are drawn. Each comparison of models takes about `seconds`.
    `model_rate` is the speed of the model in images per second, for the figures of the host; None
    if the model is measured.
    """

    model: DinacModel | None
    random_weights: str | None
    choice: DeviceChoice
    compare: str | None
    resolutions: tuple[int, ...]
    batches: tuple[int, ...]
    images: tuple[Path, ...]
    file_counts: tuple[int, ...]
    workers: int
    seconds: float
    model_rate: float | None = None


class Benchmark:
    """Runs a benchmark. Each part runs only when its method is called.

    Reports its phases to `watch`, but never while it measures.
    """

    def __init__(self, request: BenchRequest, watch: Watch = ignore_phase) -> None:
        """Raises DeviceError, UsageError."""
        self.request = request
        self._watch = watch
        self.device = resolve_device(request.choice.device)
        prepare_device(self.device)
        self.dtype = resolve_dtype(request.choice.dtype, self.device)
        self._dtype_name = "bf16" if self.dtype == torch.bfloat16 else "f32"
        model = request.model
        self.label = model.label if model else f"{request.random_weights}, random weights"

    def describe(self) -> dict[str, Any]:
        """Returns facts about the machine and the model.

        Measures the speed of matrix products.
        """
        is_cuda = self.device.type == "cuda"
        return {
            "model": self.label,
            "device": torch.cuda.get_device_name(self.device) if is_cuda else self.device.type,
            "dtype": self._dtype_name,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "matmul_tflops": self._matmul_rate / 1e12,
        }

    def predict_costs(self) -> Iterator[Cost]:
        """Counts what the model would do on a GPU in bfloat16. Loads no weights.

        Yields a row for each task, image size and step of the ladder. Raises ModelError.
        """
        batches = self.request.batches or (None,)
        for (task, steps), side, batch, network in itertools.product(
            TASKS, self.request.resolutions, batches, NETWORKS
        ):
            yield count_cost(self._config, torch.bfloat16, network, task, steps, side, batch)

    def compare_with_predictions(self, figures: Sequence[NetworkFigures]) -> Iterator[str]:
        """Yields a line for each measured figure of a GPU whose speed can be predicted."""
        is_cuda = self.device.type == "cuda" and self.dtype == torch.bfloat16
        gpu = find_gpu(torch.cuda.get_device_name(self.device)) if is_cuda else None
        if gpu is None:
            return
        step = choose_step(self._config, self.device, self.dtype).step
        for row in figures:
            network = {PLAIN: interface.PLAIN, FAST: step}.get(row.network)
            if network in NETWORKS:
                sizes = row.task, row.steps, row.resolution, row.batch
                cost = count_cost(self._config, self.dtype, network, *sizes)
                rate, measured = cost.predict_rate(gpu), row.images_per_second
                what = f"{row.task} {row.resolution}, batch {row.batch}, {row.network}"
                times = f"{measured / rate:.2f} times the predicted {rate:.0f}"
                yield f"{what}: {measured:.0f} images/s, {times}"

    @property
    def _config(self) -> DinacAEConfig:
        if self.request.random_weights is not None:
            return RELEASED[self.request.random_weights]
        assert self.request.model is not None
        return self.request.model.read_config()

    def measure_networks(self) -> Iterator[NetworkFigures]:
        """Times the contenders in turns. Raises ModelError, UsageError."""
        yield from measure_networks(
            self._contenders,
            self._plain,
            self.request.resolutions,
            self.request.batches,
            self._matmul_rate,
            self.request.seconds,
            self._watch,
        )

    def check_accuracy(self) -> list[Accuracy]:
        """Compares the contenders with the plain float32 model, then frees all models."""
        self._watch(Phase("checking the error of the fast model"))
        exact = self._load(torch.float32)
        checks = check_accuracy(self._contenders, exact, min(self.request.resolutions))
        del self._contenders, self._plain, exact
        gc.collect()
        return checks

    def measure_commands(self) -> Iterator[CommandFigures]:
        """Times whole commands over several numbers of files. Raises DinacError."""
        with self._gather() as (model, images, _):
            options = ["--model", str(model.path), "--device", str(self.device)]
            options += ["--dtype", self._dtype_name, "--workers", str(self.request.workers)]
            if self.request.choice.compiled:
                options.append("--compile")
            yield from measure_commands(images, self.request.file_counts, options, self._watch)

    def measure_stages(self) -> Iterator[StageFigures]:
        """Times the stages of encode and decode.

        The number of files is the largest file count, but at most 300. Keeps all files in
        memory between the stages. Raises DinacError.
        """
        with self._gather() as (model, images, folder):
            count = min(_STAGE_FILES, max(self.request.file_counts))
            paths = [images[number % len(images)] for number in range(count)]
            choice, workers = self.request.choice, self.request.workers
            encoder = ModelHandle(model, ENCODER, choice)
            yield measure_encode(paths, encoder, workers, folder / "latents", self._watch)
            latents = sorted((folder / "latents/whole").iterdir())
            decoder = ModelHandle(model, DECODER, choice)
            yield measure_decode(latents, decoder, workers, folder / "decoded", self._watch)

    def measure_host(self) -> Iterator[HostTaskFigures]:
        """Times what the host does beside the model, for each task and number of processes.

        The numbers are 1, 2, 4… up to the number of processors. Raises DinacError.
        """
        request, counts = self.request, list_counts(count_processors())
        with self._gather() as (model, images, folder):
            encoder = ModelHandle(model, ENCODER, request.choice)
            decoder = ModelHandle(model, DECODER, request.choice)
            for task in list_tasks(images, encoder, decoder, folder / "records"):
                self._watch(Phase(f"timing the host: {task.name}"))
                yield measure_task(task, counts, folder, request.seconds, request.model_rate)

    def measure_image_costs(self) -> Iterator[ImageCost]:
        """Times what an image costs the host on its way into a shard. Raises DinacError."""
        with self._gather() as (model, images, folder):
            self._watch(Phase("timing images and records"))
            encoder = ModelHandle(model, ENCODER, self.request.choice)
            yield from measure_images(images, encoder, folder, self.request.seconds)

    def measure_pipeline(self) -> Iterator[PipelineCost]:
        """Times the writing of shards, for 1, 2, 4… processes. Raises DinacError."""
        with self._gather() as (model, images, folder):
            encoder = ModelHandle(model, ENCODER, self.request.choice)
            jpegs = make_jpegs(images, _SAMPLE_SIDE, folder / "jpegs")
            for count in list_counts(count_processors()):
                self._watch(Phase(f"timing shards with {count} processes"))
                place, seconds = folder / f"shards-{count}", self.request.seconds
                yield measure_pipeline(jpegs, encoder, place, count, seconds)

    @cached_property
    def _matmul_rate(self) -> float:
        self._watch(Phase("timing matrix products"))
        return measure_matmul(self.device, self.dtype)

    @cached_property
    def _plain(self) -> DinacAE:
        self._watch(Phase("loading the models"))
        return self._load(self.dtype)

    @cached_property
    def _contenders(self) -> dict[str, Contender]:
        return list_contenders(
            self._plain, compiled=self.request.choice.compiled, compare=self.request.compare
        )

    def _load(self, dtype: torch.dtype) -> DinacAE:
        if self.request.model is None:
            assert self.request.random_weights is not None
            return draw_network(RELEASED[self.request.random_weights], self.device, dtype)
        path, parts = self.request.model.path, (ENCODER, DECODER)
        return DinacAE.from_pretrained(path, device=self.device, dtype=dtype, parts=parts)

    @contextmanager
    def _gather(self) -> Iterator[tuple[DinacModel, tuple[Path, ...], Path]]:
        """Yields a model that is stored on disk, the paths of images, and a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="dinac-bench-") as name:
            folder = Path(name)
            model = self.request.model
            if model is None:
                drawn = self._load(self.dtype)
                config = drawn.config.without_class_head()
                save_checkpoint(drawn.state_dict(), config, folder / "model", self.dtype)
                model = DinacModel(folder / "model", self.label)
            yield model, self.request.images or _write_samples(folder), folder


def _write_samples(folder: Path) -> tuple[Path, ...]:
    paths = []
    for number, pixels in enumerate(draw_photographs(_SAMPLE_SIDE)):
        path = folder / f"sample-{number}.jpg"
        path.write_bytes(write_image(pixels, "jpg"))
        paths.append(path)
    return tuple(paths)
