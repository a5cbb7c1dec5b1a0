"""How much memory an image will take, and how much there is."""

from __future__ import annotations

from pathlib import Path

import torch

from dinac_cli.models.dinac.config import DinacAEConfig

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")

# Of both versions of control groups: the limit, the usage, and the prefix of a whole subtree's
# statistics.
_CGROUP_FILES = (
    ("memory.max", "memory.current", ""),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_"),
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
            return max(0, int(limit) - usage + _count_file_cache(statistics, prefix))
    return None


def _count_file_cache(statistics: str, prefix: str) -> int:
    """Bytes of files that the kernel keeps, counts as used, and gives up when asked for memory.

    A run over many images fills its control group with them.
    """
    values = dict(line.split() for line in statistics.splitlines())
    return sum(int(values.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
