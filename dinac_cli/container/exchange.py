"""Latents in the forms of other tools, so that they can be read without dinac.

Equal input gives equal bytes in each of them: no times, sorted keys.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping

import numpy as np

from dinac_cli.container.header import RecordHeader, header_to_metadata
from dinac_cli.container.layout import write_layout
from dinac_cli.container.planes import Latents


def describe_latents(header: RecordHeader) -> Mapping[str, str]:
    """What goes along with exported latents: the record's header, without what coded it."""
    metadata = header_to_metadata(header)
    coding = ("dinac", "precision", "predictor", "step")
    return {key: value for key, value in metadata.items() if value and key not in coding}


def write_safetensors(header: RecordHeader, latents: Latents) -> bytes:
    """One safetensors file: `latents` F32 [C, h, w], and the header as metadata."""
    plain = np.ascontiguousarray(latents, "<f4")
    return write_layout(describe_latents(header), {"latents": plain}) + plain.tobytes()


def write_npz(header: RecordHeader, latents: Latents) -> bytes:
    """One npz file: `latents` float32 [C, h, w], and the header as JSON in `header`."""
    file = io.BytesIO()
    np.savez(file, latents=latents, header=np.array(json.dumps(describe_latents(header))))
    return file.getvalue()


class TarWriter:
    """A tar of WebDataset samples: `KEY.npy`, float32 [C, h, w], and `KEY.json`, the header."""

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed in finish

    @property
    def size_bytes(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def add(self, key: str, header: RecordHeader, latents: Latents) -> None:
        """Add a sample; its key must hold no dot, at which WebDataset would cut it."""
        assert "." not in key
        array = io.BytesIO()
        np.save(array, latents)
        self._add(f"{key}.npy", array.getvalue())
        self._add(f"{key}.json", json.dumps(describe_latents(header)).encode())

    def finish(self) -> bytes:
        """The whole tar."""
        self._tar.close()
        return self._file.getvalue()

    def _add(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))
