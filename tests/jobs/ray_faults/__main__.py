"""`python -m tests.jobs.ray_faults`: runs on Ray, with faults at random moments.

Each run must end with all files, after the run itself was killed and started again, or a worker
process or a node was killed. Then three slow checks: a node that differs and joins during a run, a
cluster that other work occupies, and a cluster whose head dies.
"""

from __future__ import annotations

import argparse
import tempfile

from .faults import run_faults


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line. Exits if an option is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.jobs.ray_faults", description=__doc__)
    parser.add_argument("--times", type=int, default=60, help="runs with faults")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main() -> None:
    """Runs the faults in temporary folders; raises AssertionError if something is wrong."""
    options = parse_options()
    with (
        tempfile.TemporaryDirectory(prefix="dr", ignore_cleanup_errors=True) as short,
        tempfile.TemporaryDirectory(prefix="dinac-faults-") as name,
    ):
        run_faults(options.times, options.seed, short, name)


if __name__ == "__main__":
    main()
