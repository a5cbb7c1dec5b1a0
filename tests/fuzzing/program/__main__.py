"""`python -m tests.fuzzing.program --mutants 10000`: mutants through the program, with workers.

Every mutant goes through one process and through two worker processes. The exit code is 1 if there
are findings; each finding is left as a file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import monotonic

from .run import run_task
from .tasks import TASKS


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line. Exits if an option is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing.program", description=__doc__)
    parser.add_argument("--mutants", type=int, default=10_000, help="of each task")
    parser.add_argument("--only", choices=[task.name for task in TASKS], help="one task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    return parser.parse_args(arguments)


def main() -> int:
    """Runs the tasks that the command line requests; returns the exit code."""
    options = parse_options()
    found = 0
    for task in TASKS:
        if options.only in (None, task.name):
            began = monotonic()
            report = run_task(task, options.mutants, options.seed, options.findings)
            print("\n".join(report.describe()), flush=True)
            print(f"  in {monotonic() - began:.0f} s", flush=True)
            found += len(report.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
