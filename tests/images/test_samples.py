"""The generated pictures of the demo."""

from __future__ import annotations

import numpy as np

from dinac_cli.images.formats import format_of_suffix
from dinac_cli.images.samples import SAMPLE_NAMES, draw_samples
from dinac_cli.images.writing import write_image


def test_samples_are_always_the_same() -> None:
    for (name, first), (again, second) in zip(draw_samples(), draw_samples(), strict=True):
        assert name == again
        assert np.array_equal(first, second)


def test_samples_can_be_written_under_their_names() -> None:
    samples = dict(draw_samples())
    assert tuple(samples) == SAMPLE_NAMES
    assert len(samples) >= 4
    for name, pixels in samples.items():
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        form = format_of_suffix(name)
        assert form is not None
        assert write_image(pixels, form.name)


def test_samples_have_contrast_and_differ_in_size_folder_and_format() -> None:
    samples = dict(draw_samples())
    assert all(np.ptp(pixels) > 100 for pixels in samples.values())
    assert len({pixels.shape for pixels in samples.values()}) >= 3
    assert len({name.rpartition(".")[2] for name in samples}) >= 3
    assert any(side % 16 for pixels in samples.values() for side in pixels.shape[:2])
    assert any("/" in name for name in samples)
