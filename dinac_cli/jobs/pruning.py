"""Moves outputs whose source is gone to a folder of their own, at the end of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Literal

from dinac_cli.container.names import escape_name
from dinac_cli.container.record import read_header
from dinac_cli.errors import FormatError, OutputError, PruneError, UnwritableDiskError, UsageError
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.orphans import ENCODE_SOURCES, SourceFiles, find_orphans, list_outputs
from dinac_cli.jobs.renames import RenamedRecords
from dinac_cli.jobs.request import Selection
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.atomic import describe_write_error
from dinac_cli.storage.inputs import is_missing
from dinac_cli.storage.naming import LATENT_SUFFIX
from dinac_cli.storage.output import REMOVED_FOLDER, Output, OutputKind
from dinac_cli.storage.urls import hide_secrets, is_url

Prune = Literal["some", "all"]
"""The values of `--prune`; `some` refuses to move more than `MOST_PERCENT` of the outputs."""

MOST_PERCENT = 10

Work = Callable[[RunControl], Generator[FileResult, None, None]]


@dataclass(kw_only=True)
class Pruning:
    """Moves the orphans in OUT to `REMOVED_FOLDER` after a complete run.

    `source_files` tells which files in OUT are outputs of the command. `renames` are records that
    the run wrote again under the new names of their sources. `obstacle` says why the run cannot
    know all sources, or is None. `check` counts `foreign` orphans, which stay because this OUT did
    not get them from a run.
    """

    choice: Prune
    selection: Selection
    output: Output
    source_files: SourceFiles = ENCODE_SOURCES
    renames: RenamedRecords | None = None
    obstacle: str | None = None
    foreign: int = 0
    _orphans: int = field(default=0, init=False)

    @property
    def place(self) -> str:
        """The folder of the removed outputs."""
        return os.path.join(self.output.path, REMOVED_FOLDER)

    def follow(self, work: Work) -> Work:
        """Returns the work of a run that ends with this pruning."""

        def run(control: RunControl) -> Generator[FileResult, None, None]:
            yield from work(control)
            if not control.stop:
                yield from self._prune(control)

        return run

    def check(self, planned: int = 0) -> str | None:
        """Returns the reason why nothing may be moved, or None.

        `planned` is the number of outputs that do not exist yet. The selection must have been
        iterated to its end.
        """
        gap = self.selection.scan.gap or self.obstacle
        if gap is not None:
            return f"{gap}; check the inputs and run again"
        outputs = planned
        self._orphans = self.foreign = 0
        for file in list_outputs(self.selection, self.output, self.source_files):
            outputs += 1
            if not file.is_lost or not self.output.is_ours(file.path):
                continue
            if not self._is_prunable(file.path):
                self.foreign += 1
            else:
                self._orphans += not self._is_renamed(file.path)
        if self.choice == "all" or self._orphans * 100 <= outputs * MOST_PERCENT:
            return None
        return (
            f"{self._orphans} of {outputs} outputs have no source, which is more than "
            f"{MOST_PERCENT} %; check the inputs, or use --prune=all"
        )

    def list_orphans(self) -> Iterator[str]:
        """Yields the outputs to move, except those that exist under a new name."""
        return (path for path in self._list_prunable() if not self._is_renamed(path))

    def _prune(self, control: RunControl) -> Iterator[FileResult]:
        refusal = self.check()
        if refusal is not None:
            error = PruneError(f"--prune moved nothing: {refusal}")
            yield FileResult.fail(self.output.path, error)
            return
        for path in self._list_prunable():
            if control.stop:
                return
            try:
                if self._is_renamed(path):
                    os.unlink(path)
                    continue
                if not self._orphans:  # sources vanish meanwhile: the next run checks them
                    return
                self._orphans -= 1
                yield FileResult(path, Status.PRUNED, output=self.output.set_aside(path))
            except FileNotFoundError:  # another run has moved it
                continue
            except UnwritableDiskError:
                raise
            except OutputError as exc:
                yield FileResult.fail(path, exc)
            except OSError as exc:
                yield FileResult.fail(path, describe_write_error(exc, path))

    def _list_prunable(self) -> Iterator[str]:
        orphans = find_orphans(self.selection, self.output, self.source_files)
        return filter(self._is_prunable, orphans)

    def _is_prunable(self, path: str) -> bool:
        """False for a link, and for a record that was moved here: no run wrote them to this OUT."""
        if os.path.islink(path):
            return False
        name, suffix = os.path.splitext(os.path.relpath(path, self.output.path))
        return suffix.lower() != LATENT_SUFFIX or _is_named(path, name.replace(os.sep, "/"))

    def _is_renamed(self, path: str) -> bool:
        return self.renames is not None and self.renames.is_moved(path)


def require_whole_folders(selection: Selection, output: Output) -> None:
    """Raises UsageError if the inputs or OUT do not show which outputs have lost their source."""
    for option, value in (("--limit", selection.limit), ("--shard", selection.shard)):
        if value is not None:
            raise UsageError(f"--prune needs all inputs; leave out {option}")
    if selection.scan.listed is not None:
        raise UsageError("--prune needs folders as inputs, not a list; leave out --files-from")
    for path in selection.scan.paths:
        if not os.path.isdir(path):
            is_absent = is_missing(path) and not is_url(path)
            state = "does not exist" if is_absent else "is not a folder"
            raise UsageError(f"--prune needs folders as inputs, and {hide_secrets(path)} {state}")
    if output.kind is not OutputKind.FOLDER:
        raise UsageError(f"--prune needs a folder as OUT, and {output.path} is not a folder")


def _is_named(path: str, name: str) -> bool:
    """True if a record holds this name of its source, or none. A record of another OUT does not."""
    try:
        with open(path, "rb") as file:
            held = read_header(file).name
    except (FormatError, OSError):
        return False
    return held in ("", escape_name(name))
