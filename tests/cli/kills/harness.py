"""Kills a command at random moments, and checks its files after each kill."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

from dinac_cli.storage.atomic import TEMPORARY_PREFIX
from dinac_cli.storage.source_memory import MEMORY_NAME

from ..processes import make_environment
from .commands import Command

DEADLINE_SECONDS = 600.0
KILLS_OF_ONE_OUT = 6

# Share of the kills: anywhere in a run, between its first file and its end, during a write.
MOMENTS = {"any": 0.3, "working": 0.35, "writing": 0.35}

# With worker processes, also one worker: between the first file and the end, during a write. The
# run must finish.
WORKER, WRITING_WORKER = "worker", "writing worker"
WORKER_SHARE = 0.5


@dataclass
class Figures:
    """Counts of the kills of one command and of their traces."""

    kills: Counter[str] = field(default_factory=Counter)
    too_late: int = 0
    finished: int = 0
    files_checked: int = 0
    temporaries: int = 0
    partly_done: int = 0
    slowest_end_seconds: float = 0.0

    def describe(self, name: str) -> str:
        """Describes them in one line."""
        moments = ", ".join(
            f"{self.kills[moment]} {moment}" for moment in (*MOMENTS, WORKER, WRITING_WORKER)
        )
        return (
            f"{name}: {self.kills.total()} kills ({moments}), {self.too_late} came too late; "
            f"{self.partly_done} left OUT partly done, {self.temporaries} left a temporary; "
            f"a killed run ended after at most {self.slowest_end_seconds:.1f} s; "
            f"{self.files_checked} files checked; "
            f"{self.finished} runs finished with the bytes of an uninterrupted one"
        )


class Harness:
    """Kills runs of one command and compares them with an uninterrupted one.

    That one is in `folder / "reference"`. Raises AssertionError for each finding.
    """

    def __init__(self, command: Command, folder: Path, seed: int = 0) -> None:
        self._command = command
        self._folder = folder
        self._random = random.Random(f"{command.name} {seed}")
        self._whole: set[tuple[str, str]] = set()
        self._sources = hash_files(command.source)
        self.figures = Figures()
        reference = folder / "reference"
        began = monotonic()
        process = self._start(reference)
        first = began
        while process.poll() is None:
            if first == began and list_files(reference):
                first = monotonic()
            sleep(0.005)
        self._duration = monotonic() - began
        self._start_up = first - began
        _require_success(process)
        self._reference = hash_files(reference)
        self._folders = {os.path.dirname(name) for name in self._reference}
        assert self._reference, "the uninterrupted run wrote nothing"

    def kill_and_finish(self, times: int) -> None:
        """Kills runs into one OUT up to `times` times, lets the next finish, and compares."""
        out = self._folder / f"out{self.figures.finished:03}"
        for _ in range(times):
            if not self._kill_once(out):
                break
        else:
            _require_success(self._start(out))
        self.figures.finished += 1
        made = hash_files(out)
        self._check(out)
        assert made.keys() == self._reference.keys(), f"{out} holds {sorted(made)}"
        for name, digest in made.items():
            if name not in self._command.undetermined:
                assert digest == self._reference[name], f"{out / name} has different bytes"

    def go(self, kills: int) -> None:
        """Kills `kills` runs, a few of each OUT."""
        while (left := kills - self.figures.kills.total()) > 0:
            self.kill_and_finish(min(left, self._random.randint(1, KILLS_OF_ONE_OUT)))

    def _kill_once(self, out: Path) -> bool:
        """Kills one run; returns False if it finished before its moment came."""
        if self._command.has_workers and self._random.random() < WORKER_SHARE:
            return self._kill_worker(out)
        moment = self._random.choices(list(MOMENTS), list(MOMENTS.values()))[0]
        known = set(list_temporaries(out))
        process = self._start(out)
        if moment == "writing":
            self._await_write(process, out, known)
        else:
            earliest = self._start_up if moment == "working" else 0.0
            sleep(self._random.uniform(earliest, self._duration))
        if process.poll() is not None:
            self.figures.too_late += 1
            _require_success(process)
            return False
        process.kill()
        began = monotonic()
        process.communicate(timeout=DEADLINE_SECONDS)  # workers hold standard error, too
        seconds = monotonic() - began
        self.figures.slowest_end_seconds = max(self.figures.slowest_end_seconds, seconds)
        self.figures.kills[moment] += 1
        self._check(out)
        self.figures.temporaries += bool(set(list_temporaries(out)) - known)
        count = len(list_files(out)) - len(list_temporaries(out))
        self.figures.partly_done += 0 < count < len(self._reference)
        return True

    def _kill_worker(self, out: Path) -> bool:
        """Kills one worker process; the run must finish. Returns False if it finished before."""
        moment = self._random.choice((WORKER, WRITING_WORKER))
        known = set(list_temporaries(out))
        process = self._start(out)
        if moment == WRITING_WORKER:
            writers = {find_writer(name) for name in self._await_write(process, out, known)}
            # The plan and the index of shards are written by the run itself.
            workers = list(writers - {process.pid}) or list_children(process.pid)
        else:
            sleep(self._random.uniform(self._start_up, self._duration))
            workers = list_children(process.pid)
        if not workers:
            self.figures.too_late += 1
            _require_success(process)
            return False
        with suppress(ProcessLookupError):
            os.kill(self._random.choice(workers), signal.SIGKILL)
        _require_success(process)
        self.figures.kills[moment] += 1
        self._check(out)
        made = set(list_files(out)) - set(list_temporaries(out))
        assert made == self._reference.keys(), f"{out} holds {sorted(made)}"
        self.figures.temporaries += bool(set(list_temporaries(out)) - known)
        return True

    def _await_write(
        self, process: subprocess.Popen[bytes], out: Path, known: set[str]
    ) -> set[str]:
        """Waits for the first, second or third new temporary. Returns it, unless the run ends."""
        left = self._random.randint(1, 3)
        seen = known
        sleep(self._start_up / 2)  # it writes nothing yet; the look-out below takes a processor
        while process.poll() is None:
            new = set(self._spy(out)) - seen
            left -= bool(new)
            if not left:
                return new
            seen = seen | new
        return set()

    def _spy(self, out: Path) -> list[str]:
        """Lists the temporaries of an OUT, fast enough to see one during its write."""
        found = []
        for folder in self._folders:
            with suppress(FileNotFoundError):
                names = os.listdir(out / folder)
                found += [
                    os.path.join(folder, name)
                    for name in names
                    if name.startswith(TEMPORARY_PREFIX)
                ]
        return found

    def _check(self, out: Path) -> None:
        assert hash_files(self._command.source) == self._sources, "a source was changed"
        for name, digest in hash_files(out).items():
            if os.path.basename(name).startswith(TEMPORARY_PREFIX):
                continue
            assert not os.path.basename(name).startswith("."), f"{out / name} is hidden"
            self.figures.files_checked += 1
            if name not in self._command.undetermined:
                assert digest == self._reference.get(name), f"{out / name} has different bytes"
            if (name, digest) not in self._whole:
                self._command.check(out / name)
                self._whole.add((name, digest))

    def _start(self, out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command.build(out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=make_environment(),
        )


def list_files(folder: Path) -> list[str]:
    """Lists the relative names of all files below a folder, hidden ones too.

    Leaves out the memory of `encode`, a cache whose bytes depend on the machine.
    """
    return [
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
        if name != MEMORY_NAME
    ]


def list_temporaries(folder: Path) -> list[str]:
    """Lists the relative names of the temporary files below a folder."""
    return [
        name for name in list_files(folder) if os.path.basename(name).startswith(TEMPORARY_PREFIX)
    ]


def hash_files(folder: Path) -> dict[str, str]:
    """Returns relative name → hash of the content of all files below a folder."""
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in list_files(folder)
    }


def find_writer(temporary: str) -> int:
    """Returns the process that writes a temporary file."""
    return int(temporary.rsplit("-", 2)[1])


def list_children(process: int) -> list[int]:
    """Lists the child processes of a process on Linux; elsewhere finds none."""
    children: list[int] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):  # one file a thread
        with suppress(OSError):
            children += map(int, path.read_text(encoding="ascii").split())
    return children


def _require_success(process: subprocess.Popen[bytes]) -> None:
    _, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, f"exit code {process.returncode}: {err.decode()}"
