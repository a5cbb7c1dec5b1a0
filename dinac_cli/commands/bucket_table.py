"""The number of images in each aspect-ratio bucket, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dinac_cli.commands.screen.tables import align


def describe_buckets(buckets: Mapping[tuple[int, int], int]) -> Iterator[str]:
    """Yields a table of the number of images of each (width, height), the most frequent first."""
    if not buckets:
        return
    rows = [["bucket", "images"]]
    for (width, height), count in sorted(buckets.items(), key=lambda item: (-item[1], item[0])):
        rows.append([f"{width}x{height}", str(count)])
    yield from align(rows)


def buckets_to_json(buckets: Mapping[tuple[int, int], int]) -> list[dict[str, int]]:
    """Returns the number of images of each size, sorted by size."""
    return [
        {"width": width, "height": height, "images": count}
        for (width, height), count in sorted(buckets.items())
    ]
