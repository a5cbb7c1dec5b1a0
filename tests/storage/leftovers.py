"""Temporary files as a killed run leaves them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.storage import atomic
from dinac_cli.storage.atomic import TEMPORARY_PREFIX, write_atomically

DEAD_PID = 2**22 + 1  # above the largest pid of Linux


def split_temporary_name(folder: Path) -> list[str]:
    """Returns (host, boot, pid namespace, pid, random) from a temporary name of this process."""
    temporaries: list[str] = []

    def publish(temporary: str, target: str, **options: Any) -> None:
        temporaries.append(os.path.basename(temporary))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "_publish", publish)
        write_atomically(str(folder / "probe"), b"", replace=False, is_ours=lambda path: False)
    (name,) = temporaries
    return name.removeprefix(TEMPORARY_PREFIX).split("-")


def leave_temporary(
    folder: Path,
    pid: int = DEAD_PID,
    *,
    host: str | None = None,
    boot: str | None = None,
    namespace: str | None = None,
    age_seconds: float = 0.0,
) -> Path:
    """Creates a temporary file like one of process `pid`, by default of this host."""
    own = split_temporary_name(folder)
    parts = (host or own[0], boot or own[1], namespace or own[2], str(pid), "0badcafe")
    path = folder / (TEMPORARY_PREFIX + "-".join(parts))
    path.write_bytes(b"rec")
    then = time.time() - age_seconds
    os.utime(path, (then, then))
    return path
