"""The functions that measure the requested metrics of a pair of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dinac_cli.images.metric_kinds import MS_SSIM, PSNR, SSIM, Metric
from dinac_cli.images.metrics import measure_psnr
from dinac_cli.images.pixels import Pixels
from dinac_cli.images.structural_similarity import measure_ms_ssim, measure_ssim


@dataclass(frozen=True)
class Measure:
    """A metric and its function.

    `measure` takes two uint8 [H, W, 3] images of the same size, in any thread. It returns None if
    the metric does not take images of this size.
    """

    metric: Metric
    measure: Callable[[Pixels, Pixels], float | None]


PSNR_ALONE = (Measure(PSNR, measure_psnr),)
"""What `dinac psnr` measures by default."""

_MEASURES = {
    PSNR.name: PSNR_ALONE[0],
    SSIM.name: Measure(SSIM, measure_ssim),
    MS_SSIM.name: Measure(MS_SSIM, measure_ms_ssim),
}


def open_measures(names: Iterable[str]) -> tuple[Measure, ...]:
    """Returns the measures of the metrics `names`, in their order."""
    return tuple(_MEASURES[name] for name in names)
