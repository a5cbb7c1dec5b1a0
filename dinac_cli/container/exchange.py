"""Latents in the forms of other tools, so that they can be read without dinac.

Equal input gives equal bytes in each of them: no times, sorted keys.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dinac_cli.container.header import RecordHeader, header_to_metadata
from dinac_cli.container.layout import write_layout
from dinac_cli.container.record import Record


def describe_latents(header: RecordHeader) -> Mapping[str, str]:
    """What goes along with exported latents: the record's header, without what coded it."""
    metadata = header_to_metadata(header)
    coding = ("dinac", "precision", "predictor", "step")
    return {key: value for key, value in metadata.items() if value and key not in coding}


def list_arrays(record: Record) -> dict[str, npt.NDArray[np.float32]]:
    """What is exported of a record: `latents` [C, h, w] and, where it was read with the record,
    `logsnr` [C, h, w] of the posterior, `class_token` [D], and all of these of the mirrored image:
    `flipped`, `flipped_logsnr`, `flipped_class_token`."""
    arrays = {
        "latents": record.latents,
        "logsnr": record.logsnr,
        "class_token": record.class_token,
    }
    if record.flipped is not None:
        arrays |= {
            "flipped": record.flipped.latents,
            "flipped_logsnr": record.flipped.logsnr,
            "flipped_class_token": record.flipped.class_token,
        }
    return {name: array for name, array in arrays.items() if array is not None}


def write_safetensors(record: Record) -> bytes:
    """One safetensors file: the arrays of `list_arrays` as F32, and the header as metadata."""
    plain = {name: np.ascontiguousarray(a, "<f4") for name, a in list_arrays(record).items()}
    head = write_layout(describe_latents(record.header), plain)
    return b"".join([head, *(array.tobytes() for array in plain.values())])


def write_npz(record: Record) -> bytes:
    """One npz file: the arrays of `list_arrays`, and the header as JSON in `header`."""
    file = io.BytesIO()
    header = np.array(json.dumps(describe_latents(record.header)))
    arrays: dict[str, Any] = {**list_arrays(record), "header": header}
    np.savez(file, **arrays)
    return file.getvalue()


class TarWriter:
    """A tar of WebDataset samples: `KEY.npy`, the latents, and `KEY.json`, the header.

    What else is exported is named: `KEY.logsnr.npy`, `KEY.flipped.npy`.
    """

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed in finish

    @property
    def size_bytes(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def add(self, key: str, record: Record) -> None:
        """Add a sample; its key must hold no dot, at which WebDataset would cut it."""
        assert "." not in key
        for name, values in list_arrays(record).items():
            array = io.BytesIO()
            np.save(array, values)
            title = key if name == "latents" else f"{key}.{name}"
            self._add(f"{title}.npy", array.getvalue())
        self._add(f"{key}.json", json.dumps(describe_latents(record.header)).encode())

    def finish(self) -> bytes:
        """The whole tar."""
        self._tar.close()
        return self._file.getvalue()

    def _add(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))
