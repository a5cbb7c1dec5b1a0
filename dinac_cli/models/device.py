"""Chooses the device and the compute type of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from dinac_cli.errors import DeviceError, UsageError, first_line

_DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}

# Older GPUs emulate bfloat16, and Triton does not support them well.
_LEAST_CAPABILITY = (8, 0)
_ROCM_ARCHITECTURES = {"gfx90a", "gfx942", "gfx1100", "gfx1201"}
"""The architectures of AMD for which the kernels compile."""


def resolve_device(name: str) -> torch.device:
    """Returns the device with the name "auto", "cuda", "cuda:N", "mps" or "cpu".

    "auto" selects CUDA if it is available, else MPS, else the CPU. Every other name selects exactly
    the named device. Raises DeviceError if the device is not available, and UsageError if the name
    is unknown.
    """
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name) is None:
        raise UsageError(f"device {name!r} is unknown; use auto, cuda, cuda:N, mps or cpu")
    present = _list_devices()
    if name == "auto":
        return torch.device(present[0])
    if name not in present and not (name == "cuda" and "cuda:0" in present):
        raise DeviceError(
            f"device {name} is not available; torch finds only {', '.join(present)}; "
            "use --device auto"
        )
    return torch.device(name)


def list_all() -> tuple[str, ...]:
    """Returns the names of all CUDA devices, such as `cuda:0`.

    Raises DeviceError if there is none, or if their hardware differs.
    """
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if not names:
        raise DeviceError(
            "device all is not available; torch finds no CUDA device; use --device auto"
        )
    if differing := describe_unlike(names):
        alike = [name for name in names if _name_hardware(name) == _name_hardware(names[0])]
        raise DeviceError(
            f"device all needs devices of one kind; torch finds {differing}; list those to "
            f"use, such as --device {','.join(alike)}"
        )
    return tuple(names)


def describe_unlike(names: Sequence[str]) -> str | None:
    """Returns the devices with the names of their hardware, or None if all have the same name.

    Raises DeviceError if a device fails.
    """
    hardware = [_name_hardware(name) for name in names]
    if len(set(hardware)) == 1:
        return None
    return ", ".join(f"{name} ({kind})" for name, kind in zip(names, hardware, strict=True))


def _name_hardware(name: str) -> str:
    device = torch.device(name)
    if device.type != "cuda":
        return name
    with _failures_named(device):
        return torch.cuda.get_device_name(device)


@contextmanager
def _failures_named(device: torch.device) -> Iterator[None]:
    """Raises DeviceError if CUDA cannot start, such as with a driver that is too old for torch."""
    try:
        yield
    except RuntimeError as exc:
        raise DeviceError(f"device {device} failed: {first_line(exc)}; use --device cpu") from exc


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Returns the compute type with the name "bf16", "f32" or "auto" for a device.

    "auto" selects bfloat16 if the hardware supports bfloat16 natively: on GPUs of NVIDIA from
    compute capability 8.0 on, on some GPUs of AMD, and on CPUs with AMX or AVX512-BF16. On other
    hardware, "auto" selects float32. Raises UsageError for any other name, and DeviceError if the
    device fails.
    """
    if name != "auto":
        if name not in _DTYPES:
            raise UsageError(f"dtype {name!r} is unknown; use auto, bf16 or f32")
        return _DTYPES[name]
    is_fast = {"cuda": runs_kernels, "cpu": _cpu_multiplies_bfloat16}.get(device.type)
    return torch.bfloat16 if is_fast is not None and is_fast(device) else torch.float32


def runs_kernels(device: torch.device) -> bool:
    """True if a CUDA device multiplies bfloat16 natively, and Triton compiles for it.

    Raises DeviceError if the device fails.
    """
    with _failures_named(device):
        if torch.version.hip is not None:
            name: str = torch.cuda.get_device_properties(device).gcnArchName
            return name.partition(":")[0] in _ROCM_ARCHITECTURES
        return torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY


def prepare_device(device: torch.device) -> None:
    """Makes a CUDA device the current one, and its arithmetic exact: no TF32, and float32 sums.

    Without a current device, calls that name no device would take memory on cuda:0, and Triton
    would launch kernels there. The environment, or another library, may have chosen faster sums
    that change the results. Attention is computed without cuDNN, which takes about half a second
    to plan for each new image size. Raises DeviceError if the device fails.
    """
    if device.type == "cuda":
        with _failures_named(device):
            if str(device) == "cuda":
                torch.cuda.init()  # type: ignore[no-untyped-call]
            else:
                torch.cuda.set_device(device)
        # Both kinds of settings: if they disagree, torch raises an error when they are read.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.enable_cudnn_sdp(False)


def _list_devices() -> list[str]:
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def _cpu_multiplies_bfloat16(device: torch.device) -> bool:
    # These functions of torch are private. They also ask the operating system for permission to use
    # AMX; torch's other checks do not.
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
