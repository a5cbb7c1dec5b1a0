"""Times the models of a comparison through the codec's engine, and measures their memory.

A later run on the same machine, with the same software, uses what OUT holds.
"""

from __future__ import annotations

import gc
import json
import math
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from dinac_cli import __version__
from dinac_cli.codec.compute import Compute
from dinac_cli.codec.handle import ModelHandle
from dinac_cli.compare.figures import Speed
from dinac_cli.compare.variants import ComparedModel
from dinac_cli.doctor.arithmetic import read_model
from dinac_cli.images.samples import draw_photographs
from dinac_cli.images.writing import write_image
from dinac_cli.models.interface import DECODER, ENCODER, DinacAEInferenceConfig
from dinac_cli.storage.atomic import write_atomically

SIDES = (256, 512)
"""The images that are timed are squares of these sides in pixels."""

_SECONDS = 2.0  # for each figure
_WARM_CALLS = 5  # a GPU records its kernels after some calls
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Task:
    """What is timed: a part of a model, the decoder steps (0: none), and the side of the images."""

    name: str
    steps: int
    side: int


def describe_machine(handle: ModelHandle) -> dict[str, Any]:
    """Returns facts about the machine, the device and the software. Imports torch."""
    import torch

    from dinac_cli.models.device import resolve_device

    device = resolve_device(handle.choice.device)
    is_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_cuda else read_model(_CPU_INFO)
    compute = Compute.parse(handle.compute)
    assert compute is not None, "dinac made it"
    return {
        "name": name or platform.processor() or platform.machine(),
        "device": device.type,
        "dtype": compute.dtype,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "torch": torch.__version__,
        "dinac": __version__,
    }


def list_tasks(model: ComparedModel, steps: Sequence[int]) -> list[Task]:
    """Returns what is timed for one model."""
    counts = steps if model.handle.traits.has_steps else (0,)
    tasks = [("encode", 0), *(("decode", count) for count in counts)]
    return [Task(name, count, side) for name, count in tasks for side in SIDES]


class SpeedMemory:
    """The speeds that OUT holds. Each has a key: the model, the task, the machine, the software."""

    def __init__(self, path: str, machine: Mapping[str, Any]) -> None:
        self._path = path
        self._machine = dict(machine)
        self._entries = _read_entries(path)

    def find(self, model: ComparedModel, task: Task) -> Speed | None:
        """Returns what was measured, or None."""
        entry = self._entries.get(self._make_key(model, task))
        try:
            return None if entry is None else Speed(**{**entry, "model": model.label})
        except TypeError:  # of another version
            return None

    def add(self, model: ComparedModel, task: Task, speed: Speed) -> None:
        """Adds a speed, and writes the file. Raises OutputError."""
        self._entries[self._make_key(model, task)] = asdict(speed)
        data = json.dumps(self._entries, indent=1).encode("ascii") + b"\n"
        write_atomically(self._path, data, replace=True, is_ours=lambda path: True)

    def _make_key(self, model: ComparedModel, task: Task) -> str:
        identity = model.handle.identity
        facts = {
            "machine": self._machine,
            "weights": identity.weights,
            "latent_space": identity.latent_space,
            "compute": model.handle.compute,
            "task": asdict(task),
        }
        return json.dumps(facts, sort_keys=True)


def _read_entries(path: str) -> dict[str, Any]:
    try:
        entries = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {key: entry for key, entry in entries.items() if _is_speed(entry)}


def _is_speed(entry: Any) -> bool:
    """True for the fields of a `Speed`. False for those of another version, or damaged ones."""
    if not isinstance(entry, dict) or set(entry) != {field.name for field in fields(Speed)}:
        return False
    numbers = [entry["side"], entry["batch"], entry["ms_per_batch"]]
    numbers += [] if entry["peak_mib"] is None else [entry["peak_mib"]]
    return (
        isinstance(entry["task"], str)
        and isinstance(entry["steps"], int)
        and all(isinstance(number, (int, float)) and 0 < number < math.inf for number in numbers)
    )


def measure_speed(model: ComparedModel, task: Task) -> Speed:
    """Times a task of a model, warm, one batch after the other. Raises DeviceError, ModelError."""
    from dinac_cli.bench.timing import time_in_turns

    part = model.open_part(ENCODER if task.name == "encode" else DECODER)
    engine = part.engine
    batch = engine.batch_size(task.side, task.side)
    work = _prepare(part, task, batch)
    _reset_peak(engine.device)
    for _ in range(_WARM_CALLS):
        work()
    seconds = time_in_turns({task.name: work}, engine.device, _SECONDS)[task.name]
    peak = _read_cuda_peak(engine.device)
    is_cpu = engine.device.type == "cpu"
    part.__dict__.pop("engine")
    del engine, work
    gc.collect()
    if is_cpu:
        peak = _measure_process(model, task)
    return Speed(
        model=model.label,
        task=task.name,
        steps=task.steps,
        side=task.side,
        batch=batch,
        ms_per_batch=1000 * seconds,
        peak_mib=peak,
    )


def _prepare(part: ModelHandle, task: Task, batch: int) -> Callable[[], object]:
    """Returns a function that encodes or decodes one batch, and waits for the result."""
    engine, random, side = part.engine, np.random.default_rng(0), task.side
    if task.name == "encode":
        images = list(random.integers(0, 256, (batch, side, side, 3), np.uint8))
        return lambda: engine.submit_images(images).result()
    rows = -(-side // part.traits.patch)
    shape = (batch, part.traits.channels, rows, rows)
    latents = list(random.standard_normal(shape, np.float32))
    settings = DinacAEInferenceConfig(num_steps=max(1, task.steps), seed=0)
    return lambda: engine.submit_latents(latents, [(side, side)] * batch, settings).result()


def _reset_peak(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _read_cuda_peak(device: Any) -> float | None:
    import torch

    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def _measure_process(model: ComparedModel, task: Task) -> float | None:
    """Returns the peak memory in MiB of a process that encodes or decodes one image."""
    from dinac_cli.bench.processes import measure_peak

    choice = model.handle.choice
    options = ["--model", model.named, "--device", choice.device, "--dtype", choice.dtype]
    with tempfile.TemporaryDirectory(prefix="dinac-compare-") as name:
        folder = Path(name)
        images, latents = folder / "images", folder / "latents"
        images.mkdir()
        picture = next(draw_photographs(task.side))
        (images / "image.png").write_bytes(write_image(picture, "png"))
        peak = measure_peak("encode", images, latents, options)
        if task.name == "encode":
            return peak
        steps = ["--steps", str(task.steps)] if task.steps else []
        return measure_peak("decode", latents, folder / "decoded", [*options, *steps])


def list_speeds(
    models: Sequence[ComparedModel], steps: Sequence[int]
) -> Iterator[tuple[ComparedModel, Task]]:
    """Yields what to time, in the order of the tables."""
    for side in SIDES:
        for model in models:
            for task in list_tasks(model, steps):
                if task.side == side:
                    yield model, task
