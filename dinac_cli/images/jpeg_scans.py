"""Reads the markers of a JPEG (ITU-T T.81, annex B), without decoding its coefficients.

All functions stop at the end marker or at the end of the data. They raise IndexError, KeyError or
ValueError if the headers contradict themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

END_OF_IMAGE = b"\xff\xd9"
"""The marker that ends a JPEG."""

_START_OF_IMAGE = b"\xff\xd8"
# Stuffed zeros and restart markers belong to the coded data.
_NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_MARKER_START = 0xFF
_SOS, _EOI, _DHT = 0xDA, 0xD9, 0xC4
_HEADER_MARKERS = bytes({*range(0xC0, 0xD0), *range(0xDA, 0xFE)})
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_ARITHMETIC = set(range(0xC9, 0xD0)) - {0xCC}
_USUAL_FRAMES = {0xC0, 0xC1, 0xC2}
_PLAIN_COMPONENTS = 3
_CONVERTING = {0xE1, 0xE2, 0xEE}  # EXIF and XMP; ICC and further images; Adobe's colour transform
_METADATA = {*range(0xE0, 0xF0), 0xFE}

_COEFFICIENTS = frozenset(range(64))
_ZERO_RUN = bytes(64)


class _Segment(NamedTuple):
    """A marker, and where it and its parameters (`body`) start and end.

    The coded data of a scan starts at `end`, and ends at `_find_scan_end`.
    """

    marker: int
    start: int
    body: int
    end: int


@dataclass(frozen=True)
class _Scan:
    """The header of a scan: (component, AC table) pairs, coefficients, and their bits.

    A scan sends the bits of the coefficients `first` to `last` down to bit `low`.
    """

    components: tuple[tuple[int, int], ...]
    first: int
    last: int
    low: int


class PlainJpeg(NamedTuple):
    """A JPEG whose pixels need no conversion to upright sRGB.

    It has the components Y, Cb and Cr of 8 bits, and no EXIF, XMP, ICC profile, further image or
    Adobe marker. If `has_one_scan` is set, its first scan is the whole picture.
    """

    size: tuple[int, int]
    has_one_scan: bool


def find_plain_jpeg(data: bytes) -> PlainJpeg | None:
    """Reads the headers of a JPEG. Returns None if it is not plain, or no JPEG.

    Follows the lengths of the segments, which is faster than `_list_segments`. A JPEG with other
    bytes between its segments is not plain.
    """
    if not data.startswith(_START_OF_IMAGE):
        return None
    at, size, sequential = 2, None, False
    try:
        while data[at] == 0xFF:
            marker, end = data[at + 1], at + 2 + (data[at + 2] << 8 | data[at + 3])
            if marker == _SOS:
                whole = sequential and data[at + 4] == _PLAIN_COMPONENTS
                return None if size is None else PlainJpeg(size, whole)
            is_segment = 0xC0 <= marker <= 0xFE and not 0xD0 <= marker <= _EOI
            if not is_segment or end < at + 4 or marker in _CONVERTING:
                return None
            if marker in _FRAMES:
                if size is not None or marker not in _USUAL_FRAMES:
                    return None
                size, sequential = _read_usual_size(data[at + 4 : end]), marker not in _PROGRESSIVE
            at = end
    except IndexError:
        pass
    return None


def _read_usual_size(frame: bytes) -> tuple[int, int] | None:
    depth, ids = frame[0], frame[6::3]
    width, height = int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big")
    is_usual = depth == 8 and frame[5] == _PLAIN_COMPONENTS and ids == b"\1\2\3"
    return (width, height) if is_usual and width and height else None


def holds_all_scans(data: bytes) -> bool:
    """True if the scans hold all components and, if progressive, all bits of all coefficients.

    Does not check that the scans themselves are complete. Of a sequential JPEG of one scan, reads
    only the headers.
    """
    lacking: dict[int, set[int]] = {}  # for each component, the coefficients that lack bits
    progressive = False
    for segment in _list_segments(data):
        if segment.marker in _FRAMES:
            progressive = segment.marker in _PROGRESSIVE
            first, count = segment.body + 6, data[segment.body + 5]
            lacking = {data[first + 3 * k]: set(_COEFFICIENTS) for k in range(count)}
        elif segment.marker == _SOS:
            scan = _read_scan(data, segment)
            sent = range(scan.first, scan.last + 1) if progressive else _COEFFICIENTS
            for component, _ in scan.components:
                if progressive and scan.low:
                    lacking[component].update(sent)
                else:
                    lacking[component].difference_update(sent)
            if not any(lacking.values()):
                return True
    return False


def holds_zero_run(data: bytes) -> bool:
    """True if there are 64 zero bytes in a row, as in every JPEG that was zeroed in part."""
    return _ZERO_RUN in data


def holds_zeroed_data(data: bytes) -> bool:
    """True if coded data was overwritten with zeros: 64 zero bytes that no encoder writes.

    Zeros are the first code of a Huffman table, again and again. If this code ends a block, the
    picture is flat, and the zeros are sound. If it is a coefficient, then all coefficients of
    several blocks would have the same value, which no picture has.
    """
    if not holds_zero_run(data):
        return False
    first_codes: dict[int, int] = {}
    for segment in _list_segments(data):
        if segment.marker in _ARITHMETIC:
            return False
        if segment.marker == _DHT:
            first_codes.update(_read_first_codes(data[segment.body : segment.end]))
        elif segment.marker == _SOS and _holds_zeros(data, segment.end):
            scan = _read_scan(data, segment)
            # Scans of the first coefficient only may send any bits.
            if scan.last and any(first_codes[0x10 + table] & 15 for _, table in scan.components):
                return True
    return False


def is_arithmetic(data: bytes) -> bool:
    """True if the coefficients are coded arithmetically, and not with Huffman codes."""
    return any(segment.marker in _ARITHMETIC for segment in _list_segments(data))


def strip_metadata(data: bytes) -> bytes:
    """Returns a JPEG of the same coded picture without metadata, and with usual parameters.

    Of a sequential JPEG, the last three bytes of each scan header have only one valid value.
    """
    parts = [data[:2]]
    progressive = False
    for segment in _list_segments(data):
        if segment.marker in _METADATA:
            continue
        progressive = progressive or segment.marker in _PROGRESSIVE
        part = data[segment.start : segment.end]
        if segment.marker == _SOS:
            usual = part if progressive else part[:-3] + b"\x00\x3f\x00"
            part = usual + data[segment.end : _find_scan_end(data, segment.end)]
        parts.append(part)
    return b"".join(parts) + (END_OF_IMAGE if END_OF_IMAGE in data else b"")


def _list_segments(data: bytes) -> Iterator[_Segment]:
    at = 2  # after the start marker
    while (start := _find_marker(data, at)) >= 0:
        marker = data[start + 1]
        if marker == _EOI:
            return
        if marker in _STANDALONE:
            at = start + 2
            continue
        end = start + 2 + max(2, int.from_bytes(data[start + 2 : start + 4], "big"))
        yield _Segment(marker, start, start + 4, end)
        at = end  # the search passes over coded data


def _find_marker(data: bytes, at: int) -> int:
    """Returns where the next marker starts, from `at` on; -1 if there is none."""
    pair = data[at : at + 2]
    if len(pair) == 2 and pair[0] == _MARKER_START and pair[1] in _HEADER_MARKERS:
        return at  # the usual case after a segment; a search takes longer
    found = _NEXT_MARKER.search(data, at)
    return -1 if found is None else found.end() - 2


def _find_scan_end(data: bytes, start: int) -> int:
    after = _NEXT_MARKER.search(data, start)
    return len(data) if after is None else after.start()


def _holds_zeros(data: bytes, start: int) -> bool:
    return data.find(_ZERO_RUN, start, _find_scan_end(data, start)) >= 0


def _read_scan(data: bytes, segment: _Segment) -> _Scan:
    count, at = data[segment.body], segment.body + 1
    components = tuple((data[at + 2 * k], data[at + 2 * k + 1] & 15) for k in range(count))
    first, last, bits = data[at + 2 * count : at + 2 * count + 3]
    return _Scan(components, first, last, bits & 15)


def _read_first_codes(body: bytes) -> Iterator[tuple[int, int]]:
    """Yields the class and number of each Huffman table, and the symbol of its first code."""
    at = 0
    while at < len(body):
        yield body[at], body[at + 17]
        at += 17 + sum(body[at + 1 : at + 17])
