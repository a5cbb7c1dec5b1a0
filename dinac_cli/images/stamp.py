"""The stamp: metadata in a decoded image that identifies its record and the decoding settings.

A stamp is a JSON object of strings. A PNG holds it in an iTXt chunk, a PPM in a comment, a BMP
after the pixels, and other formats in an XMP property. The stamp also holds the size of the image
file. Image editors keep the metadata when they change an image. Therefore a wrong size shows that
the image was truncated or edited after dinac wrote it.
"""

from __future__ import annotations

import html
import io
import json
import re
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from dinac_cli.errors import ImageError
from dinac_cli.images.formats import HEAD_BYTES, OUTPUT_FORMATS, detect_format
from dinac_cli.images.opening import open_image

_KEY = "dinac"
_SIZE_KEY = "file_bytes"
_SIZE_UNSET = "?" * 12  # a placeholder that has the length of a real size
_STAMPED_FORMATS = {form.pillow for form in OUTPUT_FORMATS.values()}
_STAMP_PROPERTY = re.compile(rb'dinac:stamp="([^"]*)"')
_STAMP_LINE = re.compile(rb"(?:# )?dinac (\{.*\})\n")
_LONGEST_LINE = 1 << 16


def _pack_itxt(text: str) -> bytes:
    # The fields are: keyword, NUL, "not compressed" (two bytes), empty language, empty translation.
    content = b"iTXt" + _KEY.encode() + b"\x00\x00\x00\x00\x00" + text.encode()
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


_PPM_PLACE = len(b"P6\n")
# How a format without XMP holds a stamp: the place in the file, and the bytes for the JSON.
_INSERTED: Mapping[str, tuple[int, Callable[[str], bytes]]] = {
    "PNG": (33, _pack_itxt),  # after the signature and the chunk IHDR, which is always the first
    "PPM": (_PPM_PLACE, lambda text: f"# {_KEY} {text}\n".encode()),
    "BMP": (sys.maxsize, lambda text: f"{_KEY} {text}\n".encode()),  # at the end
}
INSERTED_FORMATS = tuple(_INSERTED)
"""The formats, by their names in Pillow, whose stamp `insert_stamp` adds to the written file."""


def insert_stamp(data: bytes, form: str, stamp: Mapping[str, str]) -> bytes:
    """Inserts `stamp` into `data`, an image file in one of `INSERTED_FORMATS`."""
    place, pack = _INSERTED[form]
    size = len(data) + len(pack(_pack(stamp, _SIZE_UNSET)))
    inserted = pack(_pack(stamp, _format_size(size)))
    if form == "BMP":  # its header holds the size of the file
        data = data[:2] + struct.pack("<I", size) + data[6:]
    return data[:place] + inserted + data[place:]


def pack_xmp(stamp: Mapping[str, str], size: str = _SIZE_UNSET) -> bytes:
    """Returns an XMP packet with `stamp`. `seal_xmp` later sets the file size in this packet."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dinac="urn:dinac:0"'
        f' dinac:stamp="{html.escape(_pack(stamp, size))}"/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


def seal_xmp(data: bytes, stamp: Mapping[str, str]) -> bytes:
    """Sets the file size in the stamp of `data`, a file that holds `pack_xmp(stamp)`."""
    return data.replace(pack_xmp(stamp), pack_xmp(stamp, _format_size(len(data))), 1)


def _pack(stamp: Mapping[str, str], size: str) -> str:
    # The text is ASCII and has sorted keys, so that equal stamps give equal bytes.
    return json.dumps({**stamp, _SIZE_KEY: size}, sort_keys=True, separators=(",", ":"))


def _format_size(size_bytes: int) -> str:
    return str(size_bytes).zfill(len(_SIZE_UNSET))


def read_stamp(source: bytes | Path | IO[bytes]) -> dict[str, str] | None:
    """Returns the stamp of an image that dinac wrote, without decoding the pixels.

    `source` is the content of the file, its path, or the open file, at its start. Returns None if
    the file cannot be read, is not an image, has no stamp, or was changed after dinac wrote it.
    """
    if isinstance(source, bytes):
        # Every stamp names dinac in plain bytes. To search them is much faster than to open a file.
        return read_stamp(io.BytesIO(source)) if _KEY.encode() in source else None
    try:
        if isinstance(source, Path):
            if not source.is_file():  # a named pipe would wait for a writer
                return None
            with source.open("rb") as file:
                return read_stamp(file)
        return _parse(_find(source), source.seek(0, io.SEEK_END))
    except (OSError, ImageError):
        return None


def _find(file: IO[bytes]) -> bytes | None:
    """Returns the JSON of the stamp from an image file's header, or None."""
    head = file.read(HEAD_BYTES)
    form = detect_format(head)
    if form not in _STAMPED_FORMATS:
        return None
    if form == "PPM":
        return _find_line(file, _PPM_PLACE)
    if form == "BMP" and len(head) == HEAD_BYTES:
        pixels, pixel_bytes = struct.unpack_from("<10xI20xI", head)
        return _find_line(file, pixels + pixel_bytes)
    file.seek(0)
    with open_image(file) as opened:
        text, xmp = opened.info.get(_KEY), opened.info.get("xmp")
    if opened.format == "PNG" and isinstance(text, str):
        return text.encode()
    if isinstance(xmp, bytes) and (found := _STAMP_PROPERTY.search(xmp)):
        return html.unescape(found[1].decode("ascii", "replace")).encode()
    return None


def _find_line(file: IO[bytes], place: int) -> bytes | None:
    file.seek(place)
    line = _STAMP_LINE.match(file.read(_LONGEST_LINE))
    return None if line is None else line[1]


def _parse(text: bytes | None, size_bytes: int) -> dict[str, str] | None:
    try:
        stamp = json.loads(text or b"null")
    except (ValueError, RecursionError):
        return None
    if not isinstance(stamp, dict) or not all(isinstance(v, str) for v in stamp.values()):
        return None
    return stamp if stamp.pop(_SIZE_KEY, None) == _format_size(size_bytes) else None
