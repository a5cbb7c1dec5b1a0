"""Opens HEIC with pi-heif (the extra `formats`), as a Pillow image.

Some damaged files crash the decoder, which ends its process. Therefore each file is decoded in a
process of its own: a bad file must not end a batch. A start takes about 0.1 s.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from typing import Any

from PIL import ImageFile

from dinac_cli.images.color_space import ColorSpace, find_coded_space
from dinac_cli.images.heic_worker import DECODE, MEASURE

_PROGRAM = (
    "import sys; task = sys.argv[1]; sys.path[:] = sys.argv[2:]; "
    "from dinac_cli.images.heic_worker import main; main(task)"
)
_WINDOWS_GROUP: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)


def has_decoder() -> bool:
    """True if pi-heif is installed."""
    return find_spec("pi_heif") is not None


class HeicImageFile(ImageFile.ImageFile):
    """The primary image of a HEIC file. Its size is that of the upright image."""

    format = "HEIC"
    format_description = "HEIC"

    def _open(self) -> None:
        assert self.fp is not None, "Pillow sets the file"
        header = _measure(_Content(self.fp.read()))
        self._size = (header["size"][0], header["size"][1])
        self._mode = header["mode"]
        self.n_frames = header["frames"]
        if header["profile"] is not None:
            self.info["icc_profile"] = bytes.fromhex(header["profile"])
        self._codes = header["codes"]
        self.tile = []

    def find_space(self) -> ColorSpace | None:
        """Returns the colours that the file declares, or None. An ICC profile comes first.

        Raises ValueError for codes that ITU-T H.273 does not define.
        """
        if self._codes is None or "icc_profile" in self.info:
            return None
        return find_coded_space(*self._codes)

    def load(self) -> Any:
        if self._im is None and self.fp is not None:
            self.fp.seek(0)
            header, pixels = _run_worker(DECODE, self.fp.read())
            if tuple(header["size"]) != self.size or header["mode"] != self.mode:
                raise ValueError(f"decoded {header['size']} instead of {self.size}")
            self.load_prepare()
            self.frombytes(pixels)
        return super().load()


class _Content:
    """The bytes of a file, compared by their hash, so that a cache does not keep them."""

    def __init__(self, data: bytes) -> None:
        self.data: bytes | None = data
        self._hash = sha256(data).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Content) and self._hash == other._hash

    def __hash__(self) -> int:
        return hash(self._hash)


@lru_cache(maxsize=64)  # a run measures an image before it decodes it
def _measure(content: _Content) -> dict[str, Any]:
    assert content.data is not None, "a cached content is never measured again"
    header, _ = _run_worker(MEASURE, content.data)
    content.data = None
    return header


def _run_worker(task: str, data: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns the header and the pixels (b"" if they were not asked for).

    Raises ValueError if the file is damaged.
    """
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, task, *filter(None, sys.path)],
        input=data,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
        start_new_session=True,  # an interrupt is for the run, which finishes the image
        creationflags=_WINDOWS_GROUP,
    )
    line, _, pixels = done.stdout.partition(b"\n")
    if done.returncode != 0 or not line:
        raise ValueError(f"the decoder ended with code {done.returncode}")
    header = json.loads(line)
    if "error" in header:
        raise ValueError(header["error"])
    return header, pixels
