"""What a record says about the hardware and arithmetic that computed it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

_DTYPES = ("bf16", "f32")
_COMPILED = "compiled"


@dataclass(frozen=True)
class Compute:
    """A record's `compute` field: `cpu/f32`, `cuda/bf16`, `cpu/bf16/compiled`.

    `device` is the device type, `dtype` "bf16" or "f32".
    """

    device: str
    dtype: str
    compiled: bool = False

    @classmethod
    def parse(cls, text: str) -> Compute | None:
        """Reads the field; unknown parts after the dtype are ignored.

        Returns None if it names no dtype that dinac computes in: a record may say anything here.
        """
        device, _, rest = text.partition("/")
        dtype, *flags = rest.split("/")
        return cls(device, dtype, _COMPILED in flags) if dtype in _DTYPES else None

    def __str__(self) -> str:
        flags = (_COMPILED,) if self.compiled else ()
        return "/".join((self.device, self.dtype, *flags))
