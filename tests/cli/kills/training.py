"""`dinac train` that saves its state often, so that kills of a short training hit all moments."""

from __future__ import annotations

import functools
import sys

from dinac_cli.codec.machine import configure_threads

SAVE_SECONDS = 0.2


def main() -> None:
    """Runs the command line."""
    configure_threads()  # before torch is imported, as the command does
    from dinac_cli.cli import run
    from dinac_cli.training import session as training

    often = functools.partial(training.TrainRequest, save_seconds=SAVE_SECONDS)
    training.TrainRequest = often  # type: ignore[misc, assignment]
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
