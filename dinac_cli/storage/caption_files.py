"""Finds the captions of images in the layouts that trainers use.

In a folder of images, a caption is a text file beside its image (`a.jpg` → `a.txt`), a line of
`metadata.jsonl` (`{"file_name": "a.jpg", "text": "…"}`, as the datasets library has it), or a value
of `captions.json` (`{"a.jpg": "…"}`, or a list of which the first text counts).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from dinac_cli.errors import DinacError, InputError, describe_read_error, quote_error

METADATA_NAME, CAPTIONS_NAME = "metadata.jsonl", "captions.json"
"""The files that hold the captions of a whole folder."""

MAX_CAPTION_BYTES = 2**20
"""The longest text that is a caption, in a file of its own or in a table, as UTF-8."""

_MAX_TABLE_BYTES = 2**31
_FOLDERS_KNOWN = 64


def open_captions(place: str) -> CaptionFiles:
    """Opens the captions of a folder of images, or a single table of captions.

    A folder has the captions of `metadata.jsonl`, else of `captions.json`, and the text files
    beside the images of others. Raises InputError if the place does not exist, or a table is
    damaged.
    """
    if os.path.isdir(place):
        for name in (METADATA_NAME, CAPTIONS_NAME):
            path = os.path.join(place, name)
            if os.path.isfile(path):
                return CaptionFiles(place, _read_table(path))
        return CaptionFiles(place, {})
    if not os.path.isfile(place):
        raise InputError(f"{place}: no such file or folder; name the folder of the images")
    return CaptionFiles(None, _read_table(place))


class CaptionFiles:
    """The captions of the images in a folder, by the names of the images in it.

    `table` holds the captions of tables. If `folder` is not None, other captions are text files
    beside the images. Can be pickled.
    """

    def __init__(self, folder: str | None, table: dict[str, str]) -> None:
        self._folder = folder
        self._table = table

    def find(self, name: str) -> str | None:
        """Returns the caption of an image, such as `trip/a.jpg`; None if it has none.

        Raises InputError if its file cannot be read.
        """
        if name in self._table or self._folder is None:
            return self._table.get(name)
        path = os.path.join(self._folder, *f"{os.path.splitext(name)[0]}.txt".split("/"))
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a named pipe waits for a writer
                raise InputError(f"{path}: is no file, so it is no caption; move it away")
            with open(path, "rb") as file:
                data = file.read(MAX_CAPTION_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise InputError(f"{path}: {describe_read_error(exc)}") from exc
        if len(data) > MAX_CAPTION_BYTES:
            raise InputError(f"{path}: larger than 1 MiB, so it is no caption; move it away")
        return _decode(data, path).strip()

    def list_missing(self, names: Sequence[str]) -> Iterator[str]:
        """Yields the images without a caption. Lists each folder once, and reads no text file."""
        list_texts = lru_cache(_FOLDERS_KNOWN)(_list_texts)
        for name in names:
            folder, base = os.path.split(name)
            place = None if self._folder is None else os.path.join(self._folder, folder)
            has_text = place is not None and os.path.splitext(base)[0] in list_texts(place)
            if not has_text and name not in self._table:
                yield name


class OtherFiles:
    """Tells which files of a sorted listing are neither images nor captions of images in it.

    Both methods return by how much the number of such files changes.
    """

    def __init__(self) -> None:
        self._image = ""
        self._text = ""  # the stem of the last text file that was no caption of the image before it

    def pass_image(self, name: str) -> int:
        """Returns -1 if the text file before it turns out to be the caption of this image."""
        text, self._text, self._image = self._text, "", name
        return -1 if text and os.path.splitext(name)[0] == text else 0

    def pass_other(self, name: str) -> int:
        """Returns 1, or 0 for a caption or a table of captions."""
        if os.path.basename(name) in (METADATA_NAME, CAPTIONS_NAME):
            return 0
        stem, suffix = os.path.splitext(name)
        if suffix.lower() == ".txt":
            if os.path.splitext(self._image)[0] == stem:
                return 0
            self._text = stem
        return 1


def _list_texts(folder: str) -> frozenset[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return frozenset()
    return frozenset(name[: -len(".txt")] for name in names if name.endswith(".txt"))


def _read_table(path: str) -> dict[str, str]:
    """Reads a table of captions. Raises InputError."""
    try:
        if os.path.getsize(path) > _MAX_TABLE_BYTES:
            raise InputError(f"{path}: larger than 2 GiB; split the table")
        with open(path, "rb") as file:
            text = _decode(file.read(), path)
        is_lines = path.lower().endswith(".jsonl")
        return dict(_parse_lines(text) if is_lines else _parse_object(json.loads(text)))
    except OSError as exc:
        raise InputError(f"{path}: {describe_read_error(exc)}") from exc
    except DinacError:
        raise
    except (ValueError, RecursionError) as exc:
        raise InputError(
            f"{path}: not a table of captions; see `dinac man python`", [quote_error(exc)]
        ) from exc


def _parse_lines(text: str) -> Iterator[tuple[str, str]]:
    # `splitlines` would also cut at U+2028 and the like, which may stand in a JSON text.
    for line in filter(str.strip, text.split("\n")):
        match json.loads(line):
            case {"file_name": str(name), "text": str(caption)}:
                yield name, _check_length(name, caption)
            case _:
                raise ValueError(f"a line without file_name and text: {line[:60]}")


def _parse_object(values: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    for name, value in values.items():
        match value:
            case str(caption) | [str(caption), *_]:
                yield name, _check_length(name, caption)
            case _:
                raise ValueError(f"the value of {name[:60]} is no text")


def _check_length(name: str, caption: str) -> str:
    """Returns the caption. Raises ValueError if it is too long, so that exports stay readable."""
    if len(caption.encode(errors="surrogatepass")) > MAX_CAPTION_BYTES:
        raise ValueError(f"the caption of {name[:60]} is larger than 1 MiB")
    return caption


def _decode(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InputError(f"{path}: not UTF-8; save it as UTF-8") from exc
