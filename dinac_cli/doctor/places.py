"""Checks the folders that dinac writes to: space, permissions, and the speed of the disk."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dinac_cli.doctor.finding import Facts, Finding, fail, note, ok

TRIAL_BYTES = 16 * 2**20
_CHUNK_BYTES = 2**20

LEAST_BYTES_PER_SECOND = 20e6
LEAST_FREE_BYTES = 10**9


@dataclass(frozen=True)
class Place:
    """A folder, and whether a file can be written there.

    If the folder does not exist, `exists` is false and the other values are those of the nearest
    folder above it. `problem` is the error of the system, or None. `free_bytes` may be unknown.
    """

    folder: Path
    exists: bool
    problem: OSError | None
    free_bytes: int | None

    @property
    def facts(self) -> dict[str, Any]:
        """The same for the JSON of a report."""
        return {
            "folder": str(self.folder),
            "exists": self.exists,
            "writable": self.problem is None,
            "problem": None if self.problem is None else _describe(self.problem),
            "free_bytes": self.free_bytes,
        }

    def describe(self) -> str:
        """Returns e.g. `/tmp: writable, 81.2 GB free`."""
        state = "writable" if self.exists else "created when it is needed"
        state = state if self.problem is None else f"not writable ({_describe(self.problem)})"
        free = "" if self.free_bytes is None else f", {self.free_bytes / 1e9:.1f} GB free"
        return f"{self.folder}: {state}{free}"


def open_trial(folder: Path) -> IO[bytes]:
    """Opens a temporary file that has no name, or that the system removes when it is closed.

    So nothing is left, however the process ends. Raises OSError.
    """
    return tempfile.TemporaryFile(dir=folder, prefix=".dinac-tmp-doctor-")


def inspect_place(folder: Path) -> Place:
    """Tries to write a small file. Creates no folder."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    problem: OSError | None = None
    try:
        with open_trial(nearest) as file:
            file.write(bytes(4096))
    except OSError as exc:
        problem = exc
    try:
        free: int | None = shutil.disk_usage(nearest).free
    except OSError:
        free = None
    return Place(folder, folder.is_dir(), problem, free)


def find_models() -> Facts:
    """Returns the cache folders of dinac and of the Hub, and whether `d2` is downloaded.

    Runs in the probe, because it imports the Hub's client. Stays offline.
    """
    from huggingface_hub import constants

    from dinac_cli.models.aliases import HUB_ALIASES
    from dinac_cli.models.identity import cache_folder
    from dinac_cli.models.registry import DOWNLOAD_BYTES, find_cached

    return {
        "cache": os.path.abspath(cache_folder()),
        "hub": os.path.abspath(constants.HF_HUB_CACHE),
        "d2": find_cached(HUB_ALIASES["d2"]) is not None,
        "d2_bytes": DOWNLOAD_BYTES["d2"],
    }


def check_cache(place: Place) -> Finding:
    """Says where dinac remembers the identities of models."""
    if place.problem is None:
        return ok("cache", f"{place.describe()}; holds the hashes of models", place.facts)
    return note(
        "cache",
        f"{place.describe()}; each command hashes the weights of its model again",
        "set DINAC_CACHE to a folder that you can write to",
        place.facts,
    )


def check_hub(place: Place, *, has_d2: bool, is_default: bool, download_bytes: int) -> Finding:
    """Says where models of the Hub are. `is_default` is true if `d2` is the default here."""
    facts = place.facts | {"d2": has_d2}
    if has_d2:
        return ok("hub cache", f"{place.describe()}; holds models of the Hub, such as d2", facts)
    size = f"{download_bytes / 1e6:.0f} MB"
    if place.problem is not None:
        remedy = "set HF_HOME to a folder that you can write to, or use --model nano"
        text = f"{place.describe()}; d2 ({size}) cannot be downloaded"
        return note("hub cache", text, remedy, facts)
    if place.free_bytes is not None and place.free_bytes < 2 * download_bytes:
        remedy = "free some space, or set HF_HOME to another disk"
        return note("hub cache", f"{place.describe()}; d2 needs {size}", remedy, facts)
    if is_default:
        text = f"{place.describe()}; d2, the default on a GPU, is not downloaded yet ({size})"
        return note("hub cache", text, "dinac models pull d2", facts)
    text = f"{place.describe()}; d2 is not downloaded; nano, the default here, is embedded"
    return ok("hub cache", text, facts)


def check_temporary() -> Finding:
    """Says where temporary files go. Only `bench`, `--compile` and Triton write some."""
    try:
        place = inspect_place(Path(tempfile.gettempdir()))
    except FileNotFoundError as exc:  # no folder is writable
        problem, facts = exc.strerror or str(exc), {"folder": None}
        text = f"no temporary folder is writable ({problem}); bench and --compile need one"
        return note("temporary", text, "set TMPDIR to a folder that you can write to", facts)
    is_full = place.free_bytes is not None and place.free_bytes < LEAST_FREE_BYTES
    if place.problem is not None or is_full:
        remedy = "free some space, or set TMPDIR to another folder"
        text = f"{place.describe()}; bench and --compile write here"
        return note("temporary", text, remedy, place.facts)
    return ok("temporary", place.describe(), place.facts)


def measure_disk(folder: Path) -> Facts:
    """Writes, flushes and reads a temporary file of 16 MiB. Raises OSError.

    The file is read from the disk if the system lets a program drop it from the page cache.
    """
    data = os.urandom(_CHUNK_BYTES)  # some disks compress zeros
    with open_trial(folder) as file:
        begun = time.perf_counter()
        for _ in range(TRIAL_BYTES // _CHUNK_BYTES):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter()
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        begun_reading = time.perf_counter()
        while file.read(_CHUNK_BYTES):
            pass
        read = time.perf_counter()
    return {
        "folder": str(folder),
        "write_bytes_per_second": TRIAL_BYTES / max(written - begun, 1e-9),
        "read_bytes_per_second": TRIAL_BYTES / max(read - begun_reading, 1e-9),
        "free_bytes": shutil.disk_usage(folder).free,
    }


def check_disk(folder: Path, *, is_named: bool) -> Finding:
    """Measures the disk of a folder. `is_named` is true if the user named this folder.

    A full disk is a fault. So is a folder that the user named and that is not writable.
    """
    try:
        return judge_disk(measure_disk(folder))
    except OSError as exc:
        facts = {"folder": str(folder), "problem": _describe(exc)}
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"{folder}: {_describe(exc)}; no output can be written here"
            return fail("disk", text, "free some space", facts)
        text = f"{folder}: not writable ({_describe(exc)})"
        report = fail if is_named else note
        return report("disk", text, "name another folder as OUT", facts)


def judge_disk(facts: Facts) -> Finding:
    """Compares the speed and the free space with what a run needs."""
    write, read, free = (
        facts[name] for name in ("write_bytes_per_second", "read_bytes_per_second", "free_bytes")
    )
    speed = f"writes {write / 1e6:.0f} MB/s, reads {read / 1e6:.0f} MB/s"
    text = f"{facts['folder']}: {speed}, {free / 1e9:.1f} GB free"
    if free < LEAST_FREE_BYTES:
        return note("disk", f"{text}: nearly full", "free some space", facts)
    if min(write, read) < LEAST_BYTES_PER_SECOND:
        return note("disk", f"{text}: slow", "name a folder on another disk as OUT", facts)
    return ok("disk", text, facts)


def _describe(exc: OSError) -> str:
    return exc.strerror or str(exc)
