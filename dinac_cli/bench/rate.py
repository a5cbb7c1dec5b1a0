"""Compares the size of records with the order-0 entropy of their uncompressed bytes."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dinac_cli.container.frame import CHECKSUM_BYTES, PREAMBLE, FileSource, take_preamble
from dinac_cli.container.header import PRECISIONS
from dinac_cli.container.layout import read_layout
from dinac_cli.container.record import unpack_record
from dinac_cli.container.tensors import FLIPPED, STEP
from dinac_cli.container.zstd import decompress_content, take_head


@dataclass
class Rate:
    """The total size of all records that have the same precision.

    `payload_bytes` is the size of the compressed blocks that follow the header, without the
    checksum. `histograms` has one histogram of byte values for each plane of the latents and of the
    tensors stored with them. A float32 tensor has four planes.
    """

    records: int = 0
    values: int = 0
    pixels: int = 0
    record_bytes: int = 0
    payload_bytes: int = 0
    histograms: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    @property
    def bits_per_pixel(self) -> float:
        """The size of the records in bits, divided by the number of pixels."""
        return 8 * self.record_bytes / self.pixels

    @property
    def payload_bits(self) -> float:
        """The size of the payload in bits, divided by the number of latent values."""
        return 8 * self.payload_bytes / self.values

    @property
    def entropy_bits(self) -> float:
        """The sum of the order-0 entropies of all planes, in bits per latent value."""
        return sum(map(_count_bits, self.histograms.values())) / self.values

    @property
    def overhead_bytes(self) -> float:
        """The mean size of a record without its payload, in bytes."""
        return (self.record_bytes - self.payload_bytes) / self.records


def measure_rates(records: Iterable[bytes]) -> dict[str, Rate]:
    """Measures records. Returns one `Rate` for each precision. Raises FormatError."""
    rates: dict[str, Rate] = {}
    for data in records:
        record = unpack_record(data, with_twin=True)
        header = record.header
        rate = rates.setdefault(header.precision, Rate())
        rate.records += 1
        rate.values += record.latents.size * (1 if record.flipped is None else 2)
        rate.pixels += header.height * header.width
        rate.record_bytes += len(data)
        _count_bytes(data, rate)
    return rates


def _count_bytes(data: bytes, rate: Rate) -> None:
    """Adds the payload size and the byte histograms of a record to `rate`."""
    file = io.BytesIO(data)
    source = FileSource(file)
    take_preamble(source)
    head, _ = take_head(source)
    rate.payload_bytes += len(data) - file.tell() - CHECKSUM_BYTES
    content = decompress_content(memoryview(data)[len(PREAMBLE) :])
    stored = np.frombuffer(content, np.uint8)[len(head) :]
    for full_name, entry in read_layout(head).tensors.items():
        name = full_name.removeprefix(FLIPPED)
        if name == STEP:  # STEP has one number per channel and no planes
            continue
        width = 4 if entry.dtype == "F32" else 1
        for byte in range(width):
            counts = np.bincount(stored[entry.begin + byte : entry.end : width], minlength=256)
            key = f"{name}.{byte}"
            rate.histograms[key] = rate.histograms.get(key, 0) + counts


def _count_bits(histogram: npt.NDArray[np.int64]) -> float:
    counts = histogram[histogram > 0].astype(np.float64)
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def format_rates(rates: dict[str, Rate]) -> list[str]:
    """Returns a table. Payload and entropy are in bits per value, overhead in bytes per record."""
    rows: list[tuple[str, ...]] = [
        ("precision", "records", "bits/pixel", "payload", "entropy", "ratio", "overhead")
    ]
    for precision in sorted(rates, key=PRECISIONS.index):
        rate = rates[precision]
        bits = (rate.bits_per_pixel, rate.payload_bits, rate.entropy_bits)
        figures = (f"{figure:.3f}" for figure in (*bits, rate.payload_bits / rate.entropy_bits))
        rows.append((precision, str(rate.records), *figures, f"{rate.overhead_bytes:.0f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.rjust, row, widths)) for row in rows]


if __name__ == "__main__":
    paths = [path for folder in sys.argv[1:] for path in sorted(Path(folder).rglob("*.dinac"))]
    print(*format_rates(measure_rates(path.read_bytes() for path in paths)), sep="\n")
