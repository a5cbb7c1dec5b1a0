"""Defines and runs the `dinac` program. An error becomes one line and an exit code."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from functools import cache
from typing import Annotated, Any

import typer

from dinac_cli import __version__
from dinac_cli.commands.bench import bench
from dinac_cli.commands.compare import compare
from dinac_cli.commands.completions import COMPLETION_VARIABLE, PROGRAM, completions
from dinac_cli.commands.decode import decode
from dinac_cli.commands.demo import demo
from dinac_cli.commands.doctor import doctor
from dinac_cli.commands.encode import encode
from dinac_cli.commands.export import export
from dinac_cli.commands.features import features
from dinac_cli.commands.help import show_help
from dinac_cli.commands.info import info
from dinac_cli.commands.man import man
from dinac_cli.commands.models import models
from dinac_cli.commands.parser import ParserError, PlainCommand, PlainGroup
from dinac_cli.commands.plan import plan
from dinac_cli.commands.preview import preview
from dinac_cli.commands.psnr import psnr
from dinac_cli.commands.report import report
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.train import train
from dinac_cli.commands.usage_errors import describe_parser_error
from dinac_cli.commands.values import name_variables
from dinac_cli.commands.verify import verify
from dinac_cli.errors import DinacError, Exit
from dinac_cli.storage.atomic import describe_write_error

_NARROW_COLUMNS = 60

app = typer.Typer(
    name=PROGRAM,
    cls=PlainGroup,
    add_completion=False,  # completion scripts are files; dinac edits no shell start-up file
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def describe(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_print_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Convert folders of images to small files of whitened latents, and back."""


_PANELS = {
    "Convert": (encode, decode, export),
    "Inspect and measure": (info, preview, psnr, compare, report, verify, plan, features),
    "Train": (train, bench),
    "Set up": (demo, doctor, completions, man),
}
"""Title of a panel of `dinac --help` → its commands. Help and models are added below."""

for _title, _commands in _PANELS.items():
    for _command in _commands:
        app.command(cls=PlainCommand, rich_help_panel=_title)(_command)
app.command("help", cls=PlainCommand, rich_help_panel="Set up")(show_help)
app.add_typer(models, rich_help_panel="Set up")


def main() -> None:
    """Runs the command line and exits."""
    reserve_standard_descriptors()
    sys.exit(run(sys.argv[1:]))


def reserve_standard_descriptors() -> None:
    """Opens the null device in place of each closed standard stream.

    Otherwise the next file that is opened, such as an output, becomes standard error, and the
    messages of signal handlers and C libraries go into this file.
    """
    descriptor = 0
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest descriptor that is free
    os.close(descriptor)


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code. An error becomes one line on stderr."""
    flags: dict[str, Any] = {"verbose": False, "variables": {}, "arguments": tuple(arguments)}
    try:
        command = _make_tree()
        code = command(arguments, prog_name=PROGRAM, standalone_mode=False, obj=flags)
        if sys.stdout is not None:
            sys.stdout.flush()
    except DinacError as exc:
        details = exc.details if flags["verbose"] else ()
        for line in (str(exc), *details):
            _print_error(name_variables(line, flags["variables"]))
        return exc.exit_code
    except ParserError as exc:
        if type(exc).__name__ == "NoArgsIsHelpError":
            message = exc.format_message()  # the help, or empty if the parser printed it
            if message:
                typer.echo(message, err=True)
        else:
            _print_error(describe_parser_error(exc))
        return int(exc.exit_code)
    except BrokenPipeError:
        _settle_stdout()
        return Exit.CLOSED_PIPE
    except OSError as exc:
        _settle_stdout()
        _print_error(_describe_refusal(exc))
        return Exit.REFUSED
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except SystemExit as exc:
        # If the pipe is closed, the parser exits with code 1.
        if not isinstance(exc.__context__, BrokenPipeError):
            raise
        _settle_stdout()
        return Exit.CLOSED_PIPE
    return code if isinstance(code, int) else 0


def _describe_refusal(exc: OSError) -> str:
    """Describes an error of the system outside the files of a run, such as a full stdout."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return str(describe_write_error(exc, exc.filename or "output"))
    return f"the system refused: {exc}"


def _make_tree() -> Any:
    """Returns the command tree for this run: for a completion script, or for this screen."""
    if COMPLETION_VARIABLE in os.environ:
        return _prepare_completion()
    return _fit_screen(shutil.get_terminal_size().columns)


def _prepare_completion() -> Any:
    """Returns the command tree for completion scripts. Each help text is one line."""
    os.environ["COLUMNS"] = "1000"  # if a help text wraps, the shell sees two candidates
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()  # Typer does this only for programs with --install-completion
    root: Any = typer.main.get_command(app)
    for command in root.commands.values():
        for parameter in command.params:
            parameter.help = (parameter.help or "").partition("\n")[0]
    return root


@cache
def _fit_screen(columns: int) -> Any:
    """Returns the command tree for a screen of this width.

    On a narrow screen, help has no frames, because frames would cut off the text.
    """
    root: Any = typer.main.get_command(app)
    if columns >= _NARROW_COLUMNS:
        return root

    class Formatter(root.context_class.formatter_class):  # type: ignore[misc]
        def __init__(self, **_: Any) -> None:
            super().__init__(width=max(columns - 1, 20))

        def write_dl(self, rows: Any, col_max: int = 2, col_spacing: int = 4) -> None:
            super().write_dl(rows, 2, 4)  # each name on one line, the help below the name

    class Context(root.context_class):  # type: ignore[misc]
        formatter_class = Formatter

    def simplify(command: Any) -> None:
        command.context_class, command.rich_markup_mode = Context, None
        command.short_help = (command.help or "").partition("\n\n")[0]  # not cut off
        for child in getattr(command, "commands", {}).values():
            simplify(child)

    simplify(root)
    return root


def _print_error(message: str) -> None:
    Console().fail(" ".join(message.split()))


def _settle_stdout() -> None:
    """Flushes stdout. If flushing fails, discards the output, so that Python exits silently."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
