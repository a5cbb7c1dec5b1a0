"""Decides whether an existing output is current, stale, not dinac's, or has other settings."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path

from dinac_cli import __version__
from dinac_cli.codec.handle import ModelHandle
from dinac_cli.codec.records import name_model
from dinac_cli.container.frame import RECORD_START
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import Outline, open_record
from dinac_cli.container.tensors import CLASS_TOKEN, COMPANIONS, FLIPPED, LOGSNR, MASK
from dinac_cli.errors import (
    DamagedImageError,
    FormatError,
    ImageError,
    OutputError,
    Rejection,
    describe_read_error,
)
from dinac_cli.images.damage import DamageChoice
from dinac_cli.images.description import parse_description
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry, find_geometry, read_geometry
from dinac_cli.images.hdr import REFUSE, read_hdr
from dinac_cli.jobs.image_masks import (
    MASK_OPTIONS,
    NO_MASK,
    NO_MASK_KIND,
    FoundMask,
    MaskChange,
    MaskKind,
    compare_mask,
    read_mask_kind,
)
from dinac_cli.storage.atomic import refuse_foreign
from dinac_cli.storage.content import begins_with, hash_file
from dinac_cli.storage.naming import LATENT_SUFFIX
from dinac_cli.storage.source_memory import (
    NO_MEMORY,
    Recall,
    Sighting,
    SourceMemory,
    Standing,
    is_settled,
)

_MASK_CHANGES: dict[MaskChange, str] = {
    "gone": "the mask is gone",
    "new": "it has a mask now",
    "changed": "the mask has changed",
}

_LACKS = {
    LOGSNR: "no posterior",
    CLASS_TOKEN: "no class token",
    FLIPPED + LOGSNR: "no posterior of the mirrored image",
    FLIPPED + CLASS_TOKEN: "no class token of the mirrored image",
}

STEPS, NO_STEPS = "steps", "none"
"""The key of the number of diffusion steps, and its value if the decoder has no steps."""

SETTINGS = (STEPS, "sampler", "schedule", "guidance", "strength", "seed")
"""The settings in the stamps of diffusion decoders. Each key is also an option of `decode`.

