"""Reads the 16-bit samples of a PNG, of which Pillow keeps only the high bytes."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

from dinac_cli.images.opening import load_image
from dinac_cli.images.png import PngFile

# For each raw mode of a 16-bit PNG, the mode and raw mode that give the low bytes. The filters of
# PNG depend only on the bytes per pixel, so each raw mode has as many bits as the original.
_LOW_BYTES = {"RGB;16B": ("RGB", "RGB;16L"), "RGBA;16B": ("RGBA", "RGBA;16L")}
_GRAY = "I;16B"
_GRAY_ALPHA = "LA;16B"


def is_deep(opened: ImageFile.ImageFile) -> bool:
    """True for a PNG of 16 bits per channel that is not decoded yet."""
    return opened.format == "PNG" and _raw_mode(opened) in (*_LOW_BYTES, _GRAY, _GRAY_ALPHA)


def read_levels(data: bytes) -> NDArray[np.uint16]:
    """Returns the colours of a 16-bit PNG as [H, W, 3], without alpha and not turned upright.

    `is_deep` must be true for the image. Raises the errors of Pillow.
    """
    image = PngFile(io.BytesIO(data))
    raw_mode = _raw_mode(image)
    if raw_mode == _GRAY:
        gray = np.asarray(_load(image, image.mode, raw_mode)).astype(np.uint16)
        return np.repeat(gray[..., None], 3, axis=-1)
    if raw_mode == _GRAY_ALPHA:
        samples = _load(image, "RGBA", "RGBA")  # gray high, gray low, alpha high, alpha low
        gray = _join(samples[..., 0], samples[..., 1])
        return np.repeat(gray[..., None], 3, axis=-1)
    high = _load(image, image.mode, raw_mode)
    low = _load(PngFile(io.BytesIO(data)), *_LOW_BYTES[raw_mode])
    return _join(high[..., :3], low[..., :3])


def _raw_mode(image: ImageFile.ImageFile) -> str:
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _load(image: ImageFile.ImageFile, mode: str, raw_mode: str) -> NDArray[np.uint8]:
    image.info.pop("transparency", None)  # the caller needs the colours only
    image._mode = mode
    image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
    load_image(image)
    return np.asarray(image)


def _join(high: NDArray[np.uint8], low: NDArray[np.uint8]) -> NDArray[np.uint16]:
    levels: NDArray[np.uint16] = high.astype(np.uint16) << np.uint16(8) | low
    return levels
