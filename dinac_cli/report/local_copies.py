"""Local copies of places that are not folders of single files: archives, shards and URLs.

A page reads each image several times, and by name. So it copies such a place once, into a
temporary folder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dinac_cli.errors import DinacError
from dinac_cli.jobs.entries import list_records
from dinac_cli.jobs.executor.phase import Watch, watch_items
from dinac_cli.jobs.image_sets import needs_image_set, open_image_set
from dinac_cli.jobs.request import LATENTS, InputRequest
from dinac_cli.jobs.results import FileResult
from dinac_cli.jobs.shards.sample import DEFAULT_COLUMN
from dinac_cli.storage.atomic import describe_write_error
from dinac_cli.storage.exclusion import NO_EXCLUSION
from dinac_cli.storage.markers import holds_shards
from dinac_cli.storage.naming import name_latents, strip_suffix
from dinac_cli.storage.urls import hide_secrets

_File = tuple[str, bytes]  # its relative name, and its content

COPYING = "copying"
"""The phase in which a run makes its local copies."""


def needs_copy(place: str) -> bool:
    """True for a place that is not a local folder of single files."""
    return needs_image_set(place) or holds_shards(place)


@dataclass
class LocalCopies:
    """The local copies of one run, by place. What cannot be copied is a failure of the run."""

    failures: list[FileResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._folders: dict[str, str] = {}
        self._parent: tempfile.TemporaryDirectory[str] | None = None

    def copy_images(self, place: str, watch: Watch) -> str:
        """Returns a local folder with the images of a place. Raises UsageError, OutputError."""
        return self._copy(place, lambda: self._list_images(place), watch)

    def copy_records(self, place: str, watch: Watch) -> str:
        """Returns a local folder with the records of a place. Raises UsageError, OutputError."""
        return self._copy(place, lambda: self._list_records(place), watch)

    def name_places(self, text: str) -> str:
        """Returns a message that names the places instead of their copies."""
        for place, folder in self._folders.items():
            shown = hide_secrets(place)
            text = text.replace(folder + os.sep, f"{shown}: ").replace(folder, shown)
        return text

    def discard(self) -> None:
        """Removes the copies."""
        if self._parent is not None:
            self._parent.cleanup()

    def _copy(self, place: str, list_files: Callable[[], Iterator[_File]], watch: Watch) -> str:
        if not needs_copy(place):
            return place
        if place not in self._folders:
            folder = self._make_folder()
            self._folders[place] = folder
            for name, data in watch_items(list_files(), watch, COPYING):
                _write(os.path.join(folder, *name.split("/")), data)
        return self._folders[place]

    def _make_folder(self) -> str:
        try:
            if self._parent is None:
                self._parent = tempfile.TemporaryDirectory(prefix="dinac-report-")
            folder = os.path.join(self._parent.name, str(len(self._folders)))
            os.mkdir(folder)
        except OSError as exc:
            raise describe_write_error(exc, tempfile.gettempdir()) from exc
        return folder

    def _list_images(self, place: str) -> Iterator[_File]:
        images = open_image_set(place, "", NO_EXCLUSION, DEFAULT_COLUMN)
        for picture in images.list():
            try:
                if picture.problem is None:
                    yield picture.name, picture.read()
                else:
                    self._fail(picture.label, picture.problem)
            except DinacError as exc:
                self._fail(picture.label, str(exc))

    def _list_records(self, place: str) -> Iterator[_File]:
        selection = InputRequest(paths=(place,)).select(LATENTS)
        for entry in list_records(selection, None, strip_suffix):
            try:
                with entry.settle_name():
                    yield name_latents(strip_suffix(entry.name)), entry.read()
            except DinacError as exc:
                self._fail(entry.label, str(exc))

    def _fail(self, label: str, reason: str) -> None:
        self.failures.append(FileResult.fail(label, DinacError(reason)))


def _write(path: str, data: bytes) -> None:
    """Writes a file that nobody else sees. Raises OutputError."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    except OSError as exc:
        raise describe_write_error(exc, path) from exc
