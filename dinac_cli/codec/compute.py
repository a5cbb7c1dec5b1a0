"""The device and the arithmetic used to compute a record. This module does not import torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dinac_cli.errors import UsageError

if TYPE_CHECKING:
    import torch

_DTYPES = ("bf16", "f32")
DTYPE_CHOICES = ("auto", *_DTYPES)
_COMPILED = "compiled"
_SLOWER_STEPS = ("torch", "plain")


def check_device(name: str) -> str:
    """Returns `name`. Raises UsageError if the form of `name` is wrong.

    Torch checks later whether the device exists.
    """
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name) is None:
        raise UsageError(f"--device {name}: choose one of auto, cpu, cuda, cuda:N, mps")
    return name


def check_dtype(name: str) -> None:
    """Raises UsageError if `name` is not one of `DTYPE_CHOICES`."""
    if name not in DTYPE_CHOICES:
        raise UsageError(f"--dtype {name}: choose one of {', '.join(DTYPE_CHOICES)}")


@dataclass(frozen=True)
class Compute:
    """The `compute` field of a record, such as `cpu/f32`, `cuda/bf16`, `cpu/bf16/compiled`.

    `step` is how a GPU computes (see `models/dinac/fast/ladder.py`): "torch", "plain", or empty for
    Triton's kernels and on a CPU.
    """

    device: str
    dtype: str
    compiled: bool = False
    step: str = ""

    @classmethod
    def parse(cls, text: str) -> Compute | None:
        """Parses the field. Ignores unknown parts after the dtype.

        Returns None if the dtype is unknown: another program may have written the record.
        """
        device, _, rest = text.partition("/")
        dtype, *flags = rest.split("/")
        if dtype not in _DTYPES:
            return None
        step = next((flag for flag in flags if flag in _SLOWER_STEPS), "")
        return cls(device, dtype, _COMPILED in flags, step)

    @classmethod
    def from_torch(
        cls, device: torch.device, dtype: torch.dtype, *, compiled: bool, step: str | None = None
    ) -> Compute:
        """Returns the arithmetic of a model on a device.

        `dtype` is bfloat16 or float32. `step` is a step of the ladder; None on a CPU.
        """
        name = "bf16" if str(dtype) == "torch.bfloat16" else "f32"
        is_slower = step in _SLOWER_STEPS and not compiled
        return cls(device.type, name, compiled, step if step and is_slower else "")

    def differs_in_step(self, other: Compute) -> bool:
        """True if both are the same arithmetic of a GPU, but another step."""
        return self != other and replace(self, step="") == replace(other, step="")

    def __str__(self) -> str:
        flags = (_COMPILED,) if self.compiled else ()
        return "/".join(filter(None, (self.device, self.dtype, self.step, *flags)))
