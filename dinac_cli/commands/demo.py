"""`dinac demo`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.decode import decode
from dinac_cli.commands.encode import encode
from dinac_cli.commands.psnr import psnr
from dinac_cli.commands.screen.console import Console
from dinac_cli.errors import UsageError

_FOLDERS = ("images", "latents", "decoded")

DemoFolder = Annotated[
    str,
    typer.Argument(
        metavar="[DIR]", help="A new folder for the images and latents, or that of an earlier demo."
    ),
]


def demo(folder: DemoFolder = "dinac-demo", no_progress: opt.NoProgress = False) -> None:
    """Make sample images; encode, decode and measure them; show each command."""
    require_demo_folder(folder)
    console = Console()
    run = partial(_run, console, no_progress)
    originals, latents, decoded = (f"{folder}/{name}" for name in _FOLDERS)
    count = write_samples(originals)
    console.print_result(f"{count} sample images are in {originals}")
    nano = ["--model", "nano"]
    run(encode, [originals, latents, *nano], images=[originals], out=latents, model="nano")
    run(decode, [latents, decoded, *nano], latents=[latents], out=decoded, model="nano")
    run(psnr, [originals, decoded], first=originals, second=decoded)
    console.print_result(f"\nCompare {originals} with {decoded}; then try your own folder.")


def require_demo_folder(folder: str) -> None:
    """Raises UsageError if `folder` has files that no earlier demo wrote there."""
    from dinac_cli.images.samples import SAMPLE_NAMES

    if not os.path.lexists(folder):
        return
    if not os.path.isdir(folder):
        raise UsageError(f"{folder}: exists and is not a folder; name a new folder")
    visible = {name for name in os.listdir(folder) if not name.startswith(".")}
    has_sample = any(os.path.isfile(f"{folder}/images/{name}") for name in SAMPLE_NAMES)
    is_empty = not any(files for _, _, files in os.walk(folder))
    if not is_empty and not (has_sample and visible <= set(_FOLDERS)):
        raise UsageError(f"{folder}: not empty, and not made by dinac demo; name a new folder")


def _run(
    console: Console,
    no_progress: bool,
    command: Callable[..., None],
    shown: list[str],
    **values: Any,
) -> None:
    """Shows and runs a command. If the command fails, the demo ends with the same exit code."""
    console.print_result(f"\n$ dinac {shlex.join([command.__name__, *shown])}")
    try:
        command(**values, no_progress=no_progress)
    except typer.Exit as done:
        if done.exit_code:
            raise


def write_samples(folder: str) -> int:
    """Writes the missing samples below `folder`; returns the number of all samples.

    Raises OutputError.
    """
    from dinac_cli.images.formats import format_of_suffix
    from dinac_cli.images.samples import draw_samples
    from dinac_cli.images.writing import write_image
    from dinac_cli.storage.output import Output, OutputKind

    output = Output(folder, OutputKind.FOLDER, is_ours=lambda path: False)
    count = 0
    for name, pixels in draw_samples():
        count += 1
        target = output.locate(name)
        form = format_of_suffix(name)
        assert form is not None, "each sample has the suffix of an output format"
        if not os.path.lexists(target):
            output.write(target, write_image(pixels, form.name))
    return count
