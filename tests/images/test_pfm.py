"""Float maps (PFM) in gray and colour, of both byte orders."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dinac_cli.errors import ImageError
from dinac_cli.images.formats import detect_format
from dinac_cli.images.reading import measure_image, read_image

from .hand_made import make_pixels


def make_pfm(values: NDArray[np.float32], order: str = "<", scale: float = 1.0) -> bytes:
    height, width, depth = values.shape
    sign = -scale if order == "<" else scale
    head = f"{'PF' if depth == 3 else 'Pf'}\n{width} {height}\n{sign}\n".encode()
    return head + values[::-1].astype(f"{order}f4").tobytes()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("depth", [1, 3])
def test_values_from_0_to_1_are_scaled(order: str, depth: int) -> None:
    pixels = make_pixels()
    data = make_pfm((pixels[..., :depth] / 255).astype(np.float32), order)
    assert detect_format(data) == "PPM"
    assert measure_image(data) == pixels.shape[1::-1]
    source = read_image(data)
    expected = pixels if depth == 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(source.pixels, expected)
    assert source.description == "orientation=none;color=srgb;alpha=none;frame=1/1"


@pytest.mark.parametrize("bad", [1.01, -0.01, np.nan, np.inf])
def test_other_values_are_refused(bad: float) -> None:
    values = np.full((2, 3, 3), 0.5, np.float32)
    values[1, 2, 0] = bad
    with pytest.raises(ImageError, match=r"^float values outside 0\.\.1 have no defined bright"):
        read_image(make_pfm(values))


def test_truncated_color_map_is_refused() -> None:
    data = make_pfm(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ImageError, match=r"^truncated PPM file; copy or download it again$"):
        read_image(data[:-1])
