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
    """What is exported of a record, by name: `latents` [C, h, w] and, with a twin, `flipped`."""
    arrays = {"latents": record.latents}
    return arrays if record.flipped is None else {**arrays, "flipped": record.flipped}


def write_safetensors(record: Record) -> bytes:
    """One safetensors file: the arrays of `list_arrays` as F32, and the header as metadata."""
    plain = {
        name: np.ascontiguousarray(array, "<f4") for name, array in list_arrays(record).items()
    }
    head = write_layout(describe_latents(record.header), plain)
    return b"".join([head, *(array.tobytes() for array in plain.values())])


def write_npz(record: Record) -> bytes:
    """One npz file: the arrays of `list_arrays`, and the header as JSON in `header`."""
    file = io.BytesIO()
    entries: dict[str, Any] = {**list_arrays(record)}
    entries["header"] = np.array(json.dumps(describe_latents(record.header)))
    np.savez(file, **entries)
    return file.getvalue()


class TarWriter:
    """A tar of WebDataset samples: `KEY.npy`, float32 [C, h, w], and `KEY.json`, the header.

    With a twin `KEY.flipped.npy` too.
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
        self._add_array(f"{key}.npy", record.latents)
        if record.flipped is not None:
            self._add_array(f"{key}.flipped.npy", record.flipped)
        self._add(f"{key}.json", json.dumps(describe_latents(record.header)).encode())

    def finish(self) -> bytes:
        """The whole tar."""
        self._tar.close()
        return self._file.getvalue()

    def _add_array(self, name: str, array: npt.NDArray[np.float32]) -> None:
        file = io.BytesIO()
        np.save(file, array)
        self._add(name, file.getvalue())

    def _add(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))
