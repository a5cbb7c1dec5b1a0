"""The size of records against the order-0 entropy of the bytes they store."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dinac_cli.container.frame import PREAMBLE, BytesSource, take_preamble
from dinac_cli.container.header import PRECISIONS
from dinac_cli.container.layout import read_layout
from dinac_cli.container.record import read_header, unpack_record
from dinac_cli.container.tensors import FLIPPED, STEP
from dinac_cli.container.zstd import decompress_content, take_head

_FLOAT_BYTES = 4


@dataclass
class Rate:
    """Sizes pooled over the records of one precision; all counts are exact.

    `payload_bytes` counts the compressed blocks after the header's, without the frame's checksum.
    `histograms` count the stored bytes of each plane (float32: of each of its four bytes), of the
    companions too.
    """

    records: int = 0
    values: int = 0
    pixels: int = 0
    record_bytes: int = 0
    payload_bytes: int = 0
    histograms: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    @property
    def bits_per_pixel(self) -> float:
        """Bits of whole records per pixel of the images."""
        return 8 * self.record_bytes / self.pixels

    @property
    def payload_bits(self) -> float:
        """Payload bits per latent value."""
        return 8 * self.payload_bytes / self.values

    @property
    def entropy_bits(self) -> float:
        """Order-0 entropy of the stored bytes in bits per latent value, summed over planes."""
        total = sum(_count_bits(histogram) for histogram in self.histograms.values())
        return total / self.values

    @property
    def overhead_bytes(self) -> float:
        """Mean bytes per record that are not payload."""
        return (self.record_bytes - self.payload_bytes) / self.records


def measure_rates(records: Iterable[bytes]) -> dict[str, Rate]:
    """Measures the rate of each precision over whole records. Raises FormatError."""
    rates: dict[str, Rate] = {}
    for data in records:
        header = read_header(data)
        rate = rates.setdefault(header.precision, Rate())
        rate.records += 1
        rate.values += _count_latents(data) * math.prod(header.shape)
        rate.pixels += header.height * header.width
        rate.record_bytes += len(data)
        rate.payload_bytes += _measure_payload(data)
        _count_bytes(data, rate.histograms)
    return rates


def _count_latents(data: bytes) -> int:
    """Returns 2 if the record holds the latents of a mirrored twin too, otherwise 1."""
    return 1 if unpack_record(data, with_twin=True).flipped is None else 2


def _measure_payload(data: bytes) -> int:
    """Returns the compressed bytes after the header's blocks."""
    source = BytesSource(data)
    take_preamble(source)
    take_head(source)
    return len(data) - source.position - 4  # the checksum ends the frame


def _count_bytes(data: bytes, histograms: dict[str, npt.NDArray[np.int64]]) -> None:
    content = decompress_content(memoryview(data)[len(PREAMBLE) :])
    size = 8 + int.from_bytes(content[:8], "little")
    stored = np.frombuffer(content, np.uint8)
    for full_name, entry in read_layout(content[:size]).tensors.items():
        name = full_name.removeprefix(FLIPPED)
        if name == STEP:  # one number per channel: no symbols
            continue
        plane = stored[size + entry.begin : size + entry.end]
        width = _FLOAT_BYTES if entry.dtype == "F32" else 1
        for byte in range(width):
            counts = np.bincount(plane[byte::width], minlength=256)
            key = f"{name}.{byte}"
            histograms[key] = histograms.get(key, np.zeros(256, np.int64)) + counts


def _count_bits(histogram: npt.NDArray[np.int64]) -> float:
    counts = histogram[histogram > 0].astype(np.float64)
    return float(-(counts * np.log2(counts / counts.sum())).sum())


_COLUMNS = ("precision", "records", "bits/pixel", "payload", "entropy", "ratio", "overhead")


def format_rates(rates: dict[str, Rate]) -> list[str]:
    """Formats a table: payload and entropy in bits per value, overhead in bytes per record."""
    rows = [_COLUMNS]
    for precision in sorted(rates, key=PRECISIONS.index):
        rate = rates[precision]
        ratio = rate.payload_bits / rate.entropy_bits
        rows.append(
            (
                precision,
                str(rate.records),
                f"{rate.bits_per_pixel:.3f}",
                f"{rate.payload_bits:.3f}",
                f"{rate.entropy_bits:.3f}",
                f"{ratio:.3f}",
                f"{rate.overhead_bytes:.0f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def _read_records(folders: list[str]) -> Iterator[bytes]:
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.dinac")):
            yield path.read_bytes()


if __name__ == "__main__":
    for line in format_rates(measure_rates(_read_records(sys.argv[1:]))):
        print(line)
