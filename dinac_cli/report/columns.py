"""A column of a page: the settings and the figures of one folder of reconstructions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np

from dinac_cli.container.header import RecordHeader
from dinac_cli.images.description import parse_description
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.jobs.decode import DecodeOptions, describe_settings
from dinac_cli.models.interface import DinacAEInferenceConfig

_LONGEST_VALUE = 60  # an image from elsewhere may hold a stamp of any length


class Making(NamedTuple):
    """How a reconstruction was made. An unknown value is ""."""

    model: str = ""
    precision: str = ""
    steps: str = ""
    sampler: str = ""


UNKNOWN = Making()


@dataclass(frozen=True)
class Reconstruction:
    """One reconstruction of an image. `record_bytes` is None if the record is unknown.

    `difference` is the URL of a small picture that shows the difference from the original. `full`
    is the URL of the full image. `has_other_record` is true if the image was not decoded from the
    record that was given for it.
    """

    psnr_db: float
    record_bytes: int | None
    difference: str
    full: str
    making: Making = UNKNOWN
    has_other_record: bool = False


@dataclass
class Column:
    """The settings and the figures of the reconstructions in one folder.

    `rates` are the points (bits per pixel, PSNR in dB) of the images whose record is known and
    whose PSNR is finite. `size_bytes` and `pixels` are the totals of the images whose record is
    known; `records` is their number. `missing` counts the originals without a reconstruction.
    `other_records` counts the reconstructions with `has_other_record`.
    """

    name: str
    psnr_db: list[float] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)
    makings: set[Making] = field(default_factory=set)
    size_bytes: int = 0
    pixels: int = 0
    records: int = 0
    missing: int = 0
    other_records: int = 0

    def add(self, found: Reconstruction, pixels: int) -> None:
        """Adds a reconstruction of an image with this number of pixels."""
        self.psnr_db.append(found.psnr_db)
        self.makings.add(found.making)
        self.other_records += found.has_other_record
        if found.record_bytes is None:
            return
        self.records += 1
        self.size_bytes += found.record_bytes
        self.pixels += pixels
        if math.isfinite(found.psnr_db):
            self.rates.append((8 * found.record_bytes / pixels, found.psnr_db))

    @property
    def bits_per_pixel(self) -> float | None:
        """All bits divided by all pixels, or None if no record is known."""
        return 8 * self.size_bytes / self.pixels if self.records else None

    @property
    def centre(self) -> tuple[float, float] | None:
        """The bits per pixel of the column, and the mean PSNR of `rates`."""
        if self.bits_per_pixel is None or not self.rates:
            return None
        return self.bits_per_pixel, float(np.mean([psnr_db for _, psnr_db in self.rates]))

    def describe_making(self) -> Making:
        """Returns the settings of all reconstructions. If values differ, their text is "mixed"."""
        return Making(*(_summarise(values) for values in zip(*self.makings, strict=True)))

    def describe_rate(self) -> str:
        """Returns the bits per pixel as text, and how many images they cover if not all."""
        if self.bits_per_pixel is None:
            return ""
        count = len(self.psnr_db)
        part = "" if self.records == count else f" ({self.records} of {count})"
        return f"{self.bits_per_pixel:.2f}{part}"


def describe_making(stamp: Mapping[str, str] | None, header: RecordHeader | None) -> Making:
    """Returns how an image was made. `stamp` is the image's stamp, `header` is its record's."""
    settings = parse_description((stamp or {}).get("settings", ""))
    steps = settings.pop("steps", "")
    making = Making(
        _name_model((stamp or {}).get("weights", ""), header),
        "" if header is None else header.precision,
        steps,
        ", ".join(_list_settings(settings)),
    )
    return Making(*(value[:_LONGEST_VALUE] for value in making))


def _name_model(weights: str, header: RecordHeader | None) -> str:
    """Names the model of the record, and the decoder's weights if they are not the record's."""
    if header is None:
        return f"weights {weights}" if weights else ""
    model = header.model or f"weights {header.weights}"
    is_other = weights not in ("", header.weights)
    return f"{model}, decoded with weights {weights}" if is_other else model


def _list_settings(settings: Mapping[str, str]) -> list[str]:
    """Returns the sampler, and each other setting that is not the default of decode."""
    defaults = _describe_defaults()
    sampler = settings.get("sampler")
    others = [
        f"{key} {value}"
        for key, value in settings.items()
        if key != "sampler" and value != defaults.get(key)
    ]
    return ([sampler] if sampler else []) + others


@cache
def _describe_defaults() -> Mapping[str, str]:
    """Returns the settings of a decode command without options."""
    settings = DinacAEInferenceConfig(seed=0)
    options = DecodeOptions(settings=settings, format=OUTPUT_FORMATS["png"])
    return parse_description(describe_settings(options))


def _summarise(values: Iterable[str]) -> str:
    known = set(values)
    return known.pop() if len(known) == 1 else "mixed"
