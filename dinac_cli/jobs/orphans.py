"""Finds orphans: records in OUT whose source is not in the input folders."""

from __future__ import annotations

import os
from collections.abc import Iterator

from dinac_cli.jobs.freshness import is_latent_file, list_latents
from dinac_cli.jobs.request import Selection
from dinac_cli.storage.naming import LATENT_SUFFIX
from dinac_cli.storage.output import Output, OutputKind


def find_orphans(selection: Selection, output: Output) -> Iterator[str]:
    """Yields the paths of the orphans in a folder OUT, sorted.

    The limit, the shard and the exclusion of the selection do not count: a source that exists in an
    input folder has no orphan. If an input is not a folder, yields nothing, because OUT may hold
    the records of its neighbours. Needs the same memory for any number of records.
    """
    scan = selection.scan
    if output.kind is not OutputKind.FOLDER or not os.path.isdir(output.path):
        return
    if scan.listed is not None or not all(map(os.path.isdir, scan.paths)):
        return
    for path in list_latents(output.path):
        name = os.path.relpath(path, output.path)[: -len(LATENT_SUFFIX)]
        sources = (os.path.join(folder, name) for folder in scan.paths)
        if not any(map(_is_source, sources)) and is_latent_file(path):
            yield path


def _is_source(path: str) -> bool:
    """True if a file exists, or a link. An input may be a broken link, which is not lost."""
    return os.path.lexists(path) and not os.path.isdir(path)
