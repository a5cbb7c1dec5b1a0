"""`python -m tests.fuzzing --records 100000 --tars 20000`: a long fuzzing run.

The exit code is 1 if there are findings; each finding is left as a file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzzing.run import Figures, run_target


def main() -> int:
    """Runs the fuzzing that the command line requests; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--indexes", type=int, default=20_000)
    parser.add_argument("--facts", type=int, default=20_000)
    parser.add_argument("--tars", type=int, default=20_000)
    parser.add_argument("--parquet", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    found = 0
    for kind in ("records", "images", "indexes", "facts", "tars", "parquet"):
        report = run_target(kind, getattr(options, kind), options.seed, options.findings)
        print("\n".join(Figures(kind, report).describe()), flush=True)
        found += len(report.findings)
    return 1 if found else 0


sys.exit(main())