The stamp of a decoder without steps holds `STEPS` only.
"""

_DEFAULTS = {"image": "upright", "quality": "default"}
"""The settings that a stamp holds only if they differ from these defaults."""

# If a record is refused for one of these reasons, another version of dinac wrote it: keep it.
_OTHER_VERSION = {
    Rejection.VERSION,
    Rejection.FLAGS,
    Rejection.RESERVED,
    Rejection.PRECISION,
    Rejection.PREDICTOR,
}


class State(Enum):
    """The state of an output: it does not exist, is current, or must be made again."""

    ABSENT = "absent"
    DONE = "done"
    STALE = "stale"


class Cause(Enum):
    """Why an output is stale: a change of the source, its reader or mask, or a damaged output."""

    SIZE = "size"
    HASH = "hash"
    TIME = "time"
    READER = "reader"
    MASK = "mask"
    DAMAGE = "damage"


@dataclass(frozen=True)
class Verdict:
    """The state of an output.

    If `state` is STALE, `reason` says why in one line. If the cause is known, `cause` is set.
    `sighting` is the source beside the record that is stale, if the source was looked at.
    """

    state: State
    reason: str | None = None
    cause: Cause | None = None
    sighting: Sighting | None = None


@dataclass(frozen=True)
class Conflict:
    """A difference between an output and a run, such as "bf16 latents" and "--precision q6"."""

    held: str
    wanted: str


@dataclass(frozen=True)
class WantedLatents:
    """What an encode run requires of a record.

    `companions` are the tensors that are required in addition to the latents. They are a subset of
    `container.tensors.COMPANIONS`. A record may hold more tensors. If `anonymous` is set, a record
    that names its source is a conflict. If `anonymous` is not set, an anonymous record is accepted,
    because it reveals nothing. If `damaged` is "fail", a record of a damaged image is not accepted.
    `mask_kind` says where masks come from. A record that was made without masks is stale if masks
    are required; one with masks of another kind, or with masks if it is "none", is a conflict.
    """

    model: ModelHandle
    precision: str
    background: str
    anonymous: bool = False
    companions: frozenset[str] = frozenset()
    geometry: Geometry = NO_GEOMETRY
    hdr: str = REFUSE
    damaged: DamageChoice = "fail"
    mask_kind: MaskKind = NO_MASK_KIND

    @property
    def tensors(self) -> frozenset[str]:
        """The tensors in addition to the latents that a record may hold for this run."""
        return self.companions if self.mask_kind == NO_MASK_KIND else self.companions | {MASK}

    @cached_property
    def digest(self) -> bytes:
        """A digest of these requirements and of the version of dinac."""
        identity = self.model.identity
        fields: tuple[object, ...] = (
            __version__,
            identity.latent_space,
            identity.weights,
            self.precision,
            self.background,
            self.anonymous,
            sorted(self.companions),
            self.geometry.text,
            self.hdr,
            self.damaged,
        )
        if self.mask_kind != NO_MASK_KIND:  # else OUT remembers the digest without it
            fields += (self.mask_kind,)
        return hashlib.sha256(repr(fields).encode()).digest()

    def digest_with(self, mask: FoundMask) -> bytes:
        """A digest of these requirements and, with --masks, of the mask of one image."""
        if self.mask_kind != "files":
            return self.digest
        return hashlib.sha256(self.digest + repr(mask.state).encode()).digest()

    def find_conflict(self, header: RecordHeader) -> Conflict | None:
        """Returns the first conflict with a record, or None."""
        if header.latent_space != self.model.identity.latent_space:
            own = f"{self.model.label} (latent space {self.model.identity.latent_space})"
            return Conflict(f"latents of model {name_model(header)}", f"--model {own}")
        if header.precision != self.precision:
            return Conflict(f"{header.precision} latents", f"--precision {self.precision}")
        kept = parse_description(header.image).get("alpha", "none")
        if kept not in ("none", f"composited-{self.background}"):
            held = f"latents with --background {kept.removeprefix('composited-')}"
            return Conflict(held, f"--background {self.background}")
        hdr = read_hdr(header.image)
        if hdr not in (None, self.hdr):
            return Conflict(f"latents with --hdr {hdr}", f"--hdr {self.hdr}")
        if find_geometry(header.image) != self.geometry.text:
            return self._compare_geometry(find_geometry(header.image))
        kind = read_mask_kind(header.image)
        if kind not in (NO_MASK_KIND, self.mask_kind):
            return Conflict(f"latents with {MASK_OPTIONS[kind]}", MASK_OPTIONS[self.mask_kind])
        if self.anonymous and not header.is_anonymous:
            return Conflict("a record that names its source", "--anonymous")
        return None

    def _compare_geometry(self, text: str) -> Conflict:
        """Returns the difference to `text`, the geometry in a record."""
        try:
            geometry = read_geometry(text)
        except ImageError:
            geometry = self.geometry
        held, wanted = geometry.list_options(self.geometry), self.geometry.list_options(geometry)
        if not held:  # invalid, or in another order
            return Conflict(f"geometry {text}", f"geometry {self.geometry.text or 'none'}")
        is_full_size = self.geometry.changes_pixels and not geometry.changes_pixels
        latents = "full-size latents" if is_full_size else f"latents with {' '.join(held)}"
        return Conflict(latents, " ".join(wanted))

    def describe_lack(self, outline: Outline) -> str | None:
        """Says which required tensors are missing, were not asked for or have other weights.

        Returns None if the record holds all required tensors, from the right weights.
        """
        lacking = " and ".join(self._list_lacking(outline))
        if lacking:
            return f"the record holds {lacking}"
        if self.mask_kind != NO_MASK_KIND and (
            read_mask_kind(outline.header.image) == NO_MASK_KIND
        ):
            return "the record was made without masks"
        weights = outline.header.weights
        if CLASS_TOKEN in self.companions and weights != self.model.identity.weights:
            return f"the record's class token comes from other weights ({weights})"
        return None

    def _list_lacking(self, outline: Outline) -> Iterator[str]:
        """Yields the tensors that are missing for the image or for the mirrored image.

        If a tensor is missing for both images, yields it once.
        """
        for name in sorted(self.companions):
            if name not in outline.held:
                yield _LACKS[name]
            elif self.geometry.flip and outline.has_twin and FLIPPED + name not in outline.held:
                yield _LACKS[FLIPPED + name]
        if self.geometry.flip and not outline.has_twin:
            yield "no mirrored image"


@dataclass(frozen=True)
class WantedImage:
    """What a decode run requires of an image: the record's hash, the weights and the settings."""

    record_hash: str
    weights: str
    settings: str

    @property
    def stamp(self) -> dict[str, str]:
        """The stamp to write into the image."""
        return {"record": self.record_hash, "weights": self.weights, "settings": self.settings}

    def find_conflict(self, stamp: Mapping[str, str]) -> Conflict | None:
        """Returns the first conflict with the image of a stamp, or None.

        If only one of both decoders has steps, the conflict is that of their weights.
        """
        is_alike = describes_steps(stamp.get("settings", "")) == describes_steps(self.settings)
        if is_alike and (conflict := compare_settings(stamp, self.settings)) is not None:
            return conflict
        held = stamp.get("weights", "unknown")
        if held == self.weights:
            return None
        return Conflict(f"weights {held}", f"weights {self.weights}")


