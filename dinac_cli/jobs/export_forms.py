"""The forms of an exported record, and how `export` recognises its own files.

An exported record is its arrays and its facts: the header of the record, and two hashes. `record`
is the hash of the record, so a later run knows whether the file is up to date. `content` is a hash
of all facts and arrays, so a later run knows whether somebody has changed the file.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.records import name_model
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.layout import read_layout, write_layout
from dinac_cli.container.zstd import MAX_HEADER_BYTES
from dinac_cli.errors import FormatError, InputError, OutputError
from dinac_cli.models.aliases import HUB_ALIASES

Facts = Mapping[str, Any]
Arrays = Mapping[str, npt.NDArray[Any]]

RECORD_KEY, CONTENT_KEY = "record", "content"

RECORD_CHANGED = "the record has changed"
"""Why a run replaces an export."""

_DTYPES = {"F32": "<f4", "I64": "<i8"}

_D2_CHANNELS, _D2_PATCH = 128, 16

UNREADABLE = (
    FormatError,
    OSError,
    ValueError,
    KeyError,
    EOFError,
    MemoryError,
    RuntimeError,  # also RecursionError, and zipfile's error for encrypted files
    struct.error,
    zipfile.BadZipFile,
)
"""The exceptions with which a file of another program may be refused."""


@dataclass(frozen=True)
class Exported:
    """A record, or several, in exported form: facts and arrays; see `list_arrays`."""

    facts: Facts
    arrays: Arrays

    def seal(self) -> Facts:
        """Returns the facts with the hash of the content."""
        return {**self.facts, CONTENT_KEY: self._hash_content()}

    def is_intact(self) -> bool:
        """True if the facts and arrays are those that dinac sealed."""
        return self.facts.get(CONTENT_KEY) == self._hash_content()

    def _hash_content(self) -> str:
        facts = {key: value for key, value in self.facts.items() if key != CONTENT_KEY}
        names = sorted(self.arrays)
        shapes = [(name, self.arrays[name].shape) for name in names]
        digest = hashlib.sha256(json.dumps([facts, shapes], sort_keys=True).encode())
        for name in names:
            digest.update(_list_bytes(self.arrays[name]))
        return digest.hexdigest()


def _accept(header: RecordHeader) -> None:
    """Accepts the records of every model."""


@dataclass(frozen=True)
class ExportForm:
    """A form with one file per record.

    `write` returns the bytes of the file, whose name ends in `.suffix`. `read` reads a file; if its
    second argument is false, it reads only the facts. `read` raises one of `UNREADABLE` for a file
    of another program. `check` raises InputError for a record that the readers of this form would
    misread; `--force` leaves it out.
    """

    suffix: str
    write: Callable[[Exported], bytes]
    read: Callable[[BinaryIO, bool], Exported]
    check: Callable[[RecordHeader], None] = _accept

    def is_current(self, path: str, record_hash: str) -> bool:
        """True if dinac exported the record with this hash to `path`. Reads only the facts."""
        exported = self._load(path, with_arrays=False)
        return exported is not None and exported.facts.get(RECORD_KEY) == record_hash

    def is_ours(self, path: str) -> bool:
        """True if dinac wrote the file and nobody has changed the file since. Reads all of it."""
        exported = self._load(path, with_arrays=True)
        return exported is not None and exported.is_intact()

    def find_facts(self, path: str) -> Facts:
        """Returns the facts in a file; none if the file is not there or not in this form."""
        exported = self._load(path, with_arrays=False)
        return {} if exported is None else exported.facts

    def _load(self, path: str, *, with_arrays: bool) -> Exported | None:
        if not os.path.isfile(path):  # opening a named pipe would wait for a writer
            return None
        try:
            with open(path, "rb") as file:
                return self.read(file, with_arrays)
        except UNREADABLE:
            return None


def refuse_changed(path: str) -> OutputError:
    """Returns the OutputError for an existing file that a run must not replace."""
    return OutputError(
        f"{path}: was not written by this version of dinac, or was changed since; "
        "choose another OUT or add --overwrite"
    )


def write_safetensors(exported: Exported) -> bytes:
    """Returns a safetensors file. Its metadata are the facts, all of them as text."""
    arrays = {name: _order_bytes(array) for name, array in exported.arrays.items()}
    texts = {key: _write_text(value) for key, value in exported.facts.items()}
    head = write_layout(Exported(texts, arrays).seal(), arrays)
    return b"".join([head, *map(_list_bytes, arrays.values())])


def _order_bytes(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns the array as it lies in a file: contiguous and little-endian."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def _list_bytes(array: npt.NDArray[Any]) -> memoryview:
    return _order_bytes(array).reshape(-1).view(np.uint8).data


def _write_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def read_safetensors(file: BinaryIO, with_arrays: bool) -> Exported:
    """Reads a file of `write_safetensors`; see `ExportForm`."""
    head = file.read(8)
    size = int.from_bytes(head, "little")
    if size > MAX_HEADER_BYTES:
        raise ValueError("dinac writes shorter headers")
    layout = read_layout(head + file.read(size))
    if os.fstat(file.fileno()).st_size != len(head) + size + layout.payload_size:
        raise ValueError("truncated")
    arrays = {}
    payload = file.read() if with_arrays else b""
    for name, entry in layout.tensors.items() if with_arrays else ():
        values = np.frombuffer(payload, _DTYPES[entry.dtype], math.prod(entry.shape), entry.begin)
        arrays[name] = values.reshape(entry.shape)
    return Exported(layout.metadata, arrays)


def write_npz(exported: Exported) -> bytes:
    """Returns an npz file. Its array `header` holds the facts as JSON text."""
    file = io.BytesIO()
    header = np.array(json.dumps(exported.seal()))
    arrays: dict[str, Any] = {**exported.arrays, "header": header}
    np.savez(file, **arrays)
    return file.getvalue()


def read_npz(file: BinaryIO, with_arrays: bool) -> Exported:
    """Reads a file of `write_npz`; see `ExportForm`."""
    with zipfile.ZipFile(file) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("dinac does not compress; a compressed file may be very large")
        facts = read_facts(str(_read_array(archive, "header.npy")))
        names = set(archive.namelist()) - {"header.npy"} if with_arrays else ()
        return Exported(
            facts, {name.removesuffix(".npy"): _read_array(archive, name) for name in names}
        )


def read_facts(text: str | bytes) -> Facts:
    """Reads the facts of an exported record from JSON. Raises ValueError if they are none."""
    facts = json.loads(text)
    if not isinstance(facts, dict):
        raise ValueError("facts are an object")
    return facts


def is_sealed_json(path: str) -> bool:
    """True if `path` holds sealed facts alone, as JSON, which nobody has changed."""
    if not os.path.isfile(path):  # opening a named pipe would wait for a writer
        return False
    try:
        with open(path, "rb") as file:
            return Exported(read_facts(file.read()), {}).is_intact()
    except UNREADABLE:
        return False


def _read_array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    return read_array(archive.read(name))


def write_array(values: npt.NDArray[Any]) -> bytes:
    """Returns an npy file."""
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def read_array(data: bytes) -> npt.NDArray[Any]:
    """Reads an npy file. Raises ValueError, also for pickled objects."""
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def write_comfyui(exported: Exported) -> bytes:
    """Returns a `.latent` file: `latent_tensor` [1, C, h, w], and the facts as metadata.

    The mirrored image and the other arrays of the record are left out: nothing in ComfyUI reads
    them.
    """
    version = np.zeros(0, np.float32)  # without it, LoadLatent would scale the latents
    latents = exported.arrays["latents"][None]
    arrays = {"latent_tensor": latents, "latent_format_version_0": version}
    return write_safetensors(Exported(exported.facts, arrays))


def require_d2(header: RecordHeader) -> None:
    """Raises InputError unless the record names DINAC-AE-D2 as its model, and has its shape.

    A `.latent` file does not say whose latents it holds, so ComfyUI cannot notice a wrong model.
    """
    d2 = HUB_ALIASES["d2"], _D2_CHANNELS, _D2_PATCH
    if (header.model, header.shape[0], header.patch) != d2:
        raise InputError(
            f"encoded with model {name_model(header)}; ComfyUI reads latents of DINAC-AE-D2: "
            "encode with --model d2, or add --force if this model has D2's latent space"
        )


FORMS: Mapping[str, ExportForm] = {
    "safetensors": ExportForm("safetensors", write_safetensors, read_safetensors),
    "npz": ExportForm("npz", write_npz, read_npz),
    "comfyui": ExportForm("latent", write_comfyui, read_safetensors, require_d2),
}
"""The forms with one file per record."""
