"""The rank of this process among those that train together, and the check of such numbers."""

from __future__ import annotations

import os

from dinac_cli.errors import UsageError


def check_number(name: str, value: object, least: int) -> None:
    """Raises UsageError unless the argument `name` is a whole number of at least `least`."""
    if type(value) is not int or not least <= value < 2**63:
        raise UsageError(f"{name} is {value!r}; it must be a whole number from {least}")


def choose_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Returns the rank and the number of ranks: those given, or else those of the environment.

    The environment is torch.distributed if it is initialised, else the variables RANK and
    WORLD_SIZE, else one rank. Raises UsageError.
    """
    if (rank is None) != (world_size is None):
        raise UsageError("rank and world_size belong together; give both or neither")
    if rank is None or world_size is None:
        rank, world_size = _find_rank()
    check_number("world_size", world_size, 1)
    check_number("rank", rank, 0)
    if rank >= world_size:
        raise UsageError(f"rank is {rank}; with a world_size of {world_size}, ranks are below that")
    return rank, world_size


def _find_rank() -> tuple[int, int]:
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    rank, world_size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world_size is None:
        return 0, 1
    try:
        return int(rank), int(world_size)
    except ValueError as exc:
        raise UsageError(
            f"RANK={rank!r} and WORLD_SIZE={world_size!r} are not numbers; correct these variables"
        ) from exc
