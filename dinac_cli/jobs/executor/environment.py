"""The environment of the other Python processes that dinac starts."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import dinac_cli


def make_environment() -> dict[str, str]:
    """Returns the environment of another Python process, which imports the same dinac."""
    environment = dict(os.environ)
    environment["PYTHONSAFEPATH"] = "1"  # the current folder may hold a file called numpy.py
    root = str(Path(dinac_cli.__file__).parent.parent)
    with suppress(IndexError):
        if root == os.path.abspath(sys.path[0] or os.curdir):
            paths = [root, environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment
