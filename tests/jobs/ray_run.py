"""A command that runs `FileJob` on Ray, for tests that send signals to it.

python -m tests.jobs.ray_run ADDRESS FOLDER COUNT ACTION
"""

from __future__ import annotations

import json
import sys

from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.signals import stop_on_signals
from dinac_cli.errors import DinacError
from dinac_cli.jobs.executor.cluster import Cluster
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.pool import hold_job
from dinac_cli.jobs.executor.ray import run_on_ray

from .numbered import Entry
from .ray_jobs import FileJob


def main(address: str, folder: str, count: str, action: str) -> int:
    """Prints the names of finished entries; returns the exit code of a command."""
    entries = (Entry(number, action if number else "describe") for number in range(int(count)))
    cluster = Cluster(address=address, cpus_per_process=1)
    with stop_on_signals(Console()) as stop:
        try:
            job = hold_job(FileJob(folder=folder))
            for result in run_on_ray(job, entries, RunControl(stop=stop), cluster):
                print(result.name, result.status.value, json.dumps(result.facts), flush=True)
        except DinacError as exc:
            print(f"dinac: {exc}", file=sys.stderr)
            return int(exc.exit_code)
    return stop.exit_code or 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
