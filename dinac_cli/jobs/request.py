"""Which inputs a run takes, what their outputs are called, and what is refused before any work."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dinac_cli.errors import UsageError
from dinac_cli.images.formats import is_image_name
from dinac_cli.storage.inputs import STDIN, Input, InputScan
from dinac_cli.storage.naming import LATENT_SUFFIX, ignores_case, refuse_collisions
from dinac_cli.storage.output import STDOUT, Output, OutputKind
from dinac_cli.storage.parts import Shard

_FILE_SUFFIXES = (LATENT_SUFFIX, ".safetensors", ".npz", ".npy", ".tar", ".zip")
"""What a file beside images is called that somebody may expect to be written."""


@dataclass(frozen=True)
class Selection:
    """The inputs of a scan that a run takes: those of its shard, at most `limit`."""

    scan: InputScan
    shard: Shard | None = None
    limit: int | None = None

    def __iter__(self) -> Iterator[Input]:
        chosen = (
            entry for entry in self.scan if self.shard is None or self.shard.holds(entry.name)
        )
        return itertools.islice(chosen, self.limit)


def choose_output_kind(out: str, scan: InputScan, suffixes: tuple[str, ...]) -> OutputKind:
    """What OUT is: `-`, a file (one input file, and a suffix of the output kind), or a folder.

    Raises UsageError where OUT would have to be a folder and is an existing file, or is named like
    a file that is not written: more likely the last input, or a format that is not to be had.
    """
    if out == STDOUT:
        return OutputKind.STREAM
    if os.path.isdir(out):
        return OutputKind.FOLDER
    if scan.single_file and out.lower().endswith(suffixes):
        return OutputKind.FILE
    if os.path.lexists(out):
        raise UsageError(
            f"{out}: OUT, the last argument, is an existing file and not a folder: "
            "name an output folder after the inputs"
        )
    if out.lower().endswith(suffixes):
        raise UsageError(
            f"{out}: OUT, the last argument, is named like a file, but the input is not one "
            f"file: name a folder ({out}/ if it is one)"
        )
    if _is_name_of_other_file(out, suffixes):
        file = f" or a file that ends in {', '.join(suffixes)}" if scan.single_file else ""
        raise UsageError(
            f"{out}: OUT, the last argument, is named like a file that is not written here: "
            f"name a folder ({out}/ if it is one){file}"
        )
    return OutputKind.FOLDER


def refuse_file_name(out: str) -> None:
    """Raises UsageError where OUT, which is to be a folder, is named like a file and not there."""
    if not os.path.isdir(out) and _is_name_of_other_file(out):
        raise UsageError(
            f"{out}: OUT, the last argument, is named like a file, and is a folder here: "
            f"write {out}/ if it is meant"
        )


def _is_name_of_other_file(out: str, suffixes: tuple[str, ...] = ()) -> bool:
    return not out.lower().endswith((*suffixes, "/", os.sep)) and (
        is_image_name(out) or out.lower().endswith(_FILE_SUFFIXES)
    )


def count_inputs(selection: Selection, output: Output, rename: Callable[[str], str]) -> int | None:
    """Go through the names once, before any work; returns how many inputs there are.

    None where standard input is among them and may hold any number. Raises UsageError where
    nothing is found or two inputs would have one output.
    """

    def pairs() -> Iterator[tuple[str, str | None]]:
        for entry in selection:
            yield entry.label, None if entry.problem else rename(entry.name)

    if output.kind is OutputKind.STREAM:
        return count_unnamed(selection)  # records in a stream need no path of their own
    return _settle(selection, refuse_collisions(pairs, fold_case=ignores_case(output.path)))


def count_unnamed(selection: Selection) -> int | None:
    """`count_inputs` of a run whose inputs have no outputs, or none with a path."""
    return _settle(selection, sum(1 for _ in selection))


def _settle(selection: Selection, count: int) -> int | None:
    if not count:
        _require_found(selection)
    return None if reads_stdin(selection.scan) else count


def require_existing(selection: Selection) -> None:
    """Refuse a run whose only input is a file that is not there. Raises UsageError."""
    first = list(itertools.islice(iter(selection), 2))
    if len(first) == 1 and first[0].problem:
        raise UsageError(f"{first[0].label}: {first[0].problem}")


def _require_found(selection: Selection) -> None:
    everything = Selection(selection.scan)
    if selection.shard is not None and next(iter(everything), None) is not None:
        return  # an empty part of a list that is not empty is a part like any other
    scan = selection.scan
    for _ in scan:
        return
    where = ", ".join(scan.paths) or "the list"
    others = f" ({scan.others} other files)" if scan.others else ""
    raise UsageError(f"no {scan.kind.plural} found in {where}{others}")


def reads_stdin(scan: InputScan) -> bool:
    """True where standard input is one of the inputs."""
    return STDIN in scan.paths
