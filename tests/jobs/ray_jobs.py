"""Jobs that write files, for the tasks of a Ray cluster, which import this module."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dinac_cli.errors import InputError
from dinac_cli.jobs.executor.job import Made
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.atomic import write_atomically

from .numbered import Entry, NumberedWork
from .worker_jobs import RemarkingJob

SECRET = "DINAC_TEST_SECRET"


@dataclass
class FileJob(RemarkingJob):
    """Writes the double of each number to a file of its own in `folder`; skips finished files."""

    folder: str = ""

    def read(self, entry: Entry, hold: Callable[[int], None]) -> NumberedWork | FileResult:
        if name_file(self.folder, entry.number).exists():
            return FileResult(entry.label, Status.DONE, name=entry.name)
        if entry.action == "describe":
            return FileResult(entry.label, Status.READ, facts=describe_process())
        return super().read(entry, hold)

    def finish(self, work: NumberedWork, computed: int) -> Made:
        path = str(name_file(self.folder, work.number))
        write_atomically(path, f"{computed}\n".encode(), replace=True, is_ours=lambda _: True)
        made = super().finish(work, computed)
        return Made(made.result)

    def _act(self, entry: Entry) -> None:
        mark = Path(self.folder, f"{entry.number}.{entry.action}")
        match entry.action:
            case "kill once":
                if not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            case "doze":
                mark.write_text(f"{os.getpid()}")
                time.sleep(0.6)
            case "sleep":
                mark.write_text(f"{os.getpid()}")
                time.sleep(600)
            case _:
                super()._act(entry)


def name_file(folder: str, number: int) -> Path:
    return Path(folder, f"{number}.txt")


def describe_process() -> dict[str, object]:
    """What a task sees of its process."""
    from ray._common.usage import usage_lib

    return {
        "usage": usage_lib.usage_stats_enabled(),
        "threads": os.environ["OMP_NUM_THREADS"],
        "has_torch": "torch" in sys.modules,
        "has_secret": SECRET in os.environ,
        "folder": os.getcwd(),
        "first_path": sys.path[0],
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }


def know_weights() -> dict[str, str]:
    """A check that a node with weights of its own, or without weights, does not pass."""
    weights = os.environ.get("DINAC_TEST_WEIGHTS", "0123")
    if weights == "none":
        raise InputError("cannot see s3://photos")
    return {"weights": weights}
