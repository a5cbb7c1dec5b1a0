"""Whether an output that is there already is done, stale, somebody else's, or of other settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from dinac_cli.codec.loading import ModelHandle
from dinac_cli.codec.records import name_model
from dinac_cli.container.frame import RECORD_START
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import is_whole, read_header
from dinac_cli.errors import FormatError, OutputError
from dinac_cli.files.atomic import refuse_foreign
from dinac_cli.files.content import hash_file
from dinac_cli.files.naming import LATENT_SUFFIX


class State(Enum):
    """What stands where an output should go."""

    ABSENT = "absent"
    DONE = "done"
    STALE = "stale"


@dataclass(frozen=True)
class Verdict:
    """A state and, where the output must be made again, why (one line)."""

    state: State
    reason: str | None = None


@dataclass(frozen=True)
class WantedLatents:
    """What an encode run wants of a record: its model, precision and background."""

    model: ModelHandle
    precision: str
    background: str

    def describe_conflict(self, header: RecordHeader) -> str | None:
        """How an existing record differs from what is wanted, naming both; None if it does not."""
        if header.latent_space != self.model.identity.latent_space:
            own = f"{self.model.label} (latent space {self.model.identity.latent_space})"
            return f"model {name_model(header)}, not {own}"
        if header.precision != self.precision:
            return f"precision {header.precision}, not {self.precision}"
        kept = read_description(header.image).get("alpha", "none")
        if kept not in ("none", f"composited-{self.background}"):
            return f"background {kept.removeprefix('composited-')}, not {self.background}"
        return None


@dataclass(frozen=True)
class WantedImage:
    """What a decode run wants of an image: the record's hash, the weights, the settings."""

    record_hash: str
    weights: str
    settings: str

    @property
    def stamp(self) -> dict[str, str]:
        """What is written into the image."""
        return {"record": self.record_hash, "weights": self.weights, "settings": self.settings}

    def describe_conflict(self, stamp: Mapping[str, str]) -> str | None:
        """How an existing image differs from what is wanted, naming both; None if it does not."""
        for key, wanted in (("settings", self.settings), ("weights", self.weights)):
            if stamp.get(key) != wanted:
                return f"{key} {stamp.get(key, 'unknown')}, not {wanted}"
        return None


def is_latent_file(path: str) -> bool:
    """True for a file that begins as a record does."""
    try:
        with open(path, "rb") as file:
            return starts_record(file.read(len(RECORD_START)))
    except OSError:
        return False


def starts_record(head: bytes) -> bool:
    """True for the first bytes of a record."""
    return head.startswith(RECORD_START)


def read_description(image: str) -> dict[str, str]:
    """A record's `image` field, `key=value` pairs separated by semicolons, as a mapping."""
    pairs = (pair.partition("=") for pair in image.split(";"))
    return {key: value for key, _, value in pairs}


def check_latents(
    target: str, source: str | None, wanted: WantedLatents, *, checksum: bool
) -> Verdict:
    """Judge the record at `target` against its source file (None: standard input).

    Raises OutputError where it was not written by dinac, or holds another model, precision or
    geometry than wanted.
    """
    if not os.path.lexists(target):
        return Verdict(State.ABSENT)
    if not is_latent_file(target):
        raise refuse_foreign(target)
    try:
        with open(target, "rb") as file:
            header = read_header(file)
        whole = is_whole(target)
    except FormatError as exc:
        return Verdict(State.STALE, f"the output was damaged ({exc})")
    except OSError as exc:
        raise OutputError(f"{target}: cannot read: {exc.strerror}") from exc
    if not whole:
        return Verdict(State.STALE, "the output was cut short")
    conflict = wanted.describe_conflict(header)
    if conflict is not None:
        raise OutputError(f"{target} holds {conflict}; choose another OUT or add --overwrite")
    changed = source is None or _has_changed(source, target, header, checksum=checksum)
    return Verdict(State.STALE, "the source has changed") if changed else Verdict(State.DONE)


def is_stamped_image(path: str) -> bool:
    """True for an image that dinac wrote and nobody has changed."""
    from dinac_cli.images.stamp import read_stamp

    return read_stamp(Path(path)) is not None


def check_image(target: str, wanted: WantedImage) -> Verdict:
    """Judge the image at `target` against the record and settings that are wanted.

    Raises OutputError where it was not written by dinac, or decoded with other settings.
    """
    from dinac_cli.images.stamp import read_stamp

    if not os.path.lexists(target):
        return Verdict(State.ABSENT)
    stamp = read_stamp(Path(target))
    if stamp is None:
        raise refuse_foreign(target)
    conflict = wanted.describe_conflict(stamp)
    if conflict is not None:
        raise OutputError(
            f"{target} was decoded with {conflict}; choose another OUT or add --overwrite"
        )
    if stamp.get("record") != wanted.record_hash:
        return Verdict(State.STALE, "the latents have changed")
    return Verdict(State.DONE)


def find_first_record(folder: str) -> tuple[str, RecordHeader] | None:
    """The first readable record below a folder, by name, and its path; None if there is none."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if not name.endswith(LATENT_SUFFIX):
                continue
            path = os.path.join(parent, name)
            try:
                with open(path, "rb") as file:
                    return path, read_header(file)
            except (FormatError, OSError):
                continue
    return None


def _has_changed(source: str, target: str, header: RecordHeader, *, checksum: bool) -> bool:
    """Same size, and not newer or, if newer or where `checksum` asks, of the same hash."""
    status = os.stat(source)
    if header.source_bytes is None or header.source_sha256 is None:
        return status.st_mtime_ns > os.stat(target).st_mtime_ns
    if status.st_size != header.source_bytes:
        return True
    if not checksum and status.st_mtime_ns <= os.stat(target).st_mtime_ns:
        return False
    return hash_file(source) != header.source_sha256
