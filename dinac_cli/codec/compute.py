"""The device and the arithmetic that computed a record. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

_DTYPES = ("bf16", "f32")
_COMPILED = "compiled"


@dataclass(frozen=True)
class Compute:
    """A record's `compute` field: `cpu/f32`, `cuda/bf16`, `cpu/bf16/compiled`."""

    device: str
    dtype: str
    compiled: bool = False

    @classmethod
    def parse(cls, text: str) -> Compute | None:
        """Parses the field; ignores unknown parts after the dtype.

        Returns None if the dtype is unknown: another program may have written the record.
        """
        device, _, rest = text.partition("/")
        dtype, *flags = rest.split("/")
        return cls(device, dtype, _COMPILED in flags) if dtype in _DTYPES else None

    def __str__(self) -> str:
        flags = (_COMPILED,) if self.compiled else ()
        return "/".join((self.device, self.dtype, *flags))
