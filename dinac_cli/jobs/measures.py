"""The functions that measure the requested metrics of pairs of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dinac_cli.errors import UsageError
from dinac_cli.images.metric_kinds import LPIPS, METRIC_NAMES, MS_SSIM, PSNR, RFID, SSIM, Metric
from dinac_cli.images.metrics import measure_psnr
from dinac_cli.images.pixels import Pixels
from dinac_cli.images.structural_similarity import measure_ms_ssim, measure_ssim
from dinac_cli.jobs.rfid import ReconstructionFid, load_rfid

if TYPE_CHECKING:
    from dinac_cli.models.perceptual.lpips import Lpips


@dataclass(frozen=True)
class Measure:
    """A metric of one pair, and its function.

    `measure` takes two uint8 [H, W, 3] images of the same size, in any thread. It returns None if
    the metric does not take images of this size.
    """

    metric: Metric
    measure: Callable[[Pixels, Pixels], float | None]


@dataclass(frozen=True)
class Measures:
    """What a run measures of each pair, and of all pairs together (`rfid`)."""

    pairs: tuple[Measure, ...]
    rfid: ReconstructionFid | None = None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of each pair."""
        return tuple(measure.metric for measure in self.pairs)

    def measure(self, first: Pixels, second: Pixels) -> dict[str, float | None]:
        """Returns the values of a pair of images of the same size, by the names of the metrics.

        Raises ImageError if a metric cannot be computed.
        """
        values = {one.metric.name: one.measure(first, second) for one in self.pairs}
        if self.rfid is not None:
            self.rfid.add(first, second)
        return values


PSNR_ALONE = Measures((Measure(PSNR, measure_psnr),))
"""What `dinac psnr` measures by default."""

_PURE = {
    PSNR.name: PSNR_ALONE.pairs[0],
    SSIM.name: Measure(SSIM, measure_ssim),
    MS_SSIM.name: Measure(MS_SSIM, measure_ms_ssim),
}


@dataclass(frozen=True, kw_only=True)
class MetricChoice:
    """Which metrics to measure: names from `METRIC_NAMES`.

    `lpips_weights` and `inception_weights` are the paths of safetensors files. Raises UsageError if
    a metric is unknown or lacks its file, or if a file has no metric.
    """

    names: tuple[str, ...] = (PSNR.name,)
    lpips_weights: str | None = None
    inception_weights: str | None = None

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in METRIC_NAMES:
                raise UsageError(f"metric {name}: choose from {', '.join(METRIC_NAMES)}")
        for name, option in WEIGHT_OPTIONS.items():
            given = self.list_weights()[name]
            if name in self.names and given is None:
                raise UsageError(
                    f"--metrics {name} needs {option} FILE; 'dinac man metrics' says how to make it"
                )
            if name not in self.names and given is not None:
                raise UsageError(f"{option} needs --metrics {name}; add {name}, or leave it out")

    def list_weights(self) -> Mapping[str, str | None]:
        """Returns the file of each metric that needs one."""
        return {LPIPS.name: self.lpips_weights, RFID.name: self.inception_weights}

    def open(self) -> Measures:
        """Loads the weights. Raises ModelError if a file does not hold them."""
        pairs = [self._open_pair(name) for name in self.names if name != RFID.name]
        if self.inception_weights is None:
            return Measures(tuple(pairs))
        return Measures(tuple(pairs), load_rfid(Path(self.inception_weights)))

    def _open_pair(self, name: str) -> Measure:
        if name != LPIPS.name:
            return _PURE[name]
        from dinac_cli.models.perceptual.lpips import load_lpips

        assert self.lpips_weights is not None, "the metric has its file"
        return adapt_lpips(load_lpips(Path(self.lpips_weights)))


def adapt_lpips(network: Lpips) -> Measure:
    """Returns LPIPS as a measure.

    The backbone belongs to the name, because the values of different backbones differ.
    """
    backbone = network.backbone
    metric = replace(
        LPIPS,
        name=f"{LPIPS.name}-{backbone.name}",
        label=f"{LPIPS.label}-{backbone.name}",
        smallest=backbone.smallest,
        largest=backbone.largest,
    )

    def measure(first: Pixels, second: Pixels) -> float | None:
        height, width, _ = first.shape
        return network.measure(first, second) if metric.takes(width, height) else None

    return Measure(metric, measure)


WEIGHT_OPTIONS = {LPIPS.name: "--lpips-weights", RFID.name: "--inception-weights"}
"""The option of the weights that a metric needs."""
