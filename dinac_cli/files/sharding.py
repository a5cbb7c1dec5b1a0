"""Splitting one list of inputs over machines, by name alone."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from dinac_cli.errors import UsageError

# launcher, its variables for the index, the count and the first index; the first that is set wins
_LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE", None),
    ("Slurm", "SLURM_PROCID", "SLURM_NTASKS", None),
    ("Slurm array", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
)


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`: the names whose CRC-32 mod count is index."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            raise UsageError(
                f"--shard {self.index}/{self.count}: I goes from 0 to N-1, for instance 0/8 to 7/8"
            )

    def holds(self, name: str) -> bool:
        """True if the file with this relative name belongs to this part."""
        return zlib.crc32(os.fsencode(name)) % self.count == self.index


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """`I/N`, or `auto`: from the variables that torchrun or Slurm set.

    Source of the variables: the launchers' own documentation. They are used only where `auto` asks
    for them: a shell inside an allocation has them set too, and must not silently do one part.
    """
    if text == "auto":
        return _detect_shard(environment)
    index, slash, count = text.partition("/")
    if not (slash and index.isascii() and index.isdigit() and count.isascii() and count.isdigit()):
        raise UsageError(f"--shard {text}: expected I/N (for instance 0/8) or auto")
    return Shard(int(index), int(count))


def _detect_shard(environment: Mapping[str, str]) -> Shard:
    for _, index, count, first in _LAUNCHERS:
        if environment.get(index, "").isdigit() and environment.get(count, "").isdigit():
            offset = int(environment.get(first, "0")) if first else 0
            return Shard(int(environment[index]) - offset, int(environment[count]))
    wanted = ", ".join(f"{index}/{count} ({name})" for name, index, count, _ in _LAUNCHERS)
    raise UsageError(f"--shard auto: none of {wanted} is set; give I/N instead")
