"""Writes the files that are generated from the code.

`python -m dinac_cli.artifacts man` writes the page that `dinac man` shows;
`python -m dinac_cli.artifacts completions FOLDER` writes the completion script of every shell;
`python -m dinac_cli.artifacts reference` writes the results of `nano` that `dinac doctor` compares
with. Write them again for new weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

from typer.main import get_command

from dinac_cli import __version__
from dinac_cli.cli import app
from dinac_cli.commands.completions import write_scripts
from dinac_cli.commands.man import MANUAL, make_manual
from dinac_cli.doctor.reference import REFERENCE, write_reference


def main(arguments: list[str]) -> int:
    """Writes what the first argument selects. Returns the exit code."""
    match arguments:
        case ["man"]:
            page = make_manual(get_command(app), __version__)
            MANUAL.write_text(page, encoding="utf-8", newline="\n")
        case ["completions", folder]:
            write_scripts(Path(folder))
        case ["reference"]:
            write_reference(REFERENCE)
        case _:
            usage = "man | completions FOLDER | reference"
            print(f"usage: python -m dinac_cli.artifacts {usage}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
