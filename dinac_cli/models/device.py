"""Which device computes, and in which type."""

from __future__ import annotations

import re

import torch

from dinac_cli.errors import DeviceError, UsageError

_DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


def resolve_device(name: str) -> torch.device:
    """Return the device of "auto", "cuda", "cuda:N", "mps" or "cpu".

    "auto" takes CUDA, else MPS, else the CPU. A device that is absent is never replaced by
    another: it raises DeviceError; a name that is none of these raises UsageError.
    """
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name) is None:
        raise UsageError(f"device {name!r} is unknown; take auto, cuda, cuda:N, mps or cpu")
    present = _list_devices()
    if name == "auto":
        return torch.device(present[0])
    if name not in present and not (name == "cuda" and "cuda:0" in present):
        raise DeviceError(f"device {name} is absent; this machine has {', '.join(present)}")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the compute type of "bf16", "f32" or "auto" on a device.

    "auto" takes bfloat16 where the hardware multiplies it: on CUDA, and on CPUs with AMX or
    AVX512-BF16. Any other name raises UsageError.
    """
    if name != "auto":
        if name not in _DTYPES:
            raise UsageError(f"dtype {name!r} is unknown; take auto, bf16 or f32")
        return _DTYPES[name]
    fast = device.type == "cuda" or (device.type == "cpu" and _cpu_multiplies_bfloat16())
    return torch.bfloat16 if fast else torch.float32


def _list_devices() -> list[str]:
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def _cpu_multiplies_bfloat16() -> bool:
    # Private, but the only probes that also ask the system for leave to use the AMX tiles.
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
