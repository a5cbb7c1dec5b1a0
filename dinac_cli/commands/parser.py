"""The classes of all commands. They show help in plain words and begin it with an example."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from dinac_cli.commands.examples import EXAMPLES, list_examples
from dinac_cli.errors import UsageError

# The base class of the parser's errors. The module of this class depends on the version of Typer,
# but the class is always an ancestor of BadParameter.
ParserError: type[Any] = typer.BadParameter.__mro__[2]


_OPTIONAL_VALUES = {"--prune": "some"}
"""Options whose value may be left out, and the value that they then have."""


class MissingArgumentError(UsageError):
    """Raised by a command with the name of a missing argument. The user also sees the usage."""


class _PlainHelp(TyperCommand if TYPE_CHECKING else object):  # type: ignore[misc]
    """Help without types, with an example, and with each default as a sentence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            _simplify(parameter)

    def get_help_option(self, ctx: Any) -> Any:
        """Returns the option --help, without a type."""
        return _simplify(super().get_help_option(ctx))

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Writes the usage line and the examples."""
        super().format_usage(ctx, formatter)
        path = ctx.command_path
        for example in list_examples(path):
            formatter.write_usage(path, example.removeprefix(f"{path} "), prefix="Example: ")

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parses the arguments. Each error knows the command: some errors of the parser do not."""
        try:
            return super().parse_args(ctx, list(_fill_values(args)))
        except ParserError as exc:
            exc.ctx = exc.ctx or ctx
            raise


class PlainGroup(_PlainHelp, TyperGroup):
    """A group of commands with plain help."""


class PlainCommand(_PlainHelp, TyperCommand):
    """A command with plain help. The user sees the usage if the command misses an argument."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parses the arguments. Raises UsageError for a file or folder that looks like an option.

        The parser could take it for an option with its value: `-o.jpg` means `-o .jpg`.
        """
        file = None if ctx.resilient_parsing else self._find_dashed_file(args)
        if file is not None:
            raise UsageError(
                f"{file} exists, but begins with '-' like an option; "
                f"write ./{file}, or put -- before it"
            )
        return super().parse_args(ctx, args)

    def _find_dashed_file(self, args: list[str]) -> str | None:
        """Returns the first argument that is a file, but neither an option nor its value."""
        needs_value = {
            name: not getattr(option, "is_flag", False) and name not in _OPTIONAL_VALUES
            for option in self.params
            if option.param_type_name == "option"
            for name in (*option.opts, *option.secondary_opts)
        }
        before = ""
        for argument in itertools.takewhile(lambda one: one != "--", args):
            is_option = argument.partition("=")[0] in needs_value or needs_value.get(before, False)
            is_dashed = argument.startswith("-") and argument != "-"
            if is_dashed and not is_option and os.path.lexists(argument):
                return argument
            before = argument
        return None

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Returns the parts of the usage line after the command's name."""
        return ["[OPTIONS]", *list_arguments(self)]

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except MissingArgumentError as exc:
            raise UsageError(f"missing {exc}; {describe_usage(ctx)}") from exc


def _fill_values(args: list[str]) -> Iterator[str]:
    """Yields the arguments. Options without their optional value get it.

    The parser itself would take the next argument as the value, which may be an input.
    """
    is_option = True
    for arg in args:
        is_option = is_option and arg != "--"
        value = _OPTIONAL_VALUES.get(arg) if is_option else None
        yield arg if value is None else f"{arg}={value}"


def describe_usage(ctx: Any) -> str:
    """Returns the usage of a command and its example, for an error."""
    usage = " ".join([ctx.command_path, *list_arguments(ctx.command)])
    return f"usage: {usage}, e.g. {ctx.command_path} {EXAMPLES[ctx.command_path]}"


def list_arguments(command: Any) -> list[str]:
    """Returns the names of a command's arguments as in a usage line, e.g. `IMG...` and `OUT`."""
    arguments = (p for p in command.params if p.param_type_name == "argument" and not p.hidden)
    return [_name_argument(argument) for argument in arguments]


def _name_argument(parameter: Any) -> str:
    name = str(parameter.metavar)
    return name if parameter.nargs == 1 or name.endswith("...") else f"{name}..."


def _simplify(parameter: Any) -> Any:
    """Hides the type of a parameter, and adds its default to its help as a sentence."""
    if parameter is None:
        return None
    if parameter.param_type_name == "argument":
        parameter.display_type_rich = _show_no_type  # Typer 0.29 shows a type such as `<str>`
    elif getattr(parameter, "is_flag", False):
        parameter.metavar = ""  # some versions of Typer show the type `<bool>` after a flag
    default = _describe_default(parameter)
    parameter.show_default = parameter.show_envvar = False
    if default:
        first, gap, rest = (parameter.help or "").partition("\n\n")
        parameter.help = f"{first} Default: {default}.{gap}{rest}"
    return parameter


def _show_no_type(ctx: Any) -> None:
    """Replaces the method that returns the type of an argument as text."""


def _describe_default(parameter: Any) -> str:
    """Returns the default in plain words, or "" if there is nothing to say."""
    shown, default = getattr(parameter, "show_default", None), parameter.default
    if isinstance(shown, str):
        text = shown
    elif shown is False or parameter.required or _is_nothing(default):
        return ""
    else:
        text = f"{default:g}" if isinstance(default, float) else str(default)
    return f"{parameter.envvar} if set, else {text}" if parameter.envvar else text


def _is_nothing(default: Any) -> bool:
    return default is None or default is False or default == "" or callable(default)
