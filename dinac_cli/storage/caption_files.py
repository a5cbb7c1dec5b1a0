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

from dinac_cli.errors import InputError, describe_read_error, quote_error

METADATA_NAME, CAPTIONS_NAME = "metadata.jsonl", "captions.json"
"""The files that hold the captions of a whole folder."""

MAX_CAPTION_BYTES = 2**20
"""The longest text that is a caption, in a file of its own or in a table, as UTF-8."""

_MAX_TABLE_BYTES = 2**31
_FOLDERS_KNOWN = 64
_KEYS_SHOWN = 4


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
                return CaptionFiles(place, _read_table(path), path)
        return CaptionFiles(place, {})
    if not os.path.isfile(place):
        raise InputError(f"{place}: no such file or folder; name the folder of the images")
    return CaptionFiles(None, _read_table(place), place)


class CaptionFiles:
    """The captions of the images in a folder, by the names of the images in it.

    `table` holds the captions of the file `table_path`. If `folder` is not None, other captions are
    text files beside the images. Can be pickled.
    """

    def __init__(
        self, folder: str | None, table: dict[str, str], table_path: str | None = None
    ) -> None:
        self._folder = folder
        self._table = table
        self._table_path = table_path

    def find(self, name: str) -> str | None:
        """Returns the caption of an image, such as `trip/a.jpg`; None if it has none.

        Raises InputError if its file cannot be read.
        """
        if name in self._table or self._folder is None:
            return self._table.get(name)
        path = _locate_text(self._folder, name)
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
        return decode_caption(data, path)

    def describe_lack(self, name: str) -> str:
        """Says what was looked for in vain: `no photos/a.txt, no "a.jpg" in photos/captions.json`.

        `name` is the name of an image without a caption.
        """
        lacking = [] if self._folder is None else [f"no {_locate_text(self._folder, name)}"]
        if self._table_path is not None:
            lacking.append(f"no {_quote(name)} in {self._table_path}")
        return ", ".join(lacking)

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
    """Finds which files of a sorted listing are neither images nor captions of images in it.

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


def _locate_text(folder: str, name: str) -> str:
    return os.path.join(folder, *f"{os.path.splitext(name)[0]}.txt".split("/"))


def _read_table(path: str) -> dict[str, str]:
    """Reads a table of captions. Raises InputError."""
    try:
        if os.path.getsize(path) > _MAX_TABLE_BYTES:
            raise InputError(f"{path}: larger than 2 GiB; split the table")
        with open(path, "rb") as file:
            text = _decode(file.read(), path)
    except OSError as exc:
        raise InputError(f"{path}: {describe_read_error(exc)}") from exc
    is_lines = path.lower().endswith(".jsonl")
    try:
        return dict(_parse_lines(text) if is_lines else _parse_object(_parse_json(text)))
    except _TableError as exc:
        details = [] if exc.__cause__ is None else [quote_error(exc.__cause__)]
        raise InputError(
            f"{path}: not a table of captions: {exc}; see `dinac man python`", details
        ) from exc


class _TableError(ValueError):
    """Says in a few words, with the line, what is wrong with a table of captions."""


def _parse_lines(text: str) -> Iterator[tuple[str, str]]:
    # `splitlines` would also cut at U+2028 and the like, which may stand in a JSON text.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield _parse_line(line)
            except _TableError as exc:
                raise _TableError(f"line {number}: {exc}") from exc.__cause__


def _parse_line(line: str) -> tuple[str, str]:
    match _parse_json(line, ""):
        case {"file_name": str(name), "text": str(caption)}:
            return name, _check_length(name, caption)
        case dict(values):
            raise _TableError(_explain_keys(values, ("file_name", "text")))
        case _:
            raise _TableError('not an object with "file_name" and "text"')


def _parse_object(values: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(values, dict):
        raise _TableError('not an object such as {"a.jpg": "caption"}')
    for name, value in values.items():
        match value:
            case str(caption) | [str(caption), *_]:
                yield name, _check_length(name, caption)
            case dict(inner):
                raise _TableError(
                    f"the value of {_quote(name)} is not a text, but an object with "
                    f"{_list_keys(inner)}"
                )
            case _:
                raise _TableError(f"the value of {_quote(name)} is not a text")


def _parse_json(text: str, place: str = "line {}: ") -> Any:
    """Parses JSON. Raises `_TableError` that begins with `place` and the number of the line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        raise _TableError(f"{place.format(exc.lineno)}not valid JSON") from exc
    except (ValueError, RecursionError) as exc:
        raise _TableError("not valid JSON") from exc


def _explain_keys(values: dict[str, Any], wanted: Sequence[str]) -> str:
    for key in wanted:
        if key not in values:
            return f"no key {_quote(key)}; found {_list_keys(values)}"
        if not isinstance(values[key], str):
            return f"the value of {_quote(key)} is not a text"
    raise AssertionError(f"all of {wanted} are texts")


def _list_keys(values: dict[str, Any]) -> str:
    keys = ", ".join(_quote(key) for key in list(values)[:_KEYS_SHOWN])
    return (keys or "nothing") + (", …" if len(values) > _KEYS_SHOWN else "")


def _quote(text: str) -> str:
    return json.dumps(text[:60], ensure_ascii=False)


def _check_length(name: str, caption: str) -> str:
    """Returns the caption. Raises `_TableError` if it is too long, so that exports are readable."""
    if len(caption.encode(errors="surrogatepass")) > MAX_CAPTION_BYTES:
        raise _TableError(f"the caption of {_quote(name)} is larger than 1 MiB")
    return caption


def decode_caption(data: bytes, path: str) -> str:
    """Returns the caption in a text file, without white space around it. Raises InputError."""
    return _decode(data, path).strip()


def _decode(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InputError(f"{path}: not UTF-8; save it as UTF-8") from exc