def compare_settings(stamp: Mapping[str, str], wanted: str) -> Conflict | None:
    """Returns the difference between a stamp's settings and `wanted`; None if they are equal."""
    held = stamp.get("settings", "")
    if held == wanted:
        return None
    differing = list_settings(held, unlike=wanted), list_settings(wanted, unlike=held)
    return Conflict(*(" ".join(options) or "unknown settings" for options in differing))


def describes_steps(settings: str) -> bool:
    """False if the settings of a stamp are those of a decoder without diffusion steps."""
    return parse_description(settings).get(STEPS) != NO_STEPS


def list_settings(settings: str, *, unlike: str) -> list[str]:
    """Returns the settings of a stamp that differ from `unlike`, as options of `decode`."""
    pairs, others = (_DEFAULTS | parse_description(text) for text in (settings, unlike))
    return [_spell_setting(*pair) for pair in pairs.items() if others.get(pair[0]) != pair[1]]


def _spell_setting(key: str, value: str) -> str:
    if key == "image":
        return "--flipped" if value == "flipped" else "--no-flipped"
    is_option = key in SETTINGS or key in _DEFAULTS
    return f"--{key} {value.replace('_', '-')}" if is_option else f"{key}={value}"


def is_latent_file(path: str) -> bool:
    """True for a file that starts like a record."""
    return begins_with(path, RECORD_START)


def is_remembered(
    target: str,
    source: str,
    wanted: WantedLatents,
    memory: SourceMemory,
    mask: FoundMask = NO_MASK,
) -> bool:
    """True if `memory` knows that the record at `target` is up to date. Opens neither file.

    `mask` is what --masks has for the image.
    """
    from dinac_cli.images.revisions import current_revision

    with suppress(OSError):
        return memory.is_current(
            target,
            os.stat(source),
            Standing(os.stat(target), wanted.digest_with(mask)),
            anonymous=wanted.anonymous,
            reader=current_revision(),
        )
    return False


def make_standing(
    record: os.stat_result, wanted: WantedLatents, mask: FoundMask
) -> Standing | None:
    """Returns the standing of a record that meets the requirements.

    Returns None if the mask has just changed: a change within the resolution of the clock would
    not show.
    """
    if mask.status is not None and not is_settled(mask.status):
        return None
    return Standing(record, wanted.digest_with(mask))


