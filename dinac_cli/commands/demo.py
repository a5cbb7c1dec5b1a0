"""`dinac demo`."""

from __future__ import annotations

import os
import shlex
from typing import Annotated, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.completions import PROGRAM
from dinac_cli.commands.screen.console import Console
from dinac_cli.errors import UsageError

_FOLDERS = ("images", "latents", "decoded")

DemoFolder = Annotated[
    str,
    typer.Argument(
        metavar="[DIR]", help="A new folder for the images and latents, or that of an earlier demo."
    ),
]


def demo(
    context: typer.Context, folder: DemoFolder = "dinac-demo", no_progress: opt.NoProgress = False
) -> None:
    """Make sample images; encode, decode and measure them; show each command."""
    require_demo_folder(folder)
    # A name such as -x would be an option of the commands.
    place = f"./{folder}" if folder.startswith("-") else folder
    originals, latents, decoded = (f"{place}/{name}" for name in _FOLDERS)
    count = write_samples(originals)
    console = Console()
    console.print_result(f"{count} sample images are in {originals}")
    hidden = ["--no-progress"] if no_progress else []
    for shown in (
        ["encode", originals, latents, "--model", "nano"],
        ["decode", latents, decoded, "--model", "nano"],
        ["psnr", originals, decoded],
    ):
        console.print_result(f"\n$ {PROGRAM} {shlex.join(shown)}")
        _run(context, [*shown, *hidden])
    console.print_result(f"\nCompare {originals} with {decoded}; then try your own folder.")


def _run(context: typer.Context, arguments: list[str]) -> None:
    """Runs a command line. If it fails, the demo ends with the same exit code."""
    root: Any = context.find_root().command
    code = root.main(arguments, prog_name=PROGRAM, standalone_mode=False, obj=context.obj)
    if code:
        raise typer.Exit(code)


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
