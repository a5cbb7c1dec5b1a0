"""`dinac man`."""

import typer


def man() -> None:
    """Show the manual; in a pipe, its source, for a folder of manual pages."""
    from dinac_cli.commands.manual import show_manual

    raise typer.Exit(show_manual())
