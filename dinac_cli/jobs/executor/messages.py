"""The messages between a run and its other processes.

These are worker processes (`pool.py`, `worker.py`) or the driver of a cluster (`ray.py`,
`ray_driver.py`).
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from enum import Enum
from typing import Any

from dinac_cli.errors import DinacError
from dinac_cli.jobs.executor.control import RunControl, StageClock
from dinac_cli.jobs.executor.job import Made

Part = list[tuple[int, Any]]
"""Some entries of a job with their numbers."""


class Order(Enum):
    """A message to a worker that is not a part."""

    STOP = "stop"  # read no further entry, and finish the work in flight
    END = "end"  # the run is over


@dataclass(frozen=True)
class Assignment:
    """The first message to a worker.

    `job` is a pickled function without arguments that returns a context manager of the job. It is
    pickled separately, because unpickling imports the modules of the job, and the limits of
    `control` must be set before that.
    """

    job: bytes
    control: RunControl


@dataclass(frozen=True)
class Report:
    """A message from a worker: results, and the time spent since the last report.

    `remarks` are for the user. `room` is the free memory of the device, and the memory of this
    process there, in bytes; it is sent once, after the first results. `uses_model` is set once,
    before an input goes to the model, which may then be loaded. If `has_stopped` is set, the worker
    obeys `Order.STOP`: it has no work in flight, and drops the rest of its parts. `error` is an
    error that ends the run.
    """

    made: tuple[tuple[int, Made], ...] = ()
    clock: StageClock | None = None
    remarks: tuple[str, ...] = ()
    room: tuple[int, int] | None = None
    uses_model: bool = False
    has_stopped: bool = False
    error: BaseException | None = None


@dataclass(frozen=True)
class Capacity:
    """A message from the driver of a cluster: it may hold `in_flight` entries at a time.

    `description` says in one line which nodes and processes these are for.
    """

    in_flight: int
    description: str


def make_portable(exc: BaseException) -> BaseException:
    """Returns an error that survives pickling. A bug of dinac keeps its traceback as text."""
    if isinstance(exc, DinacError):
        return exc
    return RuntimeError("".join(traceback.format_exception(exc)))