def check_latents(
    target: str,
    source: str | None,
    wanted: WantedLatents,
    *,
    checksum: bool,
    memory: SourceMemory = NO_MEMORY,
    mask: FoundMask = NO_MASK,
) -> Verdict:
    """Checks whether the record at `target` is up to date.

    `source` is the path of the image, or None for standard input. `mask` is what --masks has for
    it. `memory` knows sources that were compared with their records before, and learns from this
    check. Raises OutputError if dinac did not write the record, or wrote it in another version of
    the format. Also raises OutputError if the record has another model, precision, background,
    geometry or kind of mask. Raises DamagedImageError if the record is of a damaged image, and if
    the run does not accept that.
    """
    if not os.path.lexists(target):
        return Verdict(State.ABSENT)
    if source is not None and not checksum and is_remembered(target, source, wanted, memory, mask):
        return Verdict(State.DONE)
    if not is_latent_file(target):
        raise refuse_foreign(target)
    try:
        status = os.stat(target)
        outline = _read_outline(target, wanted)
    except FormatError as exc:
        if exc.rejection in _OTHER_VERSION:
            raise OutputError(f"{target}: {exc}; or choose another OUT or add --overwrite") from exc
        return Verdict(State.STALE, f"the output was damaged ({exc})", Cause.DAMAGE)
    except OSError as exc:
        raise OutputError(f"{target}: {describe_read_error(exc)}") from exc
    if outline is None:
        return Verdict(State.STALE, "the output was cut short", Cause.DAMAGE)
    header = outline.header
    if (conflict := wanted.find_conflict(header)) is not None:
        raise OutputError(
            f"{target} holds {conflict.held}; this run uses {conflict.wanted}; "
            "choose another OUT or add --overwrite"
        )
    if source is None:
        return Verdict(State.STALE, "standard input is always encoded")
    if (lack := wanted.describe_lack(outline)) is not None:
        return Verdict(State.STALE, lack)
    if wanted.mask_kind == "files" and (change := compare_mask(header.image, mask, status)):
        return Verdict(State.STALE, _MASK_CHANGES[change], Cause.MASK)
    standing = make_standing(status, wanted, mask)
    is_damaged = wanted.damaged == "fail" and "damaged" in parse_description(header.image)
    current = None if is_damaged else standing
    verdict = _check_source(source, target, header, memory, current, checksum=checksum)
    if verdict.state is State.DONE and is_damaged:
        raise DamagedImageError(
            f"{target} holds latents of a damaged image; restore the image, or add --damaged warn"
        )
    return verdict


def _read_outline(target: str, wanted: WantedLatents) -> Outline | None:
    """Reads the outline of a record. Returns None if the end of the record is missing."""
    with open(target, "rb") as file:
        record = open_record(file)
        outline = record.outline(wanted.tensors, with_twin=wanted.geometry.flip)
        return outline if record.is_whole() else None


def is_stamped_image(path: str) -> bool:
    """True if dinac wrote the image and nobody has changed the image since."""
    from dinac_cli.images.stamp import read_stamp

    return read_stamp(Path(path)) is not None


def check_image(target: str, wanted: WantedImage) -> Verdict:
    """Checks whether the image at `target` comes from the requested record and settings.

    Raises OutputError if dinac did not write the image, or used other settings or weights.
    """
    from dinac_cli.images.stamp import read_stamp

    if not os.path.lexists(target):
        return Verdict(State.ABSENT)
    stamp = read_stamp(Path(target))
    if stamp is None:
        raise refuse_foreign(target)
    if (conflict := wanted.find_conflict(stamp)) is not None:
        raise OutputError(
            f"{target} was decoded with {conflict.held}; this run uses {conflict.wanted}; "
            "choose another OUT or add --overwrite"
        )
    if stamp.get("record") != wanted.record_hash:
        return Verdict(State.STALE, "the record has changed")
    return Verdict(State.DONE)


