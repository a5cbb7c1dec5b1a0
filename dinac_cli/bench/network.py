"""Times the model alone, and compares its speed with the device's limit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dinac_cli.bench.contenders import FLUX2, PLAIN, Contender, DinacContender, draw_images
from dinac_cli.bench.timing import measure_growth, time_in_turns
from dinac_cli.codec.engine import choose_batch_size
from dinac_cli.jobs.executor.phase import Phase, Watch, ignore_phase
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.interface import DinacAEInferenceConfig

TASKS = (("encode", 0), ("decode", 1), ("decode", 4))
"""The tasks to measure, each with its number of decoder steps."""

FLOAT32_TOLERANCE = 2e-5
BFLOAT16_FACTOR = 1.2

_IMAGES_COMPARED = 4  # the errors of one image alone vary by chance


@dataclass(frozen=True)
class NetworkFigures:
    """The speed and memory of one contender, for one task, image size and batch size.

    `steps` is the number of times that the decoder runs (NFE; 0 for encode). `resolution` is the
    side of an image in pixels. `peak_memory_mib` is the size of the weights plus the memory
    that a call adds. `matmul_share` is the FLOP/s of the model, divided by the measured FLOP/s of
    matrix products. `speedup` is the time of the plain model, divided by the time of this
    contender.
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
    """The error of a fast model, and the largest allowed error, called `bound`.

    `error` is the relative L2 distance to the result of the plain float32 model. `bound` is 2e-5
    for float32. For bfloat16, `bound` is 1.2 times the error of the plain bfloat16 model.
    """

    task: str
    network: str
    error: float
    bound: float

    @property
    def holds(self) -> bool:
        """True if `error` is at most `bound`."""
        return self.error <= self.bound


@torch.inference_mode()
def measure_networks(
    contenders: Mapping[str, Contender],
    plain: DinacAE,
    resolutions: Sequence[int],
    batches: Sequence[int],
    matmul_rate: float,
    seconds: float,
    watch: Watch = ignore_phase,
) -> Iterator[NetworkFigures]:
    """Times the contenders for all tasks and sizes.

    `seconds` is the approximate time of each comparison.
    """
    total, done = len(TASKS) * len(resolutions) * max(1, len(batches)), itertools.count()
    for (task, steps), resolution in itertools.product(TASKS, resolutions):
        ideal_seconds = count_flops(plain.config, task, steps, resolution) / matmul_rate
        tokens = (resolution // plain.config.patch_size) ** 2
        # FLUX.2 always decodes in one step.
        able = {name: one for name, one in contenders.items() if steps <= 1 or name != FLUX2}
        for batch in batches or [choose_batch_size(plain.device, tokens)]:
            detail = f"{task}, {resolution} px, batch {batch}"
            detail += f", {steps} steps" if steps > 1 else ""
            watch(Phase("timing the models", next(done), total, detail))
            calls = {
                name: one.prepare(task, steps, batch, resolution) for name, one in able.items()
            }
            timed = {name: call.timed for name, call in calls.items()}
            taken = time_in_turns(timed, plain.device, seconds)
            for name, contender in able.items():
                growth = measure_growth(calls[name].eager, plain.device)
                memory = None if growth is None else growth + contender.count_weight_bytes(task)
                yield NetworkFigures(
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
            del calls, timed  # frees the memory before the next batch needs it


def count_flops(config: DinacAEConfig, task: str, steps: int, resolution: int) -> int:
    """Counts the floating point operations of the plain model for one square image."""
    with torch.device("meta"):
        model = DinacAE(config, parts=("encoder", "decoder"))
        image = torch.empty(1, 3, resolution, resolution)
        grid = (resolution // config.patch_size, resolution // config.patch_size)
        latents = torch.empty(1, config.bottleneck_dim, *grid)
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
    """Compares the DINAC models with the plain float32 model `exact`, on random images."""
    images = draw_images(_IMAGES_COMPARED, resolution, exact.device)
    latents = exact.encode(images)
    settings = DinacAEInferenceConfig(seed=0)
    tasks: dict[str, Callable[[DinacAE], Tensor]] = {
        "encode": lambda model: model.encode(images),
        "decode": lambda model: model.decode(latents, resolution, resolution, settings),
    }
    found = []
    for task, compute in tasks.items():
        expected = compute(exact)
        errors = {
            name: float((compute(one.model) - expected).norm() / expected.norm())
            for name, one in contenders.items()
            if isinstance(one, DinacContender)
        }
        is_float32 = errors[PLAIN] == 0
        bound = FLOAT32_TOLERANCE if is_float32 else BFLOAT16_FACTOR * errors[PLAIN]
        found += [Accuracy(task, name, e, bound) for name, e in errors.items() if name != PLAIN]
    return found


@dataclass(frozen=True)
class Comparison:
    """Compares model `network` with model `other`, for one task, image size and batch size.

    `speedup` is the time of `other`, divided by the time of `network`. `memory_reduction` is 1 - m,
    and m is the peak memory of `network`, divided by the peak memory of `other`.
    """

    task: str
    resolution: int
    batch: int
    network: str
    other: str
    speedup: float
    memory_reduction: float | None


def compare_with(other: str, figures: Sequence[NetworkFigures]) -> list[Comparison]:
    """Compares each DINAC model with the contender `other`, for each task that `other` can do."""
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
