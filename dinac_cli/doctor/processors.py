"""Checks the number of threads that compute: processors, affinity and control groups."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dinac_cli.codec.machine import count_processors
from dinac_cli.doctor.finding import Facts, Finding, note, ok

_CGROUPS = Path("/sys/fs/cgroup")


def measure_threads() -> Facts:
    """Counts the processors of the machine, those that this process may use, and the threads."""
    setting = os.environ.get("OMP_NUM_THREADS")
    return {
        "processors": os.cpu_count(),
        "affinity": len(os.sched_getaffinity(0)) if sys.platform == "linux" else None,
        "quota": read_quota(_CGROUPS),
        "OMP_NUM_THREADS": setting,
        "threads": count_processors() if setting is None else _parse_count(setting),
    }


def read_quota(groups: Path) -> float | None:
    """Returns how many processors the control group may use at a time, or None without a limit."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = [word for name in names for word in (groups / name).read_text("ascii").split()]
            quota, period = map(float, words)
        except (OSError, ValueError):  # without a limit, the quota is "max" or -1
            continue
        return quota / period if quota > 0 and period > 0 else None
    return None


def judge_threads(facts: Facts) -> Finding:
    """Compares the number of threads with the processors that this process may use."""
    setting, threads, total = facts["OMP_NUM_THREADS"], facts["threads"], facts["processors"]
    usable = _count_usable(facts)
    if threads is None:
        return note(
            "threads",
            f"OMP_NUM_THREADS is {setting!r}, which is not a number of threads",
            f"export OMP_NUM_THREADS={usable}",
            facts,
        )
    origin = "one per processor" if setting is None else "as OMP_NUM_THREADS says"
    may = f"this process may use {usable} of {total} processors" if usable != total else ""
    if threads > usable:
        return note(
            "threads",
            f"{threads} threads compute, but {may or f'there are {usable} processors'}; "
            "threads that wait for a processor slow a run down",
            f"export OMP_NUM_THREADS={usable}, or use --threads {usable}",
            facts,
        )
    if threads < usable:
        return note(
            "threads",
            f"{threads} of {usable} usable processors compute, {origin}",
            f"unset OMP_NUM_THREADS, or use --threads {usable}",
            facts,
        )
    count = "1 thread computes" if threads == 1 else f"{threads} threads compute"
    return ok("threads", "; ".join(filter(None, [f"{count}, {origin}", may])), facts)


def _count_usable(facts: Facts) -> int:
    limits: list[float | None] = [facts["processors"], facts["affinity"], facts["quota"]]
    known = [round(limit) for limit in limits if limit is not None]
    return max(1, min(known, default=1))


def _parse_count(text: str) -> int | None:
    """Returns a positive number, or None. A list such as "4,2" is for nested regions."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isascii() and first.isdigit() and int(first) > 0 else None
