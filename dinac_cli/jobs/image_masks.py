"""Where the masks of images come from, and whether a record holds the present mask of its image."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dinac_cli.errors import InputError, SameOutputError, UsageError, describe_read_error
from dinac_cli.images.description import format_description, parse_description
from dinac_cli.images.geometry import MASK_KEY
from dinac_cli.images.masks import Mask, average_patches, drop_full
from dinac_cli.storage.content import hash_file, read_content
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.mask_files import MaskFiles, UnusedMasks

if TYPE_CHECKING:
    from dinac_cli.images.reading import MaskFile

MaskKind = Literal["none", "alpha", "files"]
"""Whether records hold masks: no, the alpha channels of the images, or those of --masks."""

NO_MASK_KIND: MaskKind = "none"
"""The kind of masks that records hold unless the user asks for masks."""

MASK_OPTIONS: dict[MaskKind, str] = {"none": "--no-mask", "alpha": "--mask", "files": "--masks"}
"""The options of encode for each kind."""

MaskChange = Literal["gone", "new", "changed"]
"""What has happened to the mask file of an image since its record was written."""

_ALPHA, _ABSENT, _FILE = "alpha", "none", "file"
_VALUE = re.compile(f"{_FILE}(-[0-9a-f]{{64}})?")


@dataclass(frozen=True)
class FoundMask:
    """What --masks has for one image: the file at `path` in the state `status`.

    Both are None if there is no file. `sha256` is its hash, if it was read.
    """

    path: str | None = None
    status: os.stat_result | None = None
    sha256: str | None = None

    @property
    def version(self) -> str:
        """A text that changes with the file, for the plan of shards; "" if there is no file."""
        status = self.status
        return "" if status is None else f"mask-{status.st_size}-{status.st_mtime_ns}"

    @property
    def state(self) -> tuple[int, int, int] | None:
        """What changes with the file: its size and its times; None if there is no file."""
        status = self.status
        return status and (status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def require_unchanged(self) -> None:
        """Raises InputError if the file has changed since it was found, or is gone."""
        if self.path is None:
            return
        with suppress(OSError):
            if FoundMask(self.path, os.stat(self.path)).state == self.state:
                return
        raise InputError(
            f"its mask {self.path}: changed during the run; run the same command again"
        )

    def read(self) -> tuple[FoundMask, MaskFile | None]:
        """Reads the file; returns None if there is none. Raises InputError.

        Also returns the state of the file just before it was read.
        """
        if self.path is None:
            return self, None
        from dinac_cli.images.reading import MaskFile  # late, because it imports Pillow

        with _name_errors(self.path):
            content = read_content(self.path)
        found = FoundMask(self.path, content.status, content.sha256)
        return found, MaskFile(content.data, self.path)


NO_MASK = FoundMask()
"""An image without a mask file."""


def require_some_mask(entries: Iterable[Input], folder: str) -> None:
    """Raises UsageError if no image has a mask in `folder`, because the name may be wrong."""
    masks, example = MaskFiles(folder), None
    for entry in entries:
        with suppress(InputError):
            if masks.find(entry.name) is None:
                example = entry if example is None else min(example, entry, key=_is_like_mask)
                continue
        return
    if example is not None:
        raise _refuse_masks(folder, example)


def _is_like_mask(entry: Input) -> bool:
    """True if a folder of masks that was not named may hold the image."""
    return "mask" in os.path.dirname(entry.name).lower()


def find_unused_masks(masks: str, folders: Sequence[str] | None) -> UnusedMasks | None:
    """Returns the files in the folder `masks` that belong to no image; None if there are none.

    `folders` hold all images of the run; None if other inputs may be images, too. Then it is
    unknown which masks belong to none, as if `masks` holds too many files or cannot be listed.
    """
    if folders is None:
        return None
    with suppress(InputError):
        return MaskFiles(masks).find_unused(folders)
    return None


def _refuse_masks(folder: str, example: Input) -> UsageError:
    """Returns the error for a folder without a mask of any image, such as `example`."""
    mask = os.path.join(folder, f"{os.path.splitext(example.name)[0]}.png")
    return UsageError(
        f"--masks {folder}: holds no mask of any image, such as {mask} for {example.label}; "
        "check the folder and the names"
    )


@contextmanager
def suggest_mask_folder(kind: MaskKind) -> Iterator[None]:
    """Adds to a SameOutputError that a folder of mask files needs --masks."""
    try:
        yield
    except SameOutputError as exc:
        if kind != "alpha":
            raise
        raise UsageError(f"{exc}; for a folder of mask files, use --masks") from exc


@dataclass(frozen=True, eq=False)
class PatchMasks:
    """The masks [h, w] of an image and of the mirrored image; None if everything counts."""

    upright: Mask | None = None
    flipped: Mask | None = None

    @property
    def nbytes(self) -> int:
        """The memory that the masks occupy."""
        return sum(mask.nbytes for mask in (self.upright, self.flipped) if mask is not None)


NO_MASKS = PatchMasks()
"""Everything counts."""


def average_masks(mask: Mask | None, patch: int, *, flip: bool) -> PatchMasks:
    """Returns the masks of the patches of an image with the mask [H, W].

    The mirrored mask is averaged anew, because its patches are others if the image does not fill
    the last one.
    """
    if mask is None:
        return NO_MASKS
    views = (mask, mask[:, ::-1]) if flip else (mask,)
    return PatchMasks(*(drop_full(average_patches(view, patch)) for view in views))


def find_mask(masks: MaskFiles, name: str) -> FoundMask:
    """Looks for the mask of an image; see `MaskFiles.find`. Raises InputError."""
    path = masks.find(name)
    if path is None:
        return NO_MASK
    try:
        status = os.stat(path)
    except OSError as exc:
        raise InputError(f"its mask {path}: {describe_read_error(exc)}") from exc
    if not stat.S_ISREG(status.st_mode):  # opening a named pipe waits for a writer
        raise InputError(f"its mask {path}: is not a regular file; move it away")
    return FoundMask(path, status)


def describe_mask(
    description: str, kind: MaskKind, sha256: str | None, *, anonymous: bool = False
) -> str:
    """Adds to the description of an image where its mask comes from.

    `sha256` is the hash of the mask file; None if there is none.
    """
    if kind == "none":
        return description
    value = _ALPHA
    if kind == "files":
        hashed = _FILE if anonymous else f"{_FILE}-{sha256}"
        value = _ABSENT if sha256 is None else hashed
    return format_description({**parse_description(description), MASK_KEY: value})


def read_mask_kind(description: str) -> MaskKind:
    """Returns what a record says of its mask. A value that is not known counts as none."""
    value = parse_description(description).get(MASK_KEY, "")
    if value == _ALPHA:
        return "alpha"
    return "files" if value == _ABSENT or _VALUE.fullmatch(value) else "none"


def compare_mask(
    description: str, mask: FoundMask, written: os.stat_result | None = None
) -> MaskChange | None:
    """Returns how the mask that --masks has now for an image differs from that of its record.

    Returns None if the record holds it. An anonymous record holds no hash of the mask: then the
    mask must be older than `written`, the state of the record; without it, the mask must only
    exist. Raises InputError if the mask cannot be read.
    """
    value = parse_description(description).get(MASK_KEY)
    if mask.path is None or mask.status is None:
        return None if value == _ABSENT else "gone"
    if value == _ABSENT:
        return "new"
    if value == _FILE:
        times = mask.status.st_mtime_ns, mask.status.st_ctime_ns
        is_same = written is None or max(times) <= written.st_mtime_ns
    else:
        with _name_errors(mask.path):
            is_same = value == f"{_FILE}-{hash_file(mask.path)}"
    return None if is_same else "changed"


@contextmanager
def _name_errors(path: str) -> Iterator[None]:
    try:
        yield
    except InputError as exc:
        raise InputError(f"its mask {path}: {exc}", exc.details) from exc
