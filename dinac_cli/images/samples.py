"""Draws small pictures for the demo and the benchmarks, so that dinac needs no photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from dinac_cli.images.pixels import Pixels

_SEED = 7


def draw_samples() -> Iterator[tuple[str, Pixels]]:
    """Yields relative names and uint8 [H, W, 3] pixels. Every call yields the same pictures."""
    for name, draw in _SAMPLES.items():
        yield name, draw()


def draw_photographs(side: int) -> Iterator[Pixels]:
    """Yields uint8 [side, side, 3] pictures with as much detail as photographs.

    Every call yields the same pictures.
    """
    for draw in (draw_clouds, draw_leaves, draw_sunset):
        yield draw(side, side)


def draw_clouds(height: int, width: int) -> Pixels:
    """Draws noise in mixtures of two colours. As in photographs, low frequencies are strongest."""
    field = _draw_field(height, width, 1.4, np.random.default_rng(_SEED))
    field = (field - field.min()) / (field.max() - field.min())
    return _blend(field, (52, 96, 158), (246, 244, 238))


def draw_leaves(height: int, width: int) -> Pixels:
    """Draws overlapping discs whose radii follow a power law (the "dead leaves" model)."""
    rng = np.random.default_rng(_SEED)
    image = Image.new("RGB", (width, height), (60, 66, 44))
    pen = ImageDraw.Draw(image)
    for _ in range(900):
        radius = 3.0 / (1.0 - 0.96 * rng.random())
        x, y = rng.random() * width, rng.random() * height
        red, green, blue = (int(value) for value in rng.integers(30, 226, 3))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(red, green, blue))
    return np.asarray(image)


def draw_scenes(side: int) -> Iterator[Pixels]:
    """Yields uint8 [side, side, 3] pictures with the statistics of photographs.

    They are "dead leaves" with textures. As in photographs, edges have all sizes, the contrast
    differs from place to place, and low frequencies are strongest. The latents of `nano`, which was
    trained on photographs, have a second moment of about 1. Every call yields the same pictures.
    """
    for seed in range(4):
        yield _draw_scene(side, np.random.default_rng(seed))


def _draw_scene(side: int, rng: np.random.Generator) -> Pixels:
    colours = Image.new("RGB", (side, side), (110, 110, 110))
    contrasts = Image.new("L", (side, side), 128)
    pens = ImageDraw.Draw(colours), ImageDraw.Draw(contrasts)
    count, smallest = 1200, 4.0
    radius = smallest / (1 - (1 - 2 * smallest / side) * rng.random(count))
    extent = np.stack((radius, radius * rng.uniform(0.4, 1, count)), axis=1)
    centre = rng.random((count, 2)) * side
    boxes = np.concatenate((centre - extent, centre + extent), axis=1)
    gray = rng.normal(115, 60, (count, 1))
    colour = rng.uniform(0.6, 1.2) * (gray + rng.normal(0, (26, 13, 26), (count, 3)))
    fills = np.clip(colour, 0, 255).astype(int).tolist()
    strengths = (255 * rng.random(count) ** 2).astype(int).tolist()
    for box, fill, strength in zip(boxes.tolist(), fills, strengths, strict=True):
        pens[0].ellipse(box, fill=tuple(fill))
        pens[1].ellipse(box, fill=strength)
    soft = ImageFilter.GaussianBlur(0.6)
    shades, contrast = (np.asarray(x.filter(soft), np.float64) for x in (colours, contrasts))
    grain = 0.15 * rng.standard_normal((side, side, 3))
    texture = _draw_field(side, side, 1.0, rng)
    texture = (texture - texture.mean()) / texture.std()
    detail = 50 / 255 * contrast[..., None] * (texture[..., None] + grain)
    pixels: Pixels = np.clip(np.rint(shades + detail), 0, 255).astype(np.uint8)
    return pixels


def draw_page(height: int, width: int) -> Pixels:
    """Draws lines of text on paper. Text is the hardest content for a latent codec."""
    image = Image.new("RGB", (width, height), (250, 248, 240))
    pen = ImageDraw.Draw(image)
    line = "whitened latents of a patch-16 encoder, 128 channels"
    for number in range((height - 16) // 14):
        start = 7 * number % len(line)
        pen.text((12, 10 + 14 * number), line[start:] + " " + line[:start], fill=(38, 36, 44))
    return np.asarray(image)


def draw_rings(height: int, width: int) -> Pixels:
    """Draws a zone plate: rings whose frequency rises from the centre outwards."""
    y = np.linspace(-1, 1, height)[:, None]
    x = np.linspace(-1, 1, width)[None, :]
    field = 0.5 + 0.5 * np.cos(28 * (x**2 + y**2))
    return _blend(field, (24, 22, 40), (240, 206, 120))


def draw_sunset(height: int, width: int) -> Pixels:
    """Draws smooth gradients with one hard edge."""
    y = np.linspace(0, 1, height)[:, None]
    x = np.linspace(-1, 1, width)[None, :]
    sky = _blend(np.broadcast_to(y, (height, width)), (44, 52, 110), (250, 160, 90))
    is_sun = np.hypot(x * width / height, 2 * (y - 0.62)) < 0.3
    return np.where(is_sun[..., None], np.array((255, 236, 170), np.uint8), sky)


def _draw_field(
    height: int, width: int, falloff: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draws noise [H, W]. The amplitude falls with the frequency to the power of `falloff`."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.maximum(np.hypot(rows, columns), 1 / max(height, width))
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency**falloff
    return np.fft.irfft2(spectrum, s=(height, width))


def _blend(
    weight: NDArray[np.float64], low: tuple[int, int, int], high: tuple[int, int, int]
) -> Pixels:
    """Mixes two colours into uint8 [H, W, 3]. Weight 0 gives `low`, and weight 1 gives `high`."""
    start, end = np.array(low, np.float64), np.array(high, np.float64)
    return np.rint(start + weight[..., None] * (end - start)).astype(np.uint8)


_SAMPLES: Mapping[str, Callable[[], Pixels]] = {
    "clouds.jpg": partial(draw_clouds, 256, 384),
    "leaves.png": partial(draw_leaves, 320, 320),
    "nested/page.png": partial(draw_page, 233, 377),
    "nested/rings.webp": partial(draw_rings, 256, 256),
    "sunset.jpg": partial(draw_sunset, 216, 384),
}

SAMPLE_NAMES = tuple(_SAMPLES)
"""The relative names of the samples, in the order of `draw_samples`."""
