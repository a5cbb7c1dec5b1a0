"""`dinac demo`."""

import shlex

import typer

from dinac_cli.commands import options as opt


def demo(folder: opt.DemoFolder = "dinac-demo") -> None:
    """Make sample images, encode, decode and measure them, showing each command."""
    from dinac_cli.commands.sampling import write_samples
    from dinac_cli.commands.screen.console import Console

    console = Console()
    originals, latents, decoded = (f"{folder}/{name}" for name in ("images", "latents", "decoded"))
    count = write_samples(originals)
    console.print_result(f"{count} sample images are in {originals}")
    for arguments in (
        ["encode", originals, latents, "--model", "nano"],
        ["decode", latents, decoded, "--model", "nano"],
        ["psnr", originals, decoded],
    ):
        console.print_result(f"\n$ dinac {shlex.join(arguments)}")
        code = _run(arguments)
        if code:
            raise typer.Exit(code)
    console.print_result(f"\nCompare {originals} with {decoded}; then try it on your own folder.")


def _run(arguments: list[str]) -> int:
    from dinac_cli.cli import run

    return run(arguments)
