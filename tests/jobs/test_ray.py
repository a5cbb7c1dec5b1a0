"""Runs on Ray: every entry is done once, whatever happens to a process, a node or the run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import dinac_cli
from dinac_cli.errors import ClusterError, UnwritableDiskError, UsageError
from dinac_cli.jobs.executor import ray
from dinac_cli.jobs.executor.cluster import Cluster
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.pool import hold_job
from dinac_cli.jobs.executor.ray import run_on_ray
from dinac_cli.jobs.executor.ray_task import Check, check_nothing
from dinac_cli.jobs.results import FileResult, Status

from .numbered import Entry
from .ray_cluster import ROOT, RayCluster
from .ray_jobs import SECRET, FileJob, know_weights, name_file

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None or sys.platform != "linux", reason="needs Ray, and /proc"
)
PATIENCE_SECONDS = 120.0
DONE = (Status.WRITTEN, Status.DONE)


@pytest.fixture(scope="module")
def short_folder() -> Iterator[str]:
    """Ray keeps sockets there, so the name is short."""
    folder = tempfile.mkdtemp(prefix="dr")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def shared_cluster(short_folder: str) -> Iterator[RayCluster]:
    cluster = RayCluster(short_folder)
    cluster.add_node()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(shared_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    """Two nodes of one CPU each."""
    for name, value in shared_cluster.variables.items():
        monkeypatch.setenv(name, value)
    return shared_cluster


def run(
    cluster: RayCluster,
    folder: Path,
    entries: Iterable[Entry],
    control: RunControl | None = None,
    check: Check = check_nothing,
    note: Callable[[Entry, FileResult], None] | None = None,
    **wanted: int | bool,
) -> list[FileResult]:
    address = Cluster(address=cluster.address, **wanted)  # type: ignore[arg-type]
    job = hold_job(FileJob(folder=str(folder)))
    more = {} if note is None else {"note": note}
    return list(run_on_ray(job, entries, control or RunControl(), address, check, **more))


def assert_complete(folder: Path, numbers: Iterable[int]) -> None:
    for number in numbers:
        assert name_file(str(folder), number).read_text() == f"{2 * number}\n"


@needs_ray
def test_processes_that_die_cost_one_entry_at_most(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "a key")
    monkeypatch.chdir(tmp_path)
    actions = {2: "kill once", 5: "kill", 7: "fail", 9: "describe"}
    entries = [Entry(number, actions.get(number, "")) for number in range(12)]
    told: list[str] = []
    noted: dict[int, FileResult] = {}
    said: list[str] = []
    control = RunControl(warn=told.append, say=said.append)

    def note(entry: Entry, result: FileResult) -> None:
        noted[entry.number] = result

    results = {r.name: r for r in run(cluster, tmp_path, entries, control, know_weights, note)}
    assert {f"entry {number}": result for number, result in noted.items()} == results
    assert len(results) == 12
    failed = {name: result.reason for name, result in results.items() if result.failed}
    assert failed == {
        "entry 5": "killed its worker process 4 times; try it alone, without --engine ray",
        "entry 7": "not an image",
    }
    assert results["entry 5"].file == "folder/entry 5"
    assert results["entry 5"].error == "InputError"
    assert results["entry 7"].details == ("a detail",)
    assert_complete(tmp_path, set(range(12)) - {5, 7, 9})
    assert noted[9].facts is not None
    assert {key: value for key, value in noted[9].facts.items() if key != "first_path"} == {
        "usage": False,
        "threads": "1",
        "has_torch": False,
        "has_secret": False,
        "folder": str(tmp_path),
        "gpus": "",
    }
    assert noted[9].facts["first_path"] != str(tmp_path)
    assert told == ["the device is slow"]
    assert said == ["Ray: 2 nodes of 2 with room for 2 processes of 1 CPU each; the run uses 2"]
    assert control.clock.seconds["model"] > 0


@needs_ray
def test_an_error_of_the_whole_run_ends_it(cluster: RayCluster, tmp_path: Path) -> None:
    endless = (Entry(number, "fill" if number == 3 else "pause") for number in range(10**9))
    with pytest.raises(UnwritableDiskError, match="the disk is full"):
        run(cluster, tmp_path, endless)


@needs_ray
def test_nodes_that_differ_are_named_before_the_first_entry(
    cluster: RayCluster, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/sitecustomize.py").write_text(
        "import dinac_cli\ndinac_cli.__version__ = '0.0.1'\n"
    )
    (tmp_path / "none").mkdir()
    (tmp_path / "none/sitecustomize.py").write_text("import sys\nsys.modules['dinac_cli'] = None\n")
    paths = [f"{tmp_path / kind}{os.pathsep}{ROOT}" for kind in ("old", "none")]
    added = [
        cluster.add_node(PYTHONPATH=paths[0], DINAC_TEST_WEIGHTS="89ab"),
        cluster.add_node(PYTHONPATH=paths[1]),
        cluster.add_node(DINAC_TEST_WEIGHTS="none"),
    ]
    with pytest.raises(ClusterError) as caught:
        run(cluster, tmp_path, [Entry(0)], check=know_weights)
    for number in added:
        cluster.remove_node(number, gracefully=True)
    message = str(caught.value)
    assert message.startswith("3 nodes cannot take part: ")
    assert message.endswith("; correct this there, or leave such nodes out of the cluster")
    differences = f"dinac is 0.0.1, not {dinac_cli.__version__}, weights is 89ab, not 0123"
    assert f" ({differences})" in message
    assert f"(cannot run dinac {dinac_cli.__version__}: ModuleNotFoundError:" in message
    assert " (cannot see s3://photos)" in message
    assert not name_file(str(tmp_path), 0).exists()


@needs_ray
def test_processes_share_a_gpu_and_live_on(cluster: RayCluster, tmp_path: Path) -> None:
    number = cluster.add_node(cpus=2, gpus=1)  # Ray only counts GPUs
    entries = [Entry(number, "describe" if number == 8 else "") for number in range(9)]
    results = run(cluster, tmp_path, entries, processes_per_gpu=2, cpus_per_process=1)
    cluster.remove_node(number, gracefully=True)
    [facts] = [result.facts for result in results if result.facts is not None]
    assert facts["gpus"] == "0"
    processes = {result.bytes_in for result in results if result.status is Status.WRITTEN}
    assert 1 <= len(processes) <= 2


class Command:
    """A run in a process of its own, started as by a shell: a group that gets Ctrl-C."""

    def __init__(self, address: str, folder: Path, count: int, action: str) -> None:
        arguments = [address, str(folder), str(count), action]
        self._errors = folder / "stderr"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.jobs.ray_run", *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def read_line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def press_ctrl_c(self) -> None:
        os.killpg(self._process.pid, signal.SIGINT)

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> tuple[int, list[str], str]:
        """Waits for the end; returns the exit code, the lines and the errors."""
        assert self._process.stdout is not None
        with self._process.stdout:
            lines = self._process.stdout.read().splitlines()
        return self._process.wait(PATIENCE_SECONDS), lines, self._errors.read_text()


def list_processes(folder: str) -> list[str]:
    """The command lines of the processes of a cluster whose files are in `folder`."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if folder in line:
            lines.append(line)
    return lines


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@needs_ray
def test_a_killed_run_is_finished_by_the_next_one(cluster: RayCluster, tmp_path: Path) -> None:
    command = Command(cluster.address, tmp_path, 30, "wait")
    for _ in range(4):
        assert command.read_line().startswith("entry ")
    command.kill()
    code, *_ = command.end()
    assert code == -signal.SIGKILL
    results = run(cluster, tmp_path, [Entry(number) for number in range(30)])
    counts = [sum(result.status is status for result in results) for status in DONE]
    assert sum(counts) == 30
    assert min(counts) >= 3
    assert_complete(tmp_path, range(30))


