"""The device and the arithmetic used to compute a record. This module does not import torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dinac_cli.errors import UsageError

if TYPE_CHECKING:
    import torch

_DTYPES = ("bf16", "f32")
DTYPE_CHOICES = ("auto", *_DTYPES)
_COMPILED = "compiled"


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
    """The `compute` field of a record, such as `cpu/f32`, `cuda/bf16`, `cpu/bf16/compiled`."""

    device: str
    dtype: str
    compiled: bool = False

    @classmethod
    def parse(cls, text: str) -> Compute | None:
        """Parses the field. Ignores unknown parts after the dtype.

        Returns None if the dtype is unknown: another program may have written the record.
        """
        device, _, rest = text.partition("/")
        dtype, *flags = rest.split("/")
        return cls(device, dtype, _COMPILED in flags) if dtype in _DTYPES else None

    @classmethod
    def from_torch(cls, device: torch.device, dtype: torch.dtype, *, compiled: bool) -> Compute:
        """Returns the arithmetic of a model on a device. `dtype` is bfloat16 or float32."""
        return cls(device.type, "bf16" if str(dtype) == "torch.bfloat16" else "f32", compiled)

    def __str__(self) -> str:
        flags = (_COMPILED,) if self.compiled else ()
        return "/".join((self.device, self.dtype, *flags))
