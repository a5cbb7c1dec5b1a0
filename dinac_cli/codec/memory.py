"""Finds out how much memory is free."""

from __future__ import annotations

from pathlib import Path

import torch

_CONTEXT_BYTES = 512 * 2**20
"""The memory that CUDA itself takes in each process, with room to spare."""

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")

# One row per version of control groups, version 2 first. A row has the file of the limit, the file
# of the usage, and the prefix of the statistics that include child groups.
_CGROUP_FILES = (
    ("memory.max", "memory.current", ""),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_"),
)


def free_bytes(device: torch.device) -> int | None:
    """Returns the free memory of `device` in bytes, or None if it is unknown.

    For the CPU, this is the smaller of two numbers: the kernel's estimate, and the memory that the
    control group still allows.
    """
    if device.type == "cuda":
        # Torch reuses the memory that it has reserved and not allocated.
        spare = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + spare)
    if device.type != "cpu":
        return None
    limits = [limit for limit in (_available_memory(), _cgroup_headroom()) if limit is not None]
    return min(limits, default=None)


def measure_room(device: torch.device) -> tuple[int, int] | None:
    """Returns the free memory of a GPU, and the most that this process may use there, in bytes.

    On CUDA, the activations count twice: a recorded graph has memory of its own for them. Returns
    None for a CPU.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        most = torch.cuda.max_memory_reserved(device)
        again = max(0, most - torch.cuda.memory_allocated(device))
        return max(0, int(free) - again), most + again + _CONTEXT_BYTES
    if device.type == "mps":
        used = torch.mps.driver_allocated_memory()
        return max(0, torch.mps.recommended_max_memory() - used), used
    return None


def _available_memory() -> int | None:
    try:
        for line in _MEMINFO.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _cgroup_headroom() -> int | None:
    for limit_file, usage_file, prefix in _CGROUP_FILES:
        try:
            limit = (_CGROUPS / limit_file).read_text("ascii").strip()
            usage = int((_CGROUPS / usage_file).read_text("ascii"))
            statistics = (_CGROUPS / limit_file).with_name("memory.stat").read_text("ascii")
        except OSError:
            continue
        if limit.isdigit():
            # When a run reads many images, the page cache fills the control group. The kernel
            # counts this cache as used, but frees it when memory is needed.
            values = dict(line.split() for line in statistics.splitlines())
            names = (f"{prefix}active_file", f"{prefix}inactive_file")
            return max(0, int(limit) - usage + sum(int(values.get(name, 0)) for name in names))
    return None
