"""Finds orphans: outputs in OUT whose source is not in the input folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from dinac_cli.images.formats import format_of_suffix
from dinac_cli.jobs.freshness import is_latent_file, list_files
from dinac_cli.jobs.request import Selection
from dinac_cli.storage.naming import LATENT_SUFFIX, strip_suffix
from dinac_cli.storage.output import Output, OutputKind
from dinac_cli.storage.source_memory import MEMORY_NAME

_LATENT_SUFFIXES = (LATENT_SUFFIX, LATENT_SUFFIX.upper())
_FOLDERS_KNOWN = 64  # the outputs come folder by folder, but there may be several inputs


@dataclass(frozen=True)
class OutputFile:
    """A file in OUT that is named like an output. `is_lost` is true if its source is gone."""

    path: str
    is_lost: bool


@dataclass(frozen=True)
class SourceFiles:
    """The files from which a command makes its outputs.

    `name` turns the name of a file in OUT into the names that its source may have; the list is
    empty if the command writes no such files. `excludes(path)` is true if it is certain that an
    existing file of such a name is no source.
    """

    name: Callable[[str], list[str]]
    excludes: Callable[[str], bool] = lambda path: False


def name_image_sources(name: str) -> list[str]:
    """Returns the names that the image of a record may have: `a.jpg.dinac` → `a.jpg`."""
    source = strip_suffix(name)
    return [] if source == name else [source]


def name_record_sources(name: str) -> list[str]:
    """Returns the names that the record of a decoded image may have.

    `a.png` may come from `a.png.dinac` or `a.dinac`, and also from a record without a suffix.
    """
    if format_of_suffix(name) is None:
        return []
    bare = (name, os.path.splitext(name)[0])
    return [stem + suffix for suffix in (*_LATENT_SUFFIXES, "") for stem in bare]


def is_no_record(path: str) -> bool:
    """True for a file that can be read and is no record, neither by its name nor by its start."""
    if path.lower().endswith(LATENT_SUFFIX) or not os.path.isfile(path):
        return False
    return os.access(path, os.R_OK) and not is_latent_file(path)


ENCODE_SOURCES = SourceFiles(name_image_sources)
DECODE_SOURCES = SourceFiles(name_record_sources, is_no_record)


def list_outputs(
    selection: Selection, output: Output, source_files: SourceFiles
) -> Iterator[OutputFile]:
    """Yields the files in a folder OUT that are named like outputs, sorted.

    The limit, the shard and the exclusion of the selection do not count: a source that exists in an
    input folder is not lost, but a file in a folder that the scan leaves out, such as that of
    --masks, is no source. If an input is not a folder, yields nothing, because OUT may hold the
    outputs of its neighbours. Leaves out input folders in OUT, and subfolders that are the OUT of
    another run. Needs the same memory for any number of files.
    """
    scan = selection.scan
    if output.kind is not OutputKind.FOLDER or not os.path.isdir(output.path):
        return
    if scan.listed is not None or not all(map(os.path.isdir, scan.paths)):
        return
    prefix = os.path.join(output.path, "")
    lies_left_out = lru_cache(_FOLDERS_KNOWN)(scan.lies_left_out)

    def is_lost(top: str, name: str) -> bool:
        source = os.path.join(top, name)
        is_no_input = scan.left_out and lies_left_out(os.path.dirname(source), top)
        return bool(is_no_input) or _is_gone(source, source_files)

    for path in list_files(output.path, leave=lambda folder: _is_apart(folder, scan.paths)):
        names = source_files.name(path[len(prefix) :])
        if names:
            lost = (is_lost(folder, name) for folder in scan.paths for name in names)
            yield OutputFile(path, all(lost))


def find_orphans(
    selection: Selection, output: Output, source_files: SourceFiles = ENCODE_SOURCES
) -> Iterator[str]:
    """Yields the paths of the orphans in a folder OUT, sorted; see `list_outputs`.

    Leaves out files that dinac did not write.
    """
    for file in list_outputs(selection, output, source_files):
        if file.is_lost and output.is_ours(file.path):
            yield file.path


def _is_apart(folder: str, inputs: tuple[str, ...]) -> bool:
    """True for an input folder, and for a folder in which another run remembers its sources."""
    if os.path.lexists(os.path.join(folder, MEMORY_NAME)):
        return True
    with suppress(OSError):  # a folder that has just vanished
        return any(os.path.samefile(folder, path) for path in inputs)
    return True


def _is_gone(source: str, source_files: SourceFiles) -> bool:
    """True only if it is certain that no source, and no link, has the path `source`.

    A file that cannot be reached, for example on a disk that is not mounted, is not gone.
    """
    try:
        status = os.lstat(source)
    except (FileNotFoundError, NotADirectoryError):
        return not _is_behind_broken_link(source)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) or source_files.excludes(source)


def _is_behind_broken_link(path: str) -> bool:
    parent = os.path.dirname(path)
    while parent and not os.path.exists(parent):
        if os.path.islink(parent):
            return True
        parent = os.path.dirname(parent)
    return False
