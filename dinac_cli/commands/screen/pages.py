"""Shows Markdown pages on a terminal."""

from __future__ import annotations

import io
import os
import shutil
import sys

from dinac_cli.commands.screen.console import fit_encoding

_MOST_COLUMNS = 100


def show_page(text: str) -> None:
    """Prints a Markdown page on a terminal, formatted; a page longer than the screen is paged.

    The variable PAGER chooses the pager. NO_COLOR and TERM=dumb are obeyed.
    """
    columns, lines = shutil.get_terminal_size()
    page = format_page(text, min(columns, _MOST_COLUMNS))
    if page.count("\n") < lines:
        sys.stdout.write(fit_encoding(page, sys.stdout))
        return
    import pydoc

    os.environ.setdefault("LESS", "FRX")  # as git does: show colours, keep the text on the screen
    pydoc.pager(page)


def format_page(text: str, width: int) -> str:
    """Returns a Markdown page as lines of at most `width` columns, with the terminal's escapes."""
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.theme import Theme

    file = io.StringIO()
    theme = Theme({"markdown.code": "bold cyan"})  # rich's own has a black background
    console = Console(file=file, force_terminal=True, width=width, theme=theme)
    console.print(Markdown(text, code_theme="ansi_dark", hyperlinks=False))
    return file.getvalue()