@needs_ray
def test_a_run_survives_a_node_that_vanishes(cluster: RayCluster, tmp_path: Path) -> None:
    """The last test of the cluster: Ray takes some time to notice that a node is gone."""
    number = cluster.add_node()
    has_removed = False

    def note(entry: Entry, result: FileResult) -> None:
        nonlocal has_removed
        if entry.number >= 4 and not has_removed:
            has_removed = True
            cluster.remove_node(number)

    entries = [Entry(number, "wait") for number in range(20)]
    results = run(cluster, tmp_path, entries, note=note)
    assert len(results) == 20
    assert {result.status for result in results} <= set(DONE)
    assert_complete(tmp_path, range(20))


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The folder of the cluster that a run starts."""
    folder = tempfile.mkdtemp(prefix="dr")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@needs_ray
def test_ctrl_c_finishes_the_work_in_flight(own_folder: str, tmp_path: Path) -> None:
    command = Command("local", tmp_path, 50, "doze")
    first = command.read_line()
    assert first.startswith('entry 0 read {"usage": false, "threads": "1", "has_torch": false, ')
    assert list_processes(own_folder)
    wait_until(lambda: any(tmp_path.glob("*.doze")))
    command.press_ctrl_c()
    code, lines, errors = command.end()
    assert code == 130
    assert errors == "dinac: finishing the work in flight; press again to stop at once\n"
    written = {line.split()[1] for line in lines}
    assert 1 <= len(written) < 50
    started = {path.stem for path in tmp_path.glob("*.doze")}
    assert started == written  # what has started was finished, and what was waiting never started
    assert_complete(tmp_path, map(int, written))
    assert list_processes(own_folder) == []
    assert os.listdir(own_folder) == []


@needs_ray
def test_ctrl_c_twice_leaves_no_process(own_folder: str, tmp_path: Path) -> None:
    command = Command("local", tmp_path, 50, "sleep")
    wait_until(lambda: any(path.stat().st_size for path in tmp_path.glob("*.sleep")))
    workers = [path.read_text() for path in tmp_path.glob("*.sleep")]
    command.press_ctrl_c()
    wait_until(lambda: (tmp_path / "stderr").stat().st_size > 0)
    command.press_ctrl_c()
    code, lines, _ = command.end()
    assert code == 130
    assert not any("written" in line for line in lines)
    wait_until(lambda: not list_processes(own_folder))
    wait_until(lambda: not any(Path("/proc", pid).exists() for pid in workers))


def test_without_an_address_both_ways_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match=r"--address HOST:6379 or RAY_ADDRESS .* --address local"):
        next(run_on_ray(hold_job(FileJob()), [Entry(0)], RunControl(), Cluster()))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError) as caught:
        next(run_on_ray(hold_job(FileJob()), [], RunControl(), Cluster(address="local")))
    assert str(caught.value) == "--engine ray needs Ray; pip install 'dinac-cli[cluster]'"


def test_the_end_of_the_driver_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray may end its process, as if nothing else ran there."""
    monkeypatch.setattr(ray, "_DRIVER", "json.tool")  # which finds no file
    monkeypatch.setattr(ray, "find_spec", lambda name: os.__spec__)
    results = run_on_ray(hold_job(FileJob()), [Entry(0)], RunControl(), Cluster(address="local"))
    with pytest.raises(
        ClusterError, match=r"^the Ray cluster was lost \(exit code \d\); "
    ) as caught:
        next(results)
    assert any("No such file" in detail for detail in caught.value.details)


@needs_ray
def test_an_address_without_a_cluster_is_named() -> None:
    results = run_on_ray(
        hold_job(FileJob()), [Entry(0)], RunControl(), Cluster(address="127.0.0.1:1")
    )
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at 127\.0\.0\.1:1; ") as caught:
        next(results)
    [detail] = caught.value.details
    assert detail.startswith("ConnectionRefusedError: ")
