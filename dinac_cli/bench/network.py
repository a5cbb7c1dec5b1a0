"""The model alone: how long a batch takes, and how close that is to the device's limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dinac_cli.bench.contenders import FLUX2, PLAIN, Contender, DinacContender
from dinac_cli.bench.timing import measure_growth, time_in_turns
from dinac_cli.codec.engine import choose_batch_size
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.interface import DinacAEInferenceConfig

TASKS = (("encode", 0), ("decode", 1), ("decode", 4))
"""The tasks to measure, each with its number of steps."""

FLOAT32_TOLERANCE = 2e-5
BFLOAT16_FACTOR = 1.2


@dataclass(frozen=True)
class NetworkFigures:
    """One contender's time for one task, size and batch.

    `resolution` is the side in pixels, `steps` the NFE (0 for encode), `peak_memory_mib` the
    weights plus the growth during a call, `matmul_share` the share of the device's measured matmul
    rate, `speedup` the plain model's time over this contender's.
    """

    task: str
    steps: int
    network: str
    resolution: int
    batch: int
    ms_per_batch: float
    ms_per_image: float
    images_per_second: float
    peak_memory_mib: float | None
    matmul_share: float | None
    speedup: float


@dataclass(frozen=True)
class Accuracy:
    """The error of a fast model, and the largest error allowed.

    `error` is the relative L2 distance to the plain model in float32. `bound` is 2e-5 in float32,
    otherwise 1.2 times the plain model's own error.
    """

    task: str
    network: str
    error: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the error is within the bound."""
        return self.error <= self.bound


def measure_networks(
    contenders: Mapping[str, Contender],
    config: DinacAEConfig,
    device: torch.device,
    resolutions: Sequence[int],
    batches: Sequence[int],
    matmul_rate: float,
    seconds: float,
) -> Iterator[NetworkFigures]:
    """Times all tasks at all sizes, the contenders in turns, for `seconds` each."""
    for task, steps in TASKS:
        for resolution in resolutions:
            flops = count_flops(config, task, steps, resolution)
            tokens = (resolution // config.patch_size) ** 2
            for batch in batches or [choose_batch_size(device, tokens)]:
                yield from _measure_task(
                    _select(contenders, steps), task, steps, resolution, batch, device,
                    flops / matmul_rate, seconds,
                )  # fmt: skip


def _select(contenders: Mapping[str, Contender], steps: int) -> Mapping[str, Contender]:
    """Leaves out FLUX.2, which decodes in one step, if there are several steps."""
    return {name: one for name, one in contenders.items() if steps <= 1 or name != FLUX2}


@torch.inference_mode()
def _measure_task(
    contenders: Mapping[str, Contender],
    task: str,
    steps: int,
    resolution: int,
    batch: int,
    device: torch.device,
    ideal_seconds: float,
    seconds: float,
) -> list[NetworkFigures]:
    work = {
        name: _prepare(contender, task, steps, resolution, batch, device)
        for name, contender in contenders.items()
    }
    taken = time_in_turns(work, device, seconds)
    figures = []
    for name, contender in contenders.items():
        growth = measure_growth(work[name], device)
        memory = None if growth is None else growth + contender.count_weight_bytes(task)
        figures.append(
            NetworkFigures(
                task=task,
                steps=steps,
                network=name,
                resolution=resolution,
                batch=batch,
                ms_per_batch=1000 * taken[name],
                ms_per_image=1000 * taken[name] / batch,
                images_per_second=batch / taken[name],
                peak_memory_mib=None if memory is None else memory / 2**20,
                matmul_share=None if name == FLUX2 else batch * ideal_seconds / taken[name],
                speedup=taken[PLAIN] / taken[name],
            )
        )
    return figures


def _prepare(
    contender: Contender, task: str, steps: int, resolution: int, batch: int, device: torch.device
) -> Callable[[], Tensor]:
    if task == "decode":
        return contender.prepare_decode(batch, resolution, resolution, steps)
    return contender.prepare_encode(_draw_images(batch, resolution, device))


def _draw_images(batch: int, resolution: int, device: torch.device) -> Tensor:
    return torch.rand(batch, 3, resolution, resolution, device=device) * 2 - 1


def count_flops(config: DinacAEConfig, task: str, steps: int, resolution: int) -> int:
    """Counts the floating point operations of the plain model for one square image."""
    with torch.device("meta"):
        model = DinacAE(config, parts=("encoder", "decoder"))
        image = torch.empty(1, 3, resolution, resolution)
        grid = resolution // config.patch_size
        latents = torch.empty(1, config.bottleneck_dim, grid, grid)
    settings = DinacAEInferenceConfig(num_steps=max(1, steps))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        if task == "encode":
            model.encode(image)
        else:
            model.decode(latents, resolution, resolution, settings)
    return int(counter.get_total_flops())


@torch.inference_mode()
def check_accuracy(
    contenders: Mapping[str, Contender], exact: DinacAE, resolution: int
) -> list[Accuracy]:
    """Compares our contenders with `exact`, the plain float32 model, on one random image."""
    image = _draw_images(1, resolution, exact.device)
    latents = exact.encode(image)
    settings = DinacAEInferenceConfig(seed=0)
    found = []
    for task in ("encode", "decode"):

        def compute(model: DinacAE, task: str = task) -> Tensor:
            if task == "encode":
                return model.encode(image)
            return model.decode(latents, resolution, resolution, settings)

        errors = {
            name: _distance(compute(one.model), compute(exact))
            for name, one in contenders.items()
            if isinstance(one, DinacContender)
        }
        is_float32 = errors[PLAIN] == 0
        bound = FLOAT32_TOLERANCE if is_float32 else BFLOAT16_FACTOR * errors[PLAIN]
        found += [Accuracy(task, name, e, bound) for name, e in errors.items() if name != PLAIN]
    return found


def _distance(result: Tensor, exact: Tensor) -> float:
    return float((result - exact).norm() / exact.norm())


@dataclass(frozen=True)
class Comparison:
    """One of our models against another autoencoder, in one task, size and batch.

    `speedup` is the other's time over ours, `memory_reduction` 1 minus our peak memory over the
    other's.
    """

    task: str
    resolution: int
    batch: int
    network: str
    other: str
    speedup: float
    memory_reduction: float | None


def compare_with(other: str, figures: Sequence[NetworkFigures]) -> list[Comparison]:
    """Compares each of our models with contender `other` in the tasks that `other` can do."""
    others = {(f.task, f.steps, f.resolution, f.batch): f for f in figures if f.network == other}
    found = []
    for ours in figures:
        theirs = others.get((ours.task, ours.steps, ours.resolution, ours.batch))
        if theirs is None or theirs is ours:
            continue
        reduction = None
        if ours.peak_memory_mib is not None and theirs.peak_memory_mib:
            reduction = 1 - ours.peak_memory_mib / theirs.peak_memory_mib
        speedup = theirs.ms_per_batch / ours.ms_per_batch
        found.append(
            Comparison(
                ours.task, ours.resolution, ours.batch, ours.network, other, speedup, reduction
            )
        )
    return found
