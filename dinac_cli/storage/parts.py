"""Splits a list of inputs over machines by the hash of each name."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from dinac_cli.errors import UsageError

# Process launchers with their variables for index and count; the first that is set is used.
_LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("Slurm", "SLURM_PROCID", "SLURM_NTASKS"),
)
_ARRAY = ("Slurm array", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`: the names with CRC-32 mod `count` equal to `index`."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            raise UsageError(
                f"--shard {self.index}/{self.count}: I must be 0 to N-1, for example 0/8 to 7/8"
            )

    def holds(self, name: str) -> bool:
        """True if the file with this relative name belongs to this shard."""
        return zlib.crc32(os.fsencode(name)) % self.count == self.index


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Parses `I/N`, or `auto`: from the variables that torchrun or Slurm set. Raises UsageError.

    The variables are those in the launchers' documentation. Only `auto` reads them, because they
    are also set in a shell inside an allocation, which must not silently process one shard.
    """
    if text == "auto":
        return _detect_shard(environment)
    index, slash, count = text.partition("/")
    if not (slash and index.isascii() and index.isdigit() and count.isascii() and count.isdigit()):
        raise UsageError(f"--shard {text}: expected I/N (for example 0/8) or auto")
    return Shard(int(index), int(count))


def _detect_shard(environment: Mapping[str, str]) -> Shard:
    """Combines process and array task: each task of an array may start several processes."""
    found = [_read_numbers(environment, index, count) for _, index, count in _LAUNCHERS]
    process = next(filter(None, found), None)
    task = _read_numbers(environment, *_ARRAY[1:])
    if process is None and task is None:
        wanted = ", ".join(
            f"{index}/{count} ({name})" for name, index, count in (*_LAUNCHERS, _ARRAY)
        )
        raise UsageError(f"--shard auto: none of {wanted} is set; give I/N instead")
    process_index, processes = process or (0, 1)
    task_id, tasks = task or (0, 1)
    task_index = 0 if task is None else _index_of_task(environment, task_id)
    return Shard(task_index * processes + process_index, tasks * processes)


def _index_of_task(environment: Mapping[str, str], task_id: int) -> int:
    """Returns the task's index in its array, from 0; ids may start anywhere and have a step."""
    first = _read_number(environment, "SLURM_ARRAY_TASK_MIN") or 0
    step = _read_number(environment, "SLURM_ARRAY_TASK_STEP") or 1
    return (task_id - first) // step


def _read_numbers(environment: Mapping[str, str], index: str, count: str) -> tuple[int, int] | None:
    numbers = _read_number(environment, index), _read_number(environment, count)
    return None if numbers[0] is None or numbers[1] is None else (numbers[0], numbers[1])


def _read_number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None
