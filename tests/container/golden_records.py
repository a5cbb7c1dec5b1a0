"""The golden records that pin format version 1, and how they were made.

    python -m tests.container.golden_records

writes missing golden records and never replaces one: the bytes of a frozen format do not change.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from dinac_cli.container.frame import PREAMBLE
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import pack_record, unpack_record

from .hand_made import head_of, make_header, record_of, tensor

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "records"
INDEX = FOLDER / "index.json"
SHAPE = (3, 3, 5)
FILL = 0.75  # every value of the reserved tensors

Latents = npt.NDArray[np.float32]


def golden_latents() -> Latents:
    """Returns the latents [3, 3, 5] of every golden record: multiples of 1/16 from -3.5 to 3.5,
    a zero of each sign, a very small value and a large one."""
    values = ((np.arange(45) * 29) % 113 - 56) / 16.0
    latents = values.astype(np.float32).reshape(SHAPE)
    latents[0, 0, :4] = 0.0, -0.0, 1e-30, 200.0
    return latents


def golden_steps(kind: str) -> npt.NDArray[np.float32] | None:
    """Returns the steps of a quantised kind: `q8` gives wide symbols, `q5` bytes, `q3` nibbles."""
    scale = {"q8": 0.01, "q5": 2.0, "q3": 32.0}.get(kind)
    return None if scale is None else np.array([scale, scale * 1.5, scale * 2], np.float32)


def golden_header(kind: str) -> RecordHeader:
    """Returns the header of a kind; `anonymous` has no name or source, `reserved` stores bf16."""
    if kind == "anonymous":
        return make_header(SHAPE, "bf16", name="", source_bytes=None, source_sha256=None)
    precision = "bf16" if kind == "reserved" else kind
    return make_header(SHAPE, precision, name="Fotos/Blüte 7.jpg", step="model")


KINDS = ("f32", "bf16", "q8", "q5", "q3", "anonymous", "reserved")


def build_record(kind: str) -> bytes:
    """Returns a record of a kind, as the current code writes it."""
    record = pack_record(golden_header(kind), golden_latents(), golden_steps(kind))
    return _add_reserved(record) if kind == "reserved" else record


def content_of(record: bytes) -> bytes:
    """Returns the decompressed content of a record's zstd frame."""
    return zstandard.ZstdDecompressor().decompress(record[len(PREAMBLE) :])


def describe(record: bytes) -> dict[str, Any]:
    """Returns what the index pins: hashes of file and content, the header, and exact latents."""
    unpacked = unpack_record(record)
    header = {**vars(unpacked.header), "shape": list(unpacked.header.shape)}
    return {
        "file_sha256": hashlib.sha256(record).hexdigest(),
        "content_sha256": hashlib.sha256(content_of(record)).hexdigest(),
        "header": {key: value for key, value in header.items() if value},
        "latents": [value.hex() for value in unpacked.latents.ravel().tolist()],
    }


def _add_reserved(record: bytes) -> bytes:
    """Returns the record with every tensor added whose name the format reserves."""
    content = content_of(record)
    size = 8 + int.from_bytes(content[:8], "little")
    header, payload = json.loads(content[8:size]), content[size:]
    own = dict(header)
    del own["__metadata__"]
    shapes = {"posterior.logsnr": list(SHAPE), "class_token": [8], "spatial_tokens": [15, 8]}
    shapes |= {f"flipped.{name}": shape for name, shape in shapes.items()}
    for name, entry in own.items():
        begin, end = entry["data_offsets"]
        header[f"flipped.{name}"] = tensor(
            entry["dtype"], entry["shape"], len(payload), len(payload) + end - begin
        )
        payload += payload[begin:end]
    for name, shape in shapes.items():
        data = np.full(shape, FILL, "<f4").tobytes()
        header[name] = tensor("F32", shape, len(payload), len(payload) + len(data))
        payload += data
    return record_of(head_of(json.dumps(header)) + payload)


def main() -> None:
    """Writes the missing records, and the index of all records."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    index = {}
    for kind in KINDS:
        path = FOLDER / f"{kind}.dinac"
        if not path.exists():
            path.write_bytes(build_record(kind))
        index[kind] = describe(path.read_bytes())
    INDEX.write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
