"""Checks the fast kernels of a GPU: which step of the ladder runs, and whether its bytes repeat."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dinac_cli.doctor.finding import Facts, Finding, fail, note, ok
from dinac_cli.errors import quote_error

if TYPE_CHECKING:
    from dinac_cli.models.dinac.fast.self_check import OperationCheck

_FIRST = "graphs"
"""The first step of the ladder."""

REPORT = "open an issue with the JSON of dinac doctor"

_SIDE = 256
_CALLS = 6
"""Calls with one input. After the first ones, a graph is recorded and replayed."""

_BATCHES = 50
MOST_GROWTH_BYTES = 16 * 2**20


def measure_ladder(device: str, model: str) -> Facts | None:
    """Chooses the step of the ladder for a model's widths, as a run on CUDA does. Imports torch.

    `model` is "nano" or the alias of a published model, whose weights are not needed. Raises
    DinacError.
    """
    from dinac_cli.models.aliases import NANO
    from dinac_cli.models.device import prepare_device, resolve_device, resolve_dtype
    from dinac_cli.models.dinac.config import RELEASED
    from dinac_cli.models.dinac.fast.ladder import choose_step
    from dinac_cli.models.interface import STEP_VARIABLE
    from dinac_cli.models.registry import open_nano

    place = resolve_device(device)
    if place.type != "cuda":
        return None
    prepare_device(place)
    config = open_nano().read_config() if model == NANO else RELEASED[model]
    choice = choose_step(config, place, resolve_dtype("auto", place))
    return {
        "model": model,
        "step": choice.step,
        "named": os.environ.get(STEP_VARIABLE),
        "reason": choice.reason,
        "remedy": choice.remedy,
        "operations": [_describe_check(check) for check in choice.checks],
    }


def _describe_check(check: OperationCheck) -> Facts:
    """Returns the facts of an operation's check. JSON has no infinity."""
    is_known = check.error is not None and math.isfinite(check.error)
    cause = "not a number" if check.cause is None else quote_error(check.cause)
    return {
        "name": check.name,
        "limit": check.limit,
        "error": check.error if is_known else None,
        "problem": None if is_known else cause,
    }


def judge_ladder(facts: Facts) -> Finding:
    """Says how the GPU computes. A lower step is slower, but as exact."""
    name, step, named = f"kernels ({facts['model']})", facts["step"], facts["named"]
    errors = ", ".join(f"{one['name']} {_describe_error(one)}" for one in facts["operations"])
    checked = f"; errors of the operations: {errors}" if errors else ""
    if facts["reason"]:
        text = f"step {step} instead of {_FIRST}: {facts['reason']}{checked}"
        return note(name, text, facts["remedy"] or "nothing to do; the results are right", facts)
    if step != _FIRST:
        text = f"step {step} instead of {_FIRST}, because DINAC_CUDA is {named}{checked}"
        return note(name, text, "unset DINAC_CUDA", facts)
    return ok(name, f"step {step}, the fastest{checked}", facts)


def _describe_error(operation: Facts) -> str:
    if operation["error"] is None:
        return f"failed ({operation['problem']})"
    return f"{operation['error']:.1g} (limit {operation['limit']:.1g})"


def measure_batches(device: str) -> Facts | None:
    """Encodes and decodes micro-batches of 256x256 pixels with `nano` on CUDA. Imports torch."""
    import torch

    from dinac_cli.models.device import resolve_device

    place = resolve_device(device)
    if place.type != "cuda":
        return None
    return repeat_batches(device, lambda: torch.cuda.memory_allocated(place))


def repeat_batches(device: str, count_memory: Callable[[], int]) -> Facts:
    """Repeats equal micro-batches. `count_memory` returns the memory in use, in bytes."""
    from dinac_cli.codec.handle import DeviceChoice, ModelHandle
    from dinac_cli.images.samples import draw_clouds
    from dinac_cli.models.aliases import NANO
    from dinac_cli.models.interface import DECODER, ENCODER, DinacAEInferenceConfig
    from dinac_cli.models.registry import resolve_model

    choice = DeviceChoice(device=device)
    engine = ModelHandle(resolve_model(NANO), ENCODER, choice, (DECODER,)).engine
    count = engine.batch_size(_SIDE, _SIDE)
    images = [draw_clouds(_SIDE, _SIDE)] * count
    sizes, settings = [(_SIDE, _SIDE)] * count, DinacAEInferenceConfig(seed=0)
    latents = engine.encode(images)
    engine.take_remarks()  # the ladder's reason, which `measure_ladder` also gives
    tasks: dict[str, Callable[[], list[Any]]] = {
        "encode": lambda: engine.encode(images),
        "decode": lambda: engine.decode(latents, sizes, settings),
    }
    found = {name: measure_task(task, count_memory) for name, task in tasks.items()}
    return {
        "compute": engine.compute,
        "batch": count,
        "side": _SIDE,
        "tasks": found,
        "remarks": engine.take_remarks(),
    }


def measure_task(task: Callable[[], list[Any]], count_memory: Callable[[], int]) -> Facts:
    """Repeats a task whose inputs are equal, and compares its results byte by byte."""
    first, *later = (task() for _ in range(_CALLS))
    held, begun = count_memory(), time.perf_counter()
    for _ in range(_BATCHES):
        task()
    seconds = time.perf_counter() - begun
    return {
        "ends_equal": _is_same(first[0], first[-1]),
        "replay_equal": all(all(map(_is_same, first, made)) for made in later),
        "growth_bytes": count_memory() - held,
        "ms_per_batch": 1000 * seconds / _BATCHES,
    }


def _is_same(one: Any, other: Any) -> bool:
    import numpy as np

    return np.array_equal(one.view(np.uint8), other.view(np.uint8))


def judge_batches(facts: Facts) -> Finding:
    """Says whether the bytes of an image depend on its place in a batch or on a replay."""
    batch, side, tasks = facts["batch"], facts["side"], facts["tasks"]
    faults = []
    for task, one in tasks.items():
        if not one["ends_equal"]:
            faults.append(f"{task}: the first and the last image of a batch differ")
        if not one["replay_equal"]:
            faults.append(f"{task}: later calls differ from the first")
    if faults:
        remedy = f"set DINAC_CUDA=torch, run dinac doctor again, and {REPORT}"
        return fail(
            "batches", "equal images give different bytes: " + "; ".join(faults), remedy, facts
        )
    speed = ", ".join(f"{task} {one['ms_per_batch']:.1f} ms" for task, one in tasks.items())
    text = f"equal images give equal bytes at both ends of a batch and in {_CALLS} calls; "
    text += f"{batch} images of {side}x{side} with nano: {speed}"
    if facts["remarks"]:
        return note("batches", f"{text}; {'; '.join(facts['remarks'])}", REPORT, facts)
    growing = [task for task, one in tasks.items() if one["growth_bytes"] > MOST_GROWTH_BYTES]
    if growing:
        text += f"; the memory of {' and '.join(growing)} grew over {_BATCHES} batches"
        return note("batches", text, REPORT, facts)
    return ok("batches", f"{text}; the memory stayed the same over {_BATCHES} batches", facts)
