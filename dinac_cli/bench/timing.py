"""Times calls in turns, and measures the memory that a call adds."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Work = Callable[[], object]

FEWEST_ROUNDS = 5
MOST_ROUNDS = 500

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def time_in_turns(
    contenders: Mapping[str, Work], device: torch.device, seconds: float
) -> dict[str, float]:
    """Returns the median time of a call for each contender, in seconds.

    Calls each contender twice to warm up. Then calls all contenders in turn, for about `seconds` in
    total. There are at least `FEWEST_ROUNDS` rounds. The time of a call ends when the device has
    finished the work.
    """
    for work in contenders.values():
        for _ in range(2):
            _time(work, device)
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    for number in range(MOST_ROUNDS):
        if number >= FEWEST_ROUNDS and time.perf_counter() >= end:
            break
        for name, work in contenders.items():
            taken[name].append(_time(work, device))
    return {name: statistics.median(values) for name, values in taken.items()}


def measure_growth(work: Work, device: torch.device) -> int | None:
    """Returns how much memory a call adds at most, in bytes, or None if this is unknown.

    On CUDA, measures the memory that torch allocates. On other devices, measures the resident
    memory of the process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _time(work, device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        # The allocator keeps the memory of earlier calls, and this memory would hide the growth.
        ctypes.CDLL(None).malloc_trim(0)
        _CLEAR.write_text("5")  # resets the peak to the memory in use
        before = _read_kib("VmRSS")
        work()
        return 1024 * max(0, _read_kib("VmHWM") - before)
    except (OSError, AttributeError, TypeError):  # not Linux, or another C library
        return None


def measure_matmul(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the FLOP/s of a large matrix product in `dtype`. No model can exceed this rate."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = time_in_turns({"matmul": lambda: a @ b}, device, 1.0)["matmul"]
    return 2 * side**3 / seconds


def _time(work: Work, device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - start


def _read_kib(key: str) -> int:
    for line in _STATUS.read_text("ascii", "replace").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise OSError(f"{_STATUS} has no {key}")
