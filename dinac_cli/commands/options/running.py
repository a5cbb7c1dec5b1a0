"""How a run goes on, and what it says."""

# No `from __future__ import annotations`: Typer reads these annotations at run time.

from typing import Annotated, Any

import typer

from dinac_cli.commands.options.panels import REPORTS, RUN
from dinac_cli.commands.values import check_batch_size


def _workers(text: str) -> Any:
    return typer.Option(
        "--workers",
        min=1,
        metavar="N",
        rich_help_panel=RUN,
        show_default="one a processor",
        help=text,
    )


BatchSize = Annotated[
    str,
    typer.Option(
        metavar="N",
        rich_help_panel=RUN,
        callback=check_batch_size,
        help="Images in memory at once, or auto; never changes a result.",
    ),
]
Workers = Annotated[int | None, _workers("Threads that read, and threads that write.")]
Readers = Annotated[int | None, _workers("Threads that read.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        rich_help_panel=RUN,
        help="Replace whatever stands where an output goes, and redo what is done.",
    ),
]
Checksum = Annotated[
    bool,
    typer.Option(
        "--checksum",
        rich_help_panel=RUN,
        help="Tell changed sources by their hash, not by size and time.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        rich_help_panel=RUN,
        help="Say what would be done, as dinac plan does, and do nothing.",
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        rich_help_panel=RUN,
        help="Leave out the estimate of time, which loads the model and takes a few seconds.",
    ),
]
Fsync = Annotated[
    bool,
    typer.Option(
        "--fsync", rich_help_panel=RUN, help="Force each output to the disk before the next step."
    ),
]
FailFast = Annotated[
    bool,
    typer.Option("--fail-fast", rich_help_panel=RUN, help="Stop at the first file that fails."),
]
Failures = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", rich_help_panel=REPORTS, help="Write failed files here, as JSON lines."
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        rich_help_panel=REPORTS,
        help="JSON lines on stdout: one object a file, a summary last.",
    ),
]
PsnrJson = Annotated[
    bool,
    typer.Option("--json", rich_help_panel=REPORTS, help="One JSON object on stdout."),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", rich_help_panel=REPORTS, help="Say nothing but errors."),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", rich_help_panel=REPORTS, help="Name every file; full errors."),
]
