"""Training images: crops of many sizes from folders of any size, the same for a seed and step."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from dinac_cli.errors import DinacError, UsageError
from dinac_cli.images.pixels import Pixels
from dinac_cli.images.reading import read_image
from dinac_cli.storage.content import read_content
from dinac_cli.training.split import choose_representatives, measure_features

CACHE_BYTES = 2 * 2**30
_HELD_OUT_EVERY = 8
_HELD_OUT_MOST = 64


@dataclass(frozen=True)
class TrainImage:
    """One image that can be trained on: its path, size in pixels, the hash of its file, and how
    it looks, as `measure_features` has it.
    """

    path: str
    height: int
    width: int
    sha256: str
    features: tuple[float, ...] = field(repr=False)


def survey_images(paths: Iterable[str], crop: int) -> tuple[list[TrainImage], list[str]]:
    """Read every image once; gives those of at least `crop` pixels a side, and why others fell out.

    Raises UsageError where none is left.
    """
    images, left_out = [], []
    for path in paths:
        try:
            content = read_content(path)
            pixels = read_image(content.data).pixels
        except DinacError as exc:
            left_out.append(f"{path}: {exc}")
            continue
        height, width, _ = pixels.shape
        if min(height, width) < crop:
            left_out.append(f"{path}: {width}x{height} is smaller than a crop of {crop}")
            continue
        features = tuple(measure_features(pixels).tolist())
        images.append(TrainImage(path, height, width, content.sha256, features))
    if not images:
        raise UsageError(f"no image of at least {crop} pixels a side to train on")
    return images, left_out


def hold_out(images: Sequence[TrainImage]) -> tuple[list[TrainImage], list[TrainImage]]:
    """Split into images to train on and to watch progress by: one in eight, at most 64.

    Those held out stand for the whole (`training/split.py`) and depend on what the files hold
    alone; two files with the same content are on the same side. One content is on both.
    """
    ordered = sorted({image.sha256: image for image in images}.values(), key=_by_content)
    if len(ordered) == 1:
        return list(images), list(images[:1])
    count = min(max(1, len(ordered) // _HELD_OUT_EVERY), _HELD_OUT_MOST)
    features = np.array([image.features for image in ordered], np.float32)
    chosen = {ordered[index].sha256 for index in choose_representatives(features, count)}
    return (
        [image for image in images if image.sha256 not in chosen],
        [image for image in images if image.sha256 in chosen],
    )


def _by_content(image: TrainImage) -> str:
    return image.sha256


def hash_images(images: Iterable[TrainImage]) -> str:
    """One SHA-256 over the files' own, in their order."""
    return hashlib.sha256("".join(image.sha256 for image in images).encode()).hexdigest()


class CropSource:
    """Draws random crops: an image by its area, a scale, then for each a place and one of 8 turns.

    What a step draws depends on the seed and the step alone, so a run that was killed goes on with
    the very crops it would have had. Decoded images are kept up to `cache_bytes`.
    """

    def __init__(
        self,
        images: Sequence[TrainImage],
        crop: int,
        scales: Sequence[float],
        seed: int,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._images = images
        self._crop = crop
        self._scales = scales
        self._seed = seed
        areas = np.array([image.height * image.width for image in images], np.float64)
        # Between one chance an image and one a pixel: large images have more to show, but not
        # in proportion.
        self._chances = areas**0.75 / np.sum(areas**0.75)
        self._cache = _ImageCache(cache_bytes)

    def draw(self, step: int, count: int, group: int = 1) -> Pixels:
        """Crops uint8 [count, 3, crop, crop] of one step; each `group` in a row is of one image."""
        rng = np.random.default_rng((self._seed, step))
        chosen = rng.choice(len(self._images), count // group, p=self._chances)
        crops = []
        for index in chosen:
            pixels = self._scale_one(self._images[index], rng)
            crops += [self._crop_one(pixels, rng) for _ in range(group)]
        return np.stack(crops).transpose(0, 3, 1, 2)

    def _scale_one(self, image: TrainImage, rng: np.random.Generator) -> Pixels:
        side = min(image.height, image.width)
        usable = [scale for scale in self._scales if scale * side >= self._crop] or [1.0]
        return self._cache.load(image.path, usable[rng.integers(len(usable))])

    def _crop_one(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        height, width, _ = pixels.shape
        y = rng.integers(height - self._crop + 1)
        x = rng.integers(width - self._crop + 1)
        return _turn(pixels[y : y + self._crop, x : x + self._crop], int(rng.integers(8)))


class _ImageCache:
    """Decoded and scaled images, those used last kept up to a number of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._images: OrderedDict[tuple[str, float], Pixels] = OrderedDict()

    def load(self, path: str, scale: float) -> Pixels:
        """An image uint8 [H, W, 3] shrunk by `scale`, from memory or from its file."""
        key = (path, scale)
        if key in self._images:
            self._images.move_to_end(key)
            return self._images[key]
        pixels = scale_pixels(read_image(read_content(path).data).pixels, scale)
        self._images[key] = pixels
        self._held_bytes += pixels.nbytes
        while self._held_bytes > self._limit_bytes and len(self._images) > 1:
            self._held_bytes -= self._images.popitem(last=False)[1].nbytes
        return pixels


def scale_pixels(pixels: Pixels, scale: float) -> Pixels:
    """Shrink uint8 [H, W, 3] by `scale` (at most 1) with a Lanczos filter."""
    if scale >= 1:
        return pixels
    height, width, _ = pixels.shape
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _turn(crop: Pixels, turn: int) -> Pixels:
    """One of the eight ways to mirror and transpose a square [S, S, 3]."""
    if turn & 1:
        crop = crop[:, ::-1]
    if turn & 2:
        crop = crop[::-1]
    return crop.transpose(1, 0, 2) if turn & 4 else crop
