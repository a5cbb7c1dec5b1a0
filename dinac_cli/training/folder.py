"""The folder that a training makes, and writes to."""

from __future__ import annotations

from pathlib import Path

from dinac_cli.files.output import Output, OutputKind


def write_file(folder: Path, name: str, data: bytes) -> None:
    """Write one file of a training, made if need be: there and whole, or as before.

    Raises OutputError; UnwritableDiskError where no more fits.
    """
    output = Output(str(folder), OutputKind.FOLDER, is_ours=_is_any, overwrite=True)
    output.write(output.locate(name), data)


def _is_any(path: str) -> bool:
    return True  # a folder that holds anything else is refused before
