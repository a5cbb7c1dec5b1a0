"""Splits the inputs over several machines by a hash of each name."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from dinac_cli.errors import UsageError

# The launchers, each with its variables for the process index and the number of processes. The
# first launcher whose variables are set is used.
_LAUNCHERS = (("torchrun", "RANK", "WORLD_SIZE"), ("Slurm", "SLURM_PROCID", "SLURM_NTASKS"))
_ARRAY = ("Slurm array", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of the inputs: the names whose CRC-32 modulo `count` is `index`.

    `index` starts at 0.
    """

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
    """Parses `I/N` or `auto`. Raises UsageError.

    `auto` reads the environment variables that torchrun and Slurm document and set. Without `auto`,
    dinac ignores them: a shell in a Slurm allocation also has these variables, and a run in that
    shell must not silently process only one shard.
    """
    if text == "auto":
        return _detect_shard(environment)
    match = re.fullmatch("([0-9]+)/([0-9]+)", text)
    if match is None:
        raise UsageError(f"--shard {text}: expected I/N (for example 0/8) or auto")
    return Shard(int(match[1]), int(match[2]))


def _detect_shard(environment: Mapping[str, str]) -> Shard:
    """Returns the shard of this process.

    If a task of a Slurm array has several processes, each of them has its own shard.
    """
    found = [_read_numbers(environment, index, count) for _, index, count in _LAUNCHERS]
    process = next(filter(None, found), None)
    task = _read_numbers(environment, *_ARRAY[1:])
    if process is None and task is None:
        variables = [f"{index}/{count} ({name})" for name, index, count in (*_LAUNCHERS, _ARRAY)]
        raise UsageError(f"--shard auto: none of {', '.join(variables)} is set; give I/N instead")
    process_index, processes = process or (0, 1)
    # The ids of an array's tasks can start at any number and have any step.
    first_id = _read_number(environment, "SLURM_ARRAY_TASK_MIN") or 0
    step = _read_number(environment, "SLURM_ARRAY_TASK_STEP") or 1
    task_id, tasks = task or (first_id, 1)
    return Shard((task_id - first_id) // step * processes + process_index, tasks * processes)


def _read_numbers(environment: Mapping[str, str], index: str, count: str) -> tuple[int, int] | None:
    numbers = _read_number(environment, index), _read_number(environment, count)
    return None if numbers[0] is None or numbers[1] is None else (numbers[0], numbers[1])


def _read_number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None
