"""Prints what folders of records cost: `python -m dinac_cli.commands.rate FOLDER...`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from dinac_cli.container.header import PRECISIONS
from dinac_cli.container.rate import Rate, measure_rates

_COLUMNS = ("precision", "records", "bits/pixel", "payload", "entropy", "ratio", "overhead")


def format_rates(rates: dict[str, Rate]) -> list[str]:
    """A table: payload and entropy in bits a latent value, overhead in bytes a record."""
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
