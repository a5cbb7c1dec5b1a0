"""A file that crashes its decoder: the process that reads it ends."""

from __future__ import annotations

from pathlib import Path

MARK = b"this file crashes its decoder"

# Python imports this module at its start.
_SITE = f"""
import os
from dinac_cli.jobs import encode

read = encode.read_shaped

def read_or_crash(data, *arguments, **options):
    if {MARK!r} in data:
        os.abort()
    return read(data, *arguments, **options)

encode.read_shaped = read_or_crash
"""


def prepare_processes(folder: Path, more: str = "") -> dict[str, str]:
    """Returns the environment of processes that crash if they read a file with `MARK`.

    They also run the code `more` at their start. `folder` is for a module of theirs.
    """
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(_SITE + more)
    return {"PYTHONPATH": str(folder / "site")}


def write_crashing_image(path: Path, image: Path) -> None:
    """Writes a valid image, followed by `MARK`."""
    path.write_bytes(image.read_bytes() + MARK)
