"""`python -m tests.cli.kills`: encode, decode and train, killed 200 times at random moments.

`--only encode-shards --only encode-shards-processes` kills the runs that write shards.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import monotonic

from ..conftest import save
from .commands import list_commands
from .harness import Harness


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line. Exits if an option is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.cli.kills", description=__doc__)
    parser.add_argument("--times", type=int, default=200, help="kills of all commands together")
    parser.add_argument("--images", type=Path, help="a folder of images (drawn, if not given)")
    parser.add_argument("--only", action="append", help="a command, such as encode-processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60, help="length of the training")
    return parser.parse_args(arguments)


def main() -> None:
    """Kills, compares and prints the figures; raises AssertionError if something is damaged."""
    options = parse_options()
    began = monotonic()
    with tempfile.TemporaryDirectory(prefix="dinac-kills-") as name:
        folder = Path(name)
        images = options.images or _draw_images(folder / "images")
        commands = list_commands(images, folder / "encode/reference", options.steps)
        chosen = options.only or [command.label for command in commands]
        left, commands_left = options.times, len(chosen)
        for command in commands:
            if command.label not in (*chosen, "encode"):  # its records are the input of decode
                continue
            harness = Harness(command, folder / command.label, options.seed)
            if command.label in chosen:
                share = left // commands_left
                harness.go(share)
                left, commands_left = left - share, commands_left - 1
                print(harness.figures.describe(command.label), flush=True)
    print(f"{options.times} kills in {monotonic() - began:.0f} s, nothing damaged", flush=True)


def _draw_images(folder: Path) -> Path:
    for number in range(30):
        save(folder / f"{number % 3}/{number:02}.png", 320, 240, number)
    return folder


if __name__ == "__main__":
    main()
