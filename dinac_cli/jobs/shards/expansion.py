"""Expands paths and URLs with brace ranges and patterns, such as `s3://b/{000..099}.tar`."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence

from dinac_cli.errors import UsageError
from dinac_cli.storage.braces import expand_braces
from dinac_cli.storage.store import Stat, open_store, split_place
from dinac_cli.storage.urls import WEB, find_scheme, hide_secrets, is_url, join_url

_LEAST_LISTED = 8
"""From this many remote files on, a listing takes fewer requests than one for each file."""


def expand_place(path: str, listed: dict[str, dict[str, Stat]]) -> Iterator[str]:
    """Yields the places that a path, a brace range or a pattern names, in their order.

    `listed` holds the remote folders that were listed already. Raises UsageError if a pattern
    matches nothing, or is not in the last part of a URL.
    """
    for place in expand_braces(path):
        if not is_pattern(place) or _exists(place):
            yield place
        elif not is_url(place):
            found = sorted(glob.glob(place, recursive=True))
            if not found:
                raise UsageError(f"{place}: no file matches this pattern")
            yield from found
        else:
            yield from _match_remote(place, listed)


def is_pattern(place: str) -> bool:
    """True if a path or URL has wildcards."""
    # In a web address, a query begins with `?`.
    wildcards = "*" if find_scheme(place) in WEB else "*?["
    return any(char in place for char in wildcards)


def _exists(place: str) -> bool:
    return not is_url(place) and os.path.lexists(place)


def _match_remote(pattern: str, listed: dict[str, dict[str, Stat]]) -> Iterator[str]:
    """Yields the files of one remote folder whose names match the end of a pattern."""
    folder, name = split_place(pattern)
    if is_pattern(folder):
        raise UsageError(
            f"{hide_secrets(pattern)}: only the last part of a URL may be a pattern; "
            "name the folders one by one"
        )
    found = [each for each in list_folder(folder, listed) if fnmatch.fnmatchcase(each, name)]
    if not found:
        raise UsageError(f"{hide_secrets(pattern)}: no file matches this pattern")
    for each in found:
        yield join_url(folder, each)


def list_folder(folder: str, listed: dict[str, dict[str, Stat]]) -> dict[str, Stat]:
    """Returns the files of a remote folder by name, without its subfolders."""
    if folder not in listed:
        stats = open_store(folder).list(recursive=False)
        listed[folder] = {stat.name: stat for stat in stats}
    return listed[folder]


def list_ahead(places: Sequence[str], listed: dict[str, dict[str, Stat]]) -> None:
    """Lists the remote folders of many files, which saves a request for each file."""
    if len(places) >= _LEAST_LISTED and find_scheme(places[0]) not in ("", *WEB):
        for place in places:
            list_folder(split_place(place)[0], listed)
