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

ALL = "all"
_NAME = re.compile(r"auto|all|cpu|mps|cuda(:\d{1,3})?")
_LIST = "cuda:0,cuda:1"


def check_device(text: str) -> str:
    """Returns `text`, the value of `--device`. Raises UsageError if its form is wrong.

    Torch checks later whether the devices exist.
    """
    parse_devices(text)
    return text


def parse_devices(text: str) -> tuple[str, ...]:
    """Returns the names in the value of `--device`: one name, or those of a list.

    Tests replace this function, so that `cpu,cpu` stands for two devices. Raises UsageError.
    """
    names = tuple(text.split(","))
    problem = _find_problem(names)
    if problem is not None:
        raise UsageError(f"--device {text}: {problem}")
    return names


def _find_problem(names: tuple[str, ...]) -> str | None:
    """Returns what is wrong with a list of devices, or None."""
    if len(names) > 1 and "" in names:
        return f"a name is missing beside a comma; write a list such as {_LIST}"
    if any(_NAME.fullmatch(name) is None for name in names):
        return (
            "choose one of auto, cpu, cuda, cuda:N, mps; encode and decode also take all or a list "
            f"such as {_LIST}"
        )
    if len(names) == 1:
        return None
    for name in names:
        if not name.startswith("cuda:"):
            return f"{name} cannot be in a list; name CUDA devices by number, such as {_LIST}"
        if names.count(name) > 1:
            return f"{name} is named twice; name each device once"
    return None


def refuse_devices(text: str, command: str) -> None:
    """Raises UsageError if the value of `--device` may name several devices."""
    if text == ALL or len(parse_devices(text)) > 1:
        raise UsageError(f"--device {text}: {command} computes on one device; name one device")


def find_devices(text: str) -> tuple[str, ...]:
    """Returns the devices that the value of `--device` names.

    Imports torch for `all`, and for a list, whose devices must exist. Raises UsageError,
    DeviceError.
    """
    names = parse_devices(text)
    if names == (ALL,):
        from dinac_cli.models.device import list_all

        return list_all()
    if len(names) > 1:
        from dinac_cli.models.device import resolve_device

        for name in names:
            resolve_device(name)
    return names


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
        """True if the two differ only in the step of the ladder."""
        return self != other and replace(self, step="") == replace(other, step="")

    def __str__(self) -> str:
        flags = (_COMPILED,) if self.compiled else ()
        return "/".join(filter(None, (self.device, self.dtype, self.step, *flags)))
