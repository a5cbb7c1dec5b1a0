"""How much memory an image will take, and how much there is."""

from __future__ import annotations

from pathlib import Path

import torch

from dinac_cli.model.config import DinacAEConfig

_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def measure_token_bytes(config: DinacAEConfig) -> int:
    """Bytes that one latent position takes at the peak of an encode or a decode, generously.

    Two activations of the widest layer, six of the trunk, all float32, and the pixels.
    """
    floats = 2 * config.mlp_dim + 6 * config.model_dim + 4 * 3 * config.patch_size**2
    return 4 * floats


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be had on `device`, None where it cannot be told.

    On the CPU the kernel's estimate, cut to what the control group leaves.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    if device.type != "cpu":
        return None
    limits = [limit for limit in (_available_memory(), _cgroup_headroom()) if limit is not None]
    return min(limits, default=None)


def _available_memory() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _cgroup_headroom() -> int | None:
    for limit_file, usage_file in _CGROUP_FILES:
        try:
            limit, usage = Path(limit_file).read_text(), Path(usage_file).read_text()
        except OSError:
            continue
        if limit.strip().isdigit():
            return max(0, int(limit) - int(usage))
    return None