def find_first_record(out: str) -> tuple[str, RecordHeader, frozenset[str]] | None:
    """Returns the first readable record in OUT, sorted by name, or None.

    A record is its path, its header, and which of `COMPANIONS` it holds. Raises OutputError if OUT
    cannot be listed.
    """
    for path in list_latents(out):
        if not os.path.isfile(path):  # opening a named pipe would wait for a writer
            continue
        try:
            with open(path, "rb") as file:
                outline = open_record(file).outline(COMPANIONS)
                return path, outline.header, frozenset(outline.held)
        except (FormatError, OSError):
            continue
    return None


def list_latents(out: str) -> Iterator[str]:
    """Yields the `.dinac` files in OUT; see `list_files`."""
    return (path for path in list_files(out) if path.lower().endswith(LATENT_SUFFIX))


def list_files(out: str, leave: Callable[[str], bool] = lambda _: False) -> Iterator[str]:
    """Yields the files below the folder `out`. If `out` is not a folder, yields `out`.

    The files are sorted by name; the files of a folder come before those of its subfolders. Skips
    subfolders that cannot be listed, those whose name begins with a dot, because they hold removed
    outputs or belong to other programs, and those for which `leave(path)` is true. Raises
    OutputError if `out` itself cannot be listed: a run that does not see what OUT holds could mix
    settings.
    """

    def refuse(exc: OSError) -> None:
        if exc.filename == out:
            raise OutputError(
                f"{out}: cannot list this folder: {exc.strerror}; "
                "check its permissions, or choose another OUT"
            ) from exc

    if not os.path.isdir(out):
        yield out
        return
    for parent, folders, names in os.walk(out, onerror=refuse):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = (name for name in visible if not leave(os.path.join(parent, name)))
        yield from (os.path.join(parent, name) for name in sorted(names))


def _check_source(
    source: str,
    target: str,
    header: RecordHeader,
    memory: SourceMemory,
    standing: Standing | None,
    *,
    checksum: bool,
) -> Verdict:
    """Checks whether the record belongs to the source as it is now, and to its present reader.

    `standing` is the record, if it meets all other requirements of the run.
    """
    from dinac_cli.images.revisions import current_revision, find_file_rule, read_revision

    status = os.stat(source)
    sighting = memory.identify(target, header.source_sha256, status)
    recall, judged = memory.recall(sighting)
    changed = _find_change(source, target, header, status, recall, checksum=checksum)
    if changed is not None:
        return Verdict(State.STALE, "the source has changed", changed, sighting)
    reader = current_revision()
    if judged < reader:
        rule = find_file_rule(source, since=read_revision(header.image))
        if rule is not None:
            return Verdict(State.STALE, rule.reason, Cause.READER, sighting)
    memory.remember(sighting, reader, standing)
    return Verdict(State.DONE)


def _find_change(
    source: str,
    target: str,
    header: RecordHeader,
    status: os.stat_result,
    recall: Recall,
    *,
    checksum: bool,
) -> Cause | None:
    """Returns what changed in the source since the record was made, or None.

    A source that is not remembered as it is now is hashed: its size and times may be those of
    another file, because `mv`, `cp -p` and `rsync -a` keep them. An anonymous record holds no hash.
    Then the source is unchanged if nothing was remembered and the source is not newer than the
    record.
    """
    if header.source_bytes is not None and status.st_size != header.source_bytes:
        return Cause.SIZE
    if recall is Recall.SAME and not checksum:
        return None
    if header.source_sha256 is not None:
        return None if hash_file(source) == header.source_sha256 else Cause.HASH
    if recall is Recall.SAME:
        return None
    newest = max(status.st_mtime_ns, status.st_ctime_ns)
    is_older = recall is Recall.UNKNOWN and newest <= os.stat(target).st_mtime_ns
    return None if is_older else Cause.TIME
