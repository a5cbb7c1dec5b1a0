"""Faults of a cluster and of a run: each run ends as it must."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

import pytest

from dinac_cli.errors import ClusterError
from dinac_cli.jobs.executor.cluster import Cluster
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.pool import hold_job
from dinac_cli.jobs.executor.ray import run_on_ray
from dinac_cli.jobs.results import FileResult

from ..numbered import Entry
from ..ray_cluster import ROOT, RayCluster
from ..ray_jobs import FileJob
from ..test_ray import Command, assert_complete, list_processes, wait_until

ENTRIES = 16


class Faults:
    """Runs on one cluster, which has a node more than it needs."""

    def __init__(self, cluster: RayCluster, generator: random.Random) -> None:
        self._cluster = cluster
        self._random = generator
        self._node = cluster.add_node()

    def kill_run(self, folder: Path) -> None:
        """Kills a run between its first entry and its end, and runs it again."""
        command = Command(self._cluster.address, folder, ENTRIES, "wait")
        for _ in range(self._random.randrange(1, ENTRIES)):
            command.read_line()
        sleep(self._random.random() / 5)
        command.kill()
        command.end()
        for result in self.run(folder, "wait"):
            assert not result.failed, result

    def kill_worker(self, folder: Path) -> None:
        """Kills the process of an entry that has just been finished, and is busy with another."""
        moment = self._random.randrange(ENTRIES - 4)
        for number, result in enumerate(self.run(folder, "wait")):
            assert not result.failed, result
            if number == moment:
                sleep(self._random.random() / 5)
                with suppress(ProcessLookupError):
                    os.kill(result.bytes_in, signal.SIGKILL)

    def kill_node(self, folder: Path) -> None:
        """Kills all processes of a node."""
        moment = self._random.randrange(ENTRIES - 4)
        for number, result in enumerate(self.run(folder, "wait")):
            assert not result.failed, result
            if number == moment:
                self._cluster.remove_node(self._node)
        self._node = self._cluster.add_node()

    def add_odd_node(self, folder: Path) -> None:
        """A node with another version joins a run, which must end."""
        (folder / "sitecustomize.py").write_text(
            "import dinac_cli\ndinac_cli.__version__ = '0.0.1'\n"
        )
        path = f"{folder}{os.pathsep}{ROOT}"
        results = self.run(folder, "wait", count=10**6)
        next(results)
        odd = self._cluster.add_node(PYTHONPATH=path)
        with pytest.raises(ClusterError, match=r"differs from the others: dinac is 0\.0\.1, "):
            list(results)
        self._cluster.remove_node(odd, gracefully=True)

    def occupy(self, folder: Path) -> None:
        """Another run has all processors, so this one says that it waits."""
        (folder / "other").mkdir()
        other = Command(self._cluster.address, folder / "other", 10, "sleep")
        wait_until(lambda: len(list((folder / "other").glob("*.sleep"))) >= 2)
        told: list[str] = []

        def tell(line: str) -> None:
            told.append(line)
            other.kill()  # at the second remark, it is dead already

        list(self.run(folder, "", RunControl(warn=tell)))
        other.end()
        assert told[0] == "no node has 1 CPU free; the run waits until other work ends"

    def lose_head(self, folder: Path) -> None:
        """The head node dies, so the run ends with one line."""
        results = self.run(folder, "wait", count=10**6)
        next(results)
        self._cluster.kill_head()
        with pytest.raises(ClusterError, match=r"^the Ray cluster was lost "):
            list(results)

    def run(
        self, folder: Path, action: str, control: RunControl | None = None, count: int = ENTRIES
    ) -> Iterator[FileResult]:
        entries = (Entry(number, action) for number in range(count))
        job = hold_job(FileJob(folder=str(folder)))
        cluster = Cluster(address=self._cluster.address)
        return run_on_ray(job, entries, control or RunControl(), cluster)


def run_faults(times: int, seed: int, short: str, name: str) -> None:
    """Prints one line for each kind of fault. Raises AssertionError if something is wrong."""
    cluster = RayCluster(short)
    os.environ.update(cluster.variables)
    try:
        faults = Faults(cluster, random.Random(seed))
        kinds = (faults.kill_run, faults.kill_worker, faults.kill_node)
        for kind in kinds:
            began = monotonic()
            for number in range(times // len(kinds)):
                folder = make_folder(name, kind, number)
                kind(folder)
                assert_complete(folder, range(ENTRIES))
            report(kind, times // len(kinds), began)
        for check in (faults.add_odd_node, faults.occupy, faults.lose_head):
            began = monotonic()
            check(make_folder(name, check, 0))
            report(check, 1, began)
    finally:
        cluster.close()
    wait_until(lambda: not list_processes(short))


def make_folder(name: str, kind: Callable[[Path], None], number: int) -> Path:
    folder = Path(name, f"{kind.__name__}-{number}")
    folder.mkdir()
    return folder


def report(kind: Callable[[Path], None], times: int, began: float) -> None:
    print(f"{kind.__name__}: {times} times in {monotonic() - began:.0f} s", flush=True)
