"""`dinac help`: shows the help of a command, or a page."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dinac_cli.commands.completions import PROGRAM
from dinac_cli.commands.man import list_commands, print_page
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.tables import list_facts
from dinac_cli.commands.topics import TOPICS


def complete_names(context: typer.Context, incomplete: str) -> list[str]:
    """Offers the commands and the topics."""
    names = dict.fromkeys([*list_commands(context), *TOPICS])
    return [name for name in names if name.startswith(incomplete)]


Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]",
        autocompletion=complete_names,
        help="A command, such as encode or models pull, or a page, such as format. Without a name: "
        "all commands and all pages.",
    ),
]


def show_help(context: typer.Context, names: Names = None) -> None:
    """Show the help of a command, or a page of the manual."""
    named, commands = names or [], list_commands(context)
    if named and named[0] not in commands:
        print_page(" ".join(named), [*commands, *TOPICS], "command or page")
        return
    root: Any = context.find_root().command
    root.main([*named, "--help"], prog_name=PROGRAM, standalone_mode=False)
    if not named:
        _list_topics()
    elif named[0] in TOPICS:
        Console().print_result(f"'{PROGRAM} man {named[0]}' shows the page about {named[0]}.")


def _list_topics() -> None:
    console = Console()
    console.print_result(f"Pages ('{PROGRAM} man NAME' shows one):")
    for line in list_facts((f"  {name}", topic.summary) for name, topic in TOPICS.items()):
        console.print_result(line)
