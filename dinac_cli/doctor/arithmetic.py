"""Checks the arithmetic that `--dtype auto` chooses, and on a CPU whether it is fast."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinac_cli.doctor.finding import Facts, Finding, note, ok

_CPU_INFO = Path("/proc/cpuinfo")
_FLAGS = ("amx_bf16", "avx512_bf16")
_SIDE = 512
_ROUNDS = 5

LEAST_GAIN = 1.1


def measure_arithmetic(device: str) -> Facts:
    """Returns what torch and the processor say about bfloat16, and times it. Imports torch."""
    import torch

    from dinac_cli.models.device import resolve_device, resolve_dtype

    place = resolve_device(device)
    is_bfloat16 = resolve_dtype("auto", place) == torch.bfloat16
    facts: dict[str, Any] = {"device": place.type, "dtype": "bf16" if is_bfloat16 else "f32"}
    if place.type != "cpu":
        return facts
    return facts | {
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "torch_amx": _ask(torch.cpu, "_is_amx_tile_supported"),
        "torch_avx512_bf16": _ask(torch.cpu, "_is_avx512_bf16_supported"),
        "torch_onednn": bool(_ask(torch.backends.mkldnn, "is_available")),
        "processor": read_flags(_CPU_INFO),
        "model": read_model(_CPU_INFO),
        "bf16_gain": _measure_gain() if is_bfloat16 else None,
    }


def read_flags(path: Path) -> list[str] | None:
    """Returns which of the bfloat16 instructions the processor has; None if it is not known."""
    flags = _read_field(path, "flags")
    return None if flags is None else [flag for flag in _FLAGS if flag in flags.split()]


def read_model(path: Path) -> str | None:
    """Returns the name of the processor; None if it is not known."""
    return _read_field(path, "model name")


def _read_field(path: Path, name: str) -> str | None:
    try:
        text = path.read_text("ascii", "replace")
    except OSError:
        return None
    found = re.search(rf"^{name}\s*:(.*)$", text, re.MULTILINE)
    return None if found is None else found[1].strip()


def _ask(module: Any, probe: str) -> bool | None:
    """Calls a function of torch, which may be private. Returns None if torch lacks it."""
    function = getattr(module, probe, None)
    return None if function is None else bool(function())


def _measure_gain() -> float:
    """Returns how many times as fast as in float32 a matrix product is in bfloat16."""
    import torch

    x = torch.randn(_SIDE, _SIDE)
    y = x.bfloat16()
    # The types take turns, and the best round counts, because other work may disturb a round.
    rounds = [(_time(lambda: x @ x), _time(lambda: y @ y)) for _ in range(_ROUNDS + 1)][1:]
    return min(one for one, _ in rounds) / min(two for _, two in rounds)


def _time(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return max(time.perf_counter() - start, 1e-9)


def judge_arithmetic(facts: Facts) -> Finding:
    """Says why `--dtype auto` chose its type."""
    dtype = facts["dtype"]
    if facts["device"] != "cpu":
        return ok("arithmetic", f"--dtype auto is {dtype} on {facts['device']}", facts)
    if not facts["torch_onednn"]:
        text = f"--dtype auto is {dtype}; this torch has no oneDNN, so it computes slowly"
        return note("arithmetic", text, "install torch as pytorch.org says", facts)
    if dtype == "f32":
        return _judge_float32(facts)
    names = {"torch_amx": "AMX", "torch_avx512_bf16": "AVX512-BF16"}
    units = " and ".join(name for fact, name in names.items() if facts[fact])
    gain = facts["bf16_gain"]
    text = f"--dtype auto is bf16, because the processor has {units}; matrix products in bf16 "
    text += f"are {gain:.1f} times as fast as in f32"
    if gain >= LEAST_GAIN:
        return ok("arithmetic", text, facts)
    remedy = "repeat this on an idle machine; if it stays so, use --dtype f32"
    return note("arithmetic", text, remedy, facts)


def _judge_float32(facts: Facts) -> Finding:
    if facts["processor"]:
        units = " and ".join(facts["processor"])
        text = f"--dtype auto is f32: the processor has {units}, but torch does not use it"
        remedy = "update torch; AMX also needs Linux 5.16 or newer, and a host that allows it"
        return note("arithmetic", text, remedy, facts)
    text = "--dtype auto is f32: torch reports neither AMX nor AVX512-BF16"
    return ok("arithmetic", f"{text} (it uses {facts['torch_capability']})", facts)
