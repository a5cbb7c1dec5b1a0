"""What OUT already holds: the first record or image, whose settings a run follows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinac_cli.container.header import RecordHeader
from dinac_cli.errors import ImageError, UsageError
from dinac_cli.images.damage import DamageChoice
from dinac_cli.images.description import parse_description
from dinac_cli.images.formats import OUTPUT_FORMATS, OutputFormat, format_of_suffix
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry, find_geometry, read_geometry
from dinac_cli.images.hdr import read_hdr
from dinac_cli.images.stamp import read_stamp
from dinac_cli.jobs.freshness import NO_STEPS, SETTINGS, STEPS, find_first_record, list_files
from dinac_cli.jobs.image_masks import MaskKind, read_mask_kind
from dinac_cli.jobs.request import Announce
from dinac_cli.models.interface import DinacAEInferenceConfig
from dinac_cli.storage.output import Output

DEFAULT_SETTINGS = DinacAEInferenceConfig(seed=0)
"""How decode works by default: one step, with seed 0."""

_IMAGES_LOOKED_AT = 64
_COMPOSITED = re.compile("composited-#([0-9a-f]{6})")
_INTEGER = re.compile("-?[0-9]{1,20}")
_NUMBER = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,9})?(e[+-][0-9]{2,3})?")


@dataclass(frozen=True)
class HeldRecord:
    """The first readable record in OUT, sorted by name.

    `companions` says which of `tensors.COMPANIONS` the record holds.
    """

    path: str
    header: RecordHeader
    companions: frozenset[str] = frozenset()

    @property
    def background(self) -> tuple[int, int, int] | None:
        """The colour behind the transparent image; None if the image was opaque."""
        return read_background(self.header)

    @property
    def hdr(self) -> str | None:
        """How the HDR image became SDR; None if the image was not HDR."""
        return read_hdr(self.header.image)

    @property
    def damaged(self) -> DamageChoice:
        """How the run that made the record treated damaged images; "fail" if the image is sound."""
        return read_damage_choice(self.header)

    @property
    def mask_kind(self) -> MaskKind:
        """Where the mask of the record comes from."""
        return read_mask_kind(self.header.image)

    @property
    def geometry(self) -> Geometry:
        """The geometry of the record. If it is invalid, returns NO_GEOMETRY."""
        try:
            return read_geometry(find_geometry(self.header.image))
        except ImageError:
            return NO_GEOMETRY


@dataclass(frozen=True)
class HeldImage:
    """The first image in OUT that dinac decoded, sorted by name, and how it was decoded.

    `quality` is None for the default quality of the format.
    """

    path: str
    settings: DinacAEInferenceConfig
    flipped: bool
    quality: int | None
    format: OutputFormat


DEFAULT_IMAGE = HeldImage("", DEFAULT_SETTINGS, False, None, OUTPUT_FORMATS["png"])
"""What decode follows if OUT holds no image that dinac decoded."""


def find_held_record(output: Output) -> HeldRecord | None:
    """Returns the record in OUT that a run follows.

    Returns None if OUT holds no readable record, or if the run keeps no existing output. Raises
    OutputError if OUT cannot be listed.
    """
    found = find_first_record(output.path) if output.keeps_existing else None
    return None if found is None else HeldRecord(*found)


def find_held_image(output: Output, wanted: OutputFormat | None) -> HeldImage | None:
    """Returns the image in OUT that a run follows: if possible, one of the `wanted` format.

    Looks at the first 64 images only: OUT may be a large folder of images that dinac did not write.
    Returns None if dinac decoded none of these images, or if the run keeps no existing output.
    Raises OutputError if OUT cannot be listed.
    """
    if not output.keeps_existing:
        return None
    named = itertools.islice(_list_images(output.path), _IMAGES_LOOKED_AT)
    first = None
    for image in filter(None, itertools.starmap(_read_image, named)):
        if wanted in (None, image.format):
            return image
        first = first or image
    return first


def _list_images(out: str) -> Iterator[tuple[str, OutputFormat]]:
    """Yields the files below a folder, or the file `out`, whose names end like an output format."""
    for path in list_files(out):
        form = format_of_suffix(path)
        if form is not None:
            yield path, form


def _read_image(path: str, form: OutputFormat) -> HeldImage | None:
    """Returns the image, or None if dinac did not decode it.

    Also returns None if a request cannot ask for the settings in its stamp.
    """
    stamp = read_stamp(Path(path))
    parsed = None if stamp is None else _parse_settings(stamp.get("settings", ""))
    if parsed is None:
        return None
    settings, flipped, quality = parsed
    if quality is not None and not form.accepts_quality(quality):
        return None
    return HeldImage(path, settings, flipped, quality, form)


def _parse_settings(text: str) -> tuple[DinacAEInferenceConfig, bool, int | None] | None:
    """Parses the settings in a stamp; also returns whether the image is mirrored, and the quality.

    An image of a decoder without steps has the default settings of the diffusion. Returns None if a
    request cannot ask for these settings.
    """
    try:
        pairs = parse_description(text, strict=True)
        image = pairs.pop("image", "upright")
        quality = _parse_integer(pairs.pop("quality")) if "quality" in pairs else None
        if image not in ("upright", "flipped"):
            return None
        if pairs == {STEPS: NO_STEPS}:
            return DEFAULT_SETTINGS, image == "flipped", quality
        if pairs.keys() != set(SETTINGS):
            return None
        guidance = pairs["guidance"]
        is_guided = guidance != "off"
        settings = DinacAEInferenceConfig(
            num_steps=_parse_integer(pairs["steps"]),
            sampler=pairs["sampler"],
            schedule=pairs["schedule"],
            pdg=is_guided,
            pdg_strength=_parse_number(guidance) if is_guided else DEFAULT_SETTINGS.pdg_strength,
            strength=_parse_number(pairs["strength"]),
            seed=_parse_integer(pairs["seed"]),
        )
    except (ValueError, UsageError):
        return None
    return settings, image == "flipped", quality


def _parse_integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{text[:40]!a} is not an integer")
    return int(text)


def _parse_number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!a} is not a number")
    return float(text)


def read_background(header: RecordHeader) -> tuple[int, int, int] | None:
    """Returns the colour that the image was composited over; None if the image was opaque."""
    match = _COMPOSITED.fullmatch(parse_description(header.image).get("alpha", ""))
    if match is None:
        return None
    red, green, blue = bytes.fromhex(match[1])
    return red, green, blue


def read_damage_choice(header: RecordHeader) -> DamageChoice:
    """Returns "warn" if a record was encoded from a damaged image, else "fail"."""
    return "warn" if "damaged" in parse_description(header.image) else "fail"


def announce_followed(
    held: HeldRecord | HeldImage | None, options: Sequence[str], announce: Announce
) -> None:
    """Announces in one line the options that a run takes from `held`, if there are any."""
    if held is not None and options:
        announce(f"following {held.path}: {' '.join(options)}")
