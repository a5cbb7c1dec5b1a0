"""The classes of all commands. They show help in plain words and begin it with an example."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from dinac_cli.commands.examples import EXAMPLES


class PlainCommand(TyperCommand):
    """A command whose help has an example, no types, and each default as a sentence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            _simplify(parameter)

    def get_help_option(self, ctx: Any) -> Any:
        """Returns the option --help, without a type."""
        return _simplify(super().get_help_option(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Returns the parts of the usage line after the command's name."""
        return ["[OPTIONS]", *list_arguments(self)]

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Writes the usage line and the example."""
        super().format_usage(ctx, formatter)
        _write_example(ctx, formatter)


class PlainGroup(TyperGroup):
    """A group of commands with the same kind of help as `PlainCommand`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            _simplify(parameter)

    def get_help_option(self, ctx: Any) -> Any:
        """Returns the option --help, without a type."""
        return _simplify(super().get_help_option(ctx))

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Writes the usage line and the example."""
        super().format_usage(ctx, formatter)
        _write_example(ctx, formatter)


def list_arguments(command: Any) -> list[str]:
    """Returns the names of a command's arguments as in a usage line, e.g. `IMG...` and `OUT`."""
    arguments = (p for p in command.params if p.param_type_name == "argument" and not p.hidden)
    return [_name_argument(argument) for argument in arguments]


def _name_argument(parameter: Any) -> str:
    name = str(parameter.metavar)
    return name if parameter.nargs == 1 or name.endswith("...") else f"{name}..."


def _write_example(ctx: Any, formatter: Any) -> None:
    arguments = EXAMPLES.get(ctx.command_path)
    if arguments is not None:
        formatter.write_usage(ctx.command_path, arguments, prefix="Example: ")


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
