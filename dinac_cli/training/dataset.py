"""Reads the images of a training, chooses the held-out images, and draws crops of the others."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dinac_cli.errors import DinacError, UsageError
from dinac_cli.images.damage import DamageChoice
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.images.hdr import REFUSE, check_hdr
from dinac_cli.images.pixels import Pixels, scale_pixels
from dinac_cli.images.reading import WHITE, SourceImage, read_image
from dinac_cli.storage.content import read_content
from dinac_cli.training.split import choose_representatives, measure_features

CACHE_BYTES = 2 * 2**30


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How images are read; see `read_image`. Raises UsageError if `hdr` is not a known choice."""

    background: tuple[int, int, int] = WHITE
    max_pixels: int = MAX_PIXELS
    hdr: str = REFUSE
    damaged: DamageChoice = "fail"

    def __post_init__(self) -> None:
        check_hdr(self.hdr)

    def decode(self, data: bytes) -> SourceImage:
        """Decodes the bytes of an image file. Raises ImageError."""
        return read_image(
            data,
            background=self.background,
            max_pixels=self.max_pixels,
            hdr=self.hdr,
            damaged=self.damaged,
        )


@dataclass(frozen=True)
class TrainImage:
    """An image to train on. `sha256` is the hash of the file. See `measure_features`."""

    path: str
    height: int
    width: int
    sha256: str
    features: tuple[float, ...] = field(repr=False)
    options: ReadOptions = field(default=ReadOptions(), repr=False)


@dataclass
class Survey:
    """The images of a training, and one line of text per skipped path or damaged image.

    `unchecked` is the number of images whose damage would not have been found.
    """

    images: list[TrainImage] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    unchecked: int = 0


def survey_images(paths: Iterable[str], crop: int, options: ReadOptions = ReadOptions()) -> Survey:
    """Reads every image once. Skips images with a side below `crop` pixels.

    Raises UsageError if no image is left.
    """
    survey, unreadable = Survey(), 0
    for path in paths:
        try:
            content = read_content(path)
            source = options.decode(content.data)
        except DinacError as exc:
            survey.skipped.append(f"{path}: {exc}")
            unreadable += 1
            continue
        height, width, _ = source.pixels.shape
        if min(height, width) < crop:
            survey.skipped.append(f"{path}: {width}x{height} is smaller than a crop of {crop}")
            continue
        survey.unchecked += not source.soundness.is_checked
        if source.soundness.damage is not None:
            survey.damaged += [f"{path}: {warning}" for warning in source.soundness.warn()]
        features = tuple(measure_features(source.pixels).tolist())
        survey.images.append(TrainImage(path, height, width, content.sha256, features, options))
    _require_images(survey, unreadable, crop)
    return survey


def _require_images(survey: Survey, unreadable: int, crop: int) -> None:
    """Raises UsageError if no image is left. `unreadable` of the skipped ones cannot be read."""
    if survey.images:
        return
    if unreadable and unreadable == len(survey.skipped):
        raise UsageError(
            f"no image is readable, {unreadable} failed; the first: {survey.skipped[0]}"
        )
    raise UsageError(
        f"no image has at least {crop} pixels per side; use larger images or a smaller --crop"
    )


def hold_out(images: Sequence[TrainImage]) -> tuple[list[TrainImage], list[TrainImage]]:
    """Returns the images to train on and the held-out images (one image in eight, at most 64).

    `choose_representatives` chooses the held-out images. The choice depends only on the content of
    the files, so equal files are in the same list. But if all files are equal, the first image is
    in both lists.
    """
    by_hash = {image.sha256: image for image in images}
    ordered = [by_hash[sha256] for sha256 in sorted(by_hash)]
    if len(ordered) == 1:
        return list(images), list(images[:1])
    count = min(max(1, len(ordered) // 8), 64)
    features = np.array([image.features for image in ordered], np.float32)
    chosen = {ordered[index].sha256 for index in choose_representatives(features, count)}
    return (
        [image for image in images if image.sha256 not in chosen],
        [image for image in images if image.sha256 in chosen],
    )


def load_image(image: TrainImage) -> Pixels:
    """Reads an image, uint8 [H, W, 3]. Raises DinacError."""
    return image.options.decode(read_content(image.path).data).pixels


def hash_images(images: Iterable[TrainImage]) -> str:
    """Returns the SHA-256 of the joined hashes of the images, in this order."""
    return hashlib.sha256("".join(image.sha256 for image in images).encode()).hexdigest()


class CropSource:
    """Draws random crops of random images. Each crop has one of `scales` and one of 8 orientations.

    The crops of a step depend only on the seed and the step's number, so a resumed run draws the
    same crops. Caches up to `cache_bytes` of decoded images.
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
        # A large image teaches more than a small image, but not in proportion to the area.
        self._chances = areas**0.75 / np.sum(areas**0.75)
        self._cache = _ImageCache(cache_bytes)

    def draw(self, step: int, count: int, group: int = 1) -> Pixels:
        """Returns the crops of a step, uint8 [count, 3, crop, crop].

        `group` is the number of crops per image.
        """
        rng = np.random.default_rng((self._seed, step))
        crops = []
        for index in rng.choice(len(self._images), count // group, p=self._chances):
            pixels = self._scale_one(self._images[index], rng)
            crops += [self._crop_one(pixels, rng) for _ in range(group)]
        return np.stack(crops).transpose(0, 3, 1, 2)

    def _scale_one(self, image: TrainImage, rng: np.random.Generator) -> Pixels:
        side = min(image.height, image.width)
        usable = [scale for scale in self._scales if scale * side >= self._crop] or [1.0]
        return self._cache.load(image, usable[rng.integers(len(usable))])

    def _crop_one(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        height, width, _ = pixels.shape
        y = rng.integers(height - self._crop + 1)
        x = rng.integers(width - self._crop + 1)
        return _orient(pixels[y : y + self._crop, x : x + self._crop], int(rng.integers(8)))


class _ImageCache:
    """Caches up to `limit_bytes` of scaled images. Drops the least recently used image first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._images: OrderedDict[tuple[str, float], Pixels] = OrderedDict()

    def load(self, image: TrainImage, scale: float) -> Pixels:
        """Returns an image scaled by `scale`, uint8 [H, W, 3], from the cache or from its file."""
        key = (image.path, scale)
        if key not in self._images:
            self._images[key] = shrink_pixels(load_image(image), scale)
            self._held_bytes += self._images[key].nbytes
            while self._held_bytes > self._limit_bytes and len(self._images) > 1:
                self._held_bytes -= self._images.popitem(last=False)[1].nbytes
        self._images.move_to_end(key)
        return self._images[key]


def shrink_pixels(pixels: Pixels, scale: float) -> Pixels:
    """Scales an image uint8 [H, W, 3] by `scale`. This factor is at most 1."""
    height, width, _ = pixels.shape
    return scale_pixels(pixels, max(1, round(width * scale)), max(1, round(height * scale)))


def _orient(crop: Pixels, orientation: int) -> Pixels:
    """Mirrors and rotates a square crop [S, S, 3] to one of eight orientations, 0 to 7."""
    if orientation & 1:
        crop = crop[:, ::-1]
    if orientation & 2:
        crop = crop[::-1]
    return crop.transpose(1, 0, 2) if orientation & 4 else crop
