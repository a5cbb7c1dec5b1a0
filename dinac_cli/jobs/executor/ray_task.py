"""What runs on the nodes of a Ray cluster: the check of a node, and the work on one entry.

Ray calls these functions in its own worker processes. A worker process opens the job of a run once,
and keeps it until the process ends.
"""

from __future__ import annotations

import os
import pickle
import platform
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from types import FrameType
from typing import Any

import dinac_cli
from dinac_cli.codec.machine import bound_memory, configure_threads, keep_memory
from dinac_cli.errors import ClusterError, DinacError
from dinac_cli.jobs.executor.control import RunControl, StageClock
from dinac_cli.jobs.executor.job import Entry, Job, Made
from dinac_cli.jobs.executor.local import run_numbered
from dinac_cli.jobs.executor.messages import Report, make_portable
from dinac_cli.jobs.executor.program import end_process

Facts = Mapping[str, str]
"""What must be the same on all nodes, by name."""

Check = Callable[[], Facts]
"""Checks a node: returns facts that must be the same on all nodes, or raises DinacError."""


@dataclass(frozen=True, kw_only=True)
class TaskSetup:
    """What the tasks of a run need to know.

    `key` is unique to the run. `job` and `check` are an `OpenJob` and a `Check`, pickled separately
    as in `messages.Assignment`. Relative paths begin in `folder`. A node must have the facts
    `expected`; those with an identity in `trusted` were found to have them.
    """

    key: str
    job: bytes
    check: bytes
    control: RunControl
    folder: str
    expected: Facts = field(default_factory=dict)
    trusted: frozenset[str] = frozenset()


def read_versions() -> dict[str, str]:
    """Returns the versions of dinac, Python and torch in this process. Imports nothing."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"dinac": dinac_cli.__version__, "Python": python, "torch": metadata.version("torch")}


def check_nothing() -> Facts:
    """A `Check` for runs that need nothing but the versions."""
    return {}


def inspect_node(pickled: bytes) -> Facts | DinacError:
    """Checks this node for a run. Returns its facts, or the error of the check."""
    setup: TaskSetup = pickle.loads(pickled)
    _prepare(setup)
    return _inspect(setup)


def find_differences(facts: Facts, expected: Facts) -> list[str]:
    """Says which facts differ from the expected ones."""
    return [
        f"{name} is {facts.get(name, 'missing')}, not {value}"
        for name, value in expected.items()
        if facts.get(name) != value
    ]


def run_entry(pickled: bytes, number: int, entry: Entry) -> Report:
    """Runs a job on one entry. An error that ends the run is in the report."""
    with _uninterrupted():
        try:
            return _open_job(pickled).run(number, entry)
        except Exception as exc:
            return Report(error=make_portable(exc))


class _OpenJob:
    """The job that this process has opened for a run."""

    def __init__(self, setup: TaskSetup) -> None:
        self.key = setup.key
        self.gpus = _find_gpus()
        self._stack = ExitStack()
        self._remarks: list[str] = []
        self._control = replace(setup.control, warn=self._remarks.append, clock=StageClock())
        self._job: Job[Any, Any, Any] = self._stack.enter_context(pickle.loads(setup.job)())

    def run(self, number: int, entry: Entry) -> Report:
        with closing(run_numbered(self._job, [entry], self._control, ordered=False)) as outputs:
            made: list[Made] = [made for _, made in outputs]
        remarks = tuple(self._remarks)
        self._remarks.clear()
        clock = self._control.clock.take()
        # The clocks of two machines have nothing in common, so their spans stay apart.
        clock.busy = {f"{_find_address()} {self.gpus}": busy for busy in clock.busy.values()}
        return Report(tuple((number, one) for one in made), clock, remarks)

    def close(self) -> None:
        self._stack.close()


_OPEN: list[_OpenJob] = []
"""The job that this process has opened, if any."""


def _open_job(pickled: bytes) -> _OpenJob:
    setup: TaskSetup = pickle.loads(pickled)
    _require_equal(setup, read_versions())
    if _OPEN and _OPEN[0].key == setup.key:
        if _OPEN[0].gpus != _find_gpus():
            # A process cannot leave its GPU, and the memory of the other one is meant for this
            # task. Ray tries the entry again in another process.
            end_process()
        return _OPEN[0]
    while _OPEN:
        _OPEN.pop().close()
    _prepare(setup)
    if _find_node() not in setup.trusted:  # it joined after the run had started
        facts = _inspect(setup)
        if isinstance(facts, DinacError):
            raise ClusterError(f"node {_find_address()}: {facts}", facts.details)
        _require_equal(setup, facts)
    _OPEN.append(_OpenJob(setup))
    return _OPEN[0]


def _require_equal(setup: TaskSetup, facts: Facts) -> None:
    expected = {name: setup.expected[name] for name in facts if name in setup.expected}
    if differences := find_differences(facts, expected):
        raise ClusterError(
            f"node {_find_address()} differs from the others: {', '.join(differences)}; install "
            "the same on every node, and run again"
        )


def _prepare(setup: TaskSetup) -> None:
    """Configures this process as `worker.py` does, before anything imports torch."""
    configure_threads(setup.control.threads)
    (bound_memory if setup.control.bounds_memory else keep_memory)()
    with suppress(OSError):  # the check of the node names the places that it cannot see
        os.chdir(setup.folder)


def _inspect(setup: TaskSetup) -> Facts | DinacError:
    try:
        check: Check = pickle.loads(setup.check)
        return {**read_versions(), **check()}
    except DinacError as exc:
        return exc


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Lets this task finish if it is cancelled without force.

    The run cancels all of its tasks after Ctrl-C, because Ray does not tell which have started.
    """

    def ignore(number: int, frame: FrameType | None) -> None:
        pass

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGINT, ignore)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)


def _find_gpus() -> str:
    """Returns the numbers of the GPUs that Ray gives to this task; "" if there are none."""
    import ray

    return " ".join(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))


def _find_node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _find_address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())
