"""The program that examines libraries and devices: `inquiry.py` starts it.

It runs steps and writes two lines of JSON for each, when the step begins and when it ends. A crash
ends this process only, and the last line says which step crashed.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TextIO

from dinac_cli.codec.machine import configure_threads
from dinac_cli.doctor import arithmetic, gpu, hardware, installation, places, reference, room
from dinac_cli.doctor.finding import Facts
from dinac_cli.errors import DinacError, quote_error

Measure = Callable[[str], Facts | None]
"""Measures something on a device. Returns None if the device has nothing to measure."""

DEVICE, ARITHMETIC, MEMORY = "torch", "arithmetic", "memory"
FLOAT32, BFLOAT16 = "nano in f32", "nano in bf16"
KERNELS_NANO, KERNELS_D2, BATCHES = "kernels (nano)", "kernels (d2)", "batches"
MODELS, EXTRAS, COMPILER = "models", "image libraries", "compiler"

DEVICE_STEPS: dict[str, Measure] = {
    DEVICE: hardware.measure_device,
    ARITHMETIC: arithmetic.measure_arithmetic,
    MEMORY: room.measure_memory,
    FLOAT32: reference.measure_float32,
    BFLOAT16: reference.measure_bfloat16,
    KERNELS_NANO: partial(gpu.measure_ladder, model="nano"),
    KERNELS_D2: partial(gpu.measure_ladder, model="d2"),
    BATCHES: gpu.measure_batches,
}
"""The name of a step → its work. If the first step fails, the others cannot run."""

STEPS: dict[str, Measure] = DEVICE_STEPS | {
    MODELS: lambda device: places.find_models(),
    EXTRAS: lambda device: installation.measure_extras(),
    COMPILER: lambda device: hardware.measure_compilers(),
}

_GRACE_SECONDS = 30.0


def main(request: str, answers: TextIO) -> None:
    """Runs the steps of a request, an object with `steps`, `device` and `seconds` as JSON."""
    order = json.loads(request)
    configure_threads()
    run_steps(order["steps"], order["device"], order["seconds"], answers)


def run_steps(names: Iterable[str], device: str, seconds: float, answers: TextIO) -> None:
    """Runs steps in their order, and writes what each one found or why it failed."""

    def send(**line: Any) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    for name in names:
        # If the parent is gone, nobody else ends a step that hangs.
        faulthandler.dump_traceback_later(seconds + _GRACE_SECONDS, exit=True)
        send(step=name)
        try:
            send(step=name, facts=STEPS[name](device))
        except DinacError as exc:
            text, _, remedy = str(exc).rpartition("; ")
            send(step=name, error=text or remedy, remedy=remedy if text else "")
        except Exception as exc:
            send(step=name, error=quote_error(exc), remedy="")
    faulthandler.cancel_dump_traceback_later()


def reserve_answers() -> TextIO:
    """Returns a stream to standard output that no library can write to: theirs is stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    faulthandler.enable()
    main(sys.argv[1], reserve_answers())
