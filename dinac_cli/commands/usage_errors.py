"""Words the parser's errors: one line that says what is wrong, then what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from dinac_cli.commands.parser import describe_usage
from dinac_cli.commands.values import find_nearest

_ADVICE = {"dinac psnr": "psnr compares two folders; for more use dinac report"}
"""Full name of a command → the error if it has too many arguments, in place of its usage."""


def describe_parser_error(exc: Any) -> str:
    """Returns the parser's exception in plain words.

    The exceptions are recognised by class name and message, because their module depends on the
    version of Typer. An exception of another kind keeps its own message.
    """
    context, message = exc.ctx, exc.format_message()
    path, hint = context.command_path, f"see '{context.command_path} --help'"
    match type(exc).__name__:
        case "MissingParameter":
            return f"missing {exc.param.metavar}; {describe_usage(context)}"
        case "NoSuchOption":
            advice = _suggest(exc.option_name[2:], _list_options(context), "--") or hint
            return f"no such option {exc.option_name}; {advice}"
        case "BadOptionUsage":
            problem = "needs a value" if "requires" in message else "takes no value"
            return f"{exc.option_name} {problem}; {hint}"
        case "BadParameter" if variable := _find_variable(exc):
            return f"{variable}={os.environ[variable]}: expected 1 or 0"
    if found := re.match(r"No such command '(.*?)'", message):
        group = f"{path} ".partition(" ")[2]  # "" for the program itself
        advice = _suggest(found[1], context.command.commands, group) or hint
        return f"no such command '{group}{found[1]}'; {advice}"
    if found := re.match(r"Got unexpected extra argument\S* \((.*)\)", message):
        return _ADVICE.get(path) or f"too many arguments: {found[1]}; {describe_usage(context)}"
    return f"{message.rstrip('.')}; {hint}"


def _find_variable(exc: Any) -> str | None:
    """Returns the environment variable that gave a flag its bad value, or None."""
    source = exc.param and exc.ctx.get_parameter_source(exc.param.name)
    return str(exc.param.envvar) if source and source.name == "ENVIRONMENT" else None


def _suggest(word: str, names: Iterable[str], prefix: str) -> str:
    nearest = " or ".join(f"'{prefix}{name}'" for name in find_nearest(word, names))
    return nearest and f"did you mean {nearest}?"


def _list_options(context: Any) -> list[str]:
    """Returns the long names of the command's options, without `--`."""
    options = (p for p in context.command.get_params(context) if p.param_type_name == "option")
    names = (name for option in options for name in option.opts)
    return [name[2:] for name in names if name.startswith("--")]
