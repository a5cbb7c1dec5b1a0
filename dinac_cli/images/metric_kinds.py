"""Names and describes the metrics of reconstructions. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How a metric of two images, or of two sets of images, is named and shown.

    `name` is its name in options and in JSON, `label` its name in text. `unit` may be empty;
    `digits` follow the decimal point. The metric needs images with sides of at least `smallest`
    pixels, and with at most `largest` pixels in all (None: any number).
    """

    name: str
    label: str
    unit: str = ""
    digits: int = 4
    smallest: int = 1
    largest: int | None = None

    def format(self, value: float) -> str:
        """Returns a value with its digits, without the unit."""
        return f"{value:.{self.digits}f}"

    @property
    def heading(self) -> str:
        """The label with the unit, such as `PSNR (dB)`."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def takes(self, width: int, height: int) -> bool:
        """True if an image of this size has a value."""
        return min(width, height) >= self.smallest and (
            self.largest is None or width * height <= self.largest
        )


PSNR = Metric("psnr", "PSNR", unit="dB", digits=2)
"""See `measure_psnr`."""

SSIM = Metric("ssim", "SSIM", smallest=11)
"""See `measure_ssim`."""

MS_SSIM = Metric("ms-ssim", "MS-SSIM", smallest=161)
"""See `measure_ms_ssim`."""

LPIPS = Metric("lpips", "LPIPS")
"""See `Lpips`. Its values are named after the network, such as `lpips-alex`."""

RFID = Metric("rfid", "rFID", digits=2)
"""See `ReconstructionFid`. It has one value for all pairs."""

METRIC_NAMES = tuple(metric.name for metric in (PSNR, SSIM, MS_SSIM, LPIPS, RFID))
"""The values of `--metrics`."""
