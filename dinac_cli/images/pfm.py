"""Opens netpbm files, including colour PFM, which Pillow does not read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, PpmImagePlugin

from dinac_cli.images.tiff_samples import reduce_values

if TYPE_CHECKING:
    from PIL._imaging import PixelAccess

_COLOR_PFM, _GRAY_PFM = b"PF", b"Pf"


class PpmFile(PpmImagePlugin.PpmImageFile):
    """A PPM, PGM, PBM or PFM file. The floats of a PFM must be between 0 and 1."""

    _has_float_colors = False

    def _read_magic(self) -> bytes:
        magic = super()._read_magic()
        self._has_float_colors = magic == _COLOR_PFM
        return _GRAY_PFM if self._has_float_colors else magic

    def _open(self) -> None:
        super()._open()
        if self._has_float_colors:
            self._mode = "RGB"

    def load(self) -> PixelAccess | None:
        if self._has_float_colors and self.tile:
            self.im = Image.fromarray(self._read_float_colors()).im
            self.tile = []
        return super().load()

    def _read_float_colors(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """Returns uint8 [H, W, 3]. Raises EOFError if the file is truncated."""
        tile = self.tile[0]
        assert self.fp is not None
        assert isinstance(tile.args, tuple)
        order = "<" if tile.args[0] == "F;32F" else ">"
        size_bytes = 12 * self.width * self.height
        self.fp.seek(tile.offset)
        data = self.fp.read(size_bytes)
        if len(data) < size_bytes:
            raise EOFError("the pixels end after the file")
        values = np.frombuffer(data, f"{order}f4").reshape(self.height, self.width, 3)
        return reduce_values(values[::-1], is_gray=False)  # the first row is the lowest one
