"""Times whole commands, from start to exit, over several numbers of files."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinac_cli.errors import DinacError
from dinac_cli.jobs.executor.phase import Phase, Watch, ignore_phase

REPEATS = 3


@dataclass(frozen=True)
class CommandFigures:
    """The time and memory of one run of a command over `files` files.

    `seconds` is the time from start to exit. `first_file_seconds` is the time from start to the
    first finished file. `peak_memory_mib` is the largest resident memory, or None if unknown.
    """

    command: str
    files: int
    seconds: float
    first_file_seconds: float
    peak_memory_mib: float | None


@dataclass(frozen=True)
class CommandLine:
    """A line fitted to the times of a command: `startup_seconds` plus `ms_per_file` per file."""

    command: str
    startup_seconds: float
    ms_per_file: float


def measure_commands(
    images: Sequence[Path],
    counts: Sequence[int],
    options: Sequence[str],
    watch: Watch = ignore_phase,
) -> Iterator[CommandFigures]:
    """Times encode and decode for each number of files. Measures everything `REPEATS` times.

    If there are too few images, uses images repeatedly, under different names. Passes
    `options` to both commands. Raises DinacError if a command fails.
    """
    with tempfile.TemporaryDirectory(prefix="dinac-bench-") as name:
        folder = Path(name)
        for count in counts:
            _gather(images, count, folder / f"images-{count}")
        latents, decoded = folder / "latents", folder / "decoded"
        total, done = 2 * REPEATS * len(counts), itertools.count()
        for _, count in itertools.product(range(REPEATS), counts):
            places = (("encode", folder / f"images-{count}", latents), ("decode", latents, decoded))
            for command, source, out in places:
                detail = f"dinac {command}, {count} files"
                watch(Phase("timing the commands", next(done), total, detail))
                yield _run(command, source, out, count, options)
            shutil.rmtree(latents)
            shutil.rmtree(decoded)


def measure_peak(command: str, source: Path, out: Path, options: Sequence[str]) -> float | None:
    """Returns the peak memory in MiB of a process that runs "encode" or "decode" on one file.

    Returns None if it is unknown. Raises DinacError if the command fails.
    """
    return _run(command, source, out, 1, options).peak_memory_mib


def choose_fastest(figures: Sequence[CommandFigures]) -> list[CommandFigures]:
    """Returns the fastest run for each pair of command and number of files."""
    fastest: dict[tuple[int, str], CommandFigures] = {}
    for run in figures:
        key = (run.files, run.command)
        fastest[key] = min(fastest.get(key, run), run, key=lambda run: run.seconds)
    return list(fastest.values())


def fit_line(command: str, figures: Sequence[CommandFigures]) -> CommandLine:
    """Fits a line to the fastest runs by least squares. Needs two or more file counts."""
    runs = [run for run in choose_fastest(figures) if run.command == command]
    line = statistics.linear_regression([run.files for run in runs], [run.seconds for run in runs])
    return CommandLine(command, line.intercept, 1000 * line.slope)


def _gather(images: Sequence[Path], count: int, folder: Path) -> None:
    """Puts `count` files into `folder`. Repeats `images` if there are too few."""
    folder.mkdir()
    for number, image in enumerate(itertools.islice(itertools.cycle(images), count)):
        target = folder / f"{number:06d}{image.suffix}"
        try:
            os.link(image, target)
        except OSError:  # `image` is on another file system, or the file system has no links
            shutil.copyfile(image, target)


def _run(
    command: str, source: Path, out: Path, files: int, options: Sequence[str]
) -> CommandFigures:
    line = [sys.executable, "-m", "dinac_cli", command, str(source), str(out), *options, "--json"]
    first, summary, peak = None, "", None
    start = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as stderr,
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        assert process.stdout is not None
        for text in process.stdout:
            first, summary = first or time.perf_counter() - start, text
            peak = _read_peak(process.pid) or peak
        waited = _wait(process)
        seconds = time.perf_counter() - start
        if process.returncode or first is None or json.loads(summary)["written"] != files:
            stderr.seek(0)
            message = " ".join(stderr.read().split())
            raise DinacError(f"the timed {command} failed: {message}")
    return CommandFigures(command, files, seconds, first, peak or waited)


def _read_peak(pid: int) -> float | None:
    """Returns the largest resident memory of a process so far, in MiB.

    Returns None if this is not Linux. The value of `_wait` is less exact: it includes the memory of
    this process at the fork.
    """
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("utf-8"))
    except OSError:
        return None
    return int(found[1]) / 1024 if found else None


def _wait(process: subprocess.Popen[str]) -> float | None:
    """Waits for the process. Returns its largest resident memory in MiB, or None if unknown."""
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * unit / 2**20
