"""The figures of a comparison: per variant over the common images, and the speeds."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dinac_cli.compare.result_files import Measure, ResultFile
from dinac_cli.compare.variants import ComparedModel, Variant
from dinac_cli.images.metrics import PsnrSummary, summarise_psnr


@dataclass(frozen=True, eq=False)
class VariantFigures:
    """The figures of one variant over the images of the comparison.

    `psnr_db` are the values of all images. `ssim` and `ms_ssim` are means over `ssim_images` and
    `ms_ssim_images`, the images that are large enough; None if there are none. `bits_per_pixel` is
    the size of all records in bits, divided by all pixels.
    """

    variant: Variant
    psnr_db: Sequence[float]
    psnr: PsnrSummary
    ssim: float | None
    ssim_images: int
    ms_ssim: float | None
    ms_ssim_images: int
    bits_per_pixel: float

    def to_json(self) -> dict[str, Any]:
        """Returns the figures without the values of the images."""
        variant = self.variant
        return {
            "model": variant.model.label,
            "precision": variant.precision,
            "steps": variant.steps,
            "seed": None if variant.steps is None else variant.settings.seed,
            "results": f"results/{variant.slug}.jsonl",
            "psnr_db": asdict(self.psnr),
            "ssim": self.ssim,
            "ssim_images": self.ssim_images,
            "ms_ssim": self.ms_ssim,
            "ms_ssim_images": self.ms_ssim_images,
            "bits_per_pixel": self.bits_per_pixel,
        }


def summarise_variant(variant: Variant, measures: Iterable[Measure]) -> VariantFigures:
    """Summarises the measures of one variant. There is at least one."""
    psnr_db, ssim, ms_ssim = array("d"), array("d"), array("d")
    record_bytes = pixels = 0
    for measure in measures:
        psnr_db.append(measure.psnr_db)
        ssim.extend([] if measure.ssim is None else [measure.ssim])
        ms_ssim.extend([] if measure.ms_ssim is None else [measure.ms_ssim])
        record_bytes += measure.record_bytes
        pixels += measure.pixels
    return VariantFigures(
        variant=variant,
        psnr_db=psnr_db,
        psnr=summarise_psnr(psnr_db),
        ssim=_average(ssim),
        ssim_images=len(ssim),
        ms_ssim=_average(ms_ssim),
        ms_ssim_images=len(ms_ssim),
        bits_per_pixel=8 * record_bytes / pixels,
    )


def _average(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speed and memory of a model for one task ("encode" or "decode") and image size.

    `steps` is 0 for encode, and for a decoder without diffusion steps. Images are `side` by `side`
    pixels, `batch` of them in a call. `peak_mib` is None if it is unknown.
    """

    model: str
    task: str
    steps: int
    side: int
    batch: int
    ms_per_batch: float
    peak_mib: float | None

    @property
    def images_per_second(self) -> float:
        """The images that the device computes in a second."""
        return 1000 * self.batch / self.ms_per_batch


def find_rival(speed: Speed, speeds: Sequence[Speed], baseline: str) -> Speed | None:
    """Returns the same task of the baseline, or None.

    A decoder without diffusion steps is compared with any number of steps.
    """
    for other in speeds:
        is_same_task = (other.model, other.task, other.side) == (baseline, speed.task, speed.side)
        if is_same_task and (other.steps == speed.steps or 0 in (other.steps, speed.steps)):
            return other
    return None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that a comparison found.

    `images` are the names of the images that were measured in all variants, in their order;
    `left_out` is the number of the others. `shown` are those with pictures. `baseline` is the label
    of a model, or None. `machine` are facts about the machine and the software, `settings` says how
    the images were read.
    """

    images: Sequence[str]
    left_out: int
    shown: Sequence[str]
    models: Sequence[ComparedModel]
    variants: Sequence[VariantFigures]
    speeds: Sequence[Speed]
    baseline: str | None
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    command: str
    results: Mapping[Variant, ResultFile] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of compare.json."""
        return {
            "command": self.command,
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "images": len(self.images),
            "left_out": self.left_out,
            "baseline": self.baseline,
            "models": [_describe_model(model) for model in self.models],
            "variants": [figures.to_json() for figures in self.variants],
            "speeds": [self._describe_speed(speed) for speed in self.speeds],
            "shown": list(self.shown),
        }

    def find_rival(self, speed: Speed) -> Speed | None:
        """Returns the same task of the baseline, or None."""
        return None if self.baseline is None else find_rival(speed, self.speeds, self.baseline)

    def _describe_speed(self, speed: Speed) -> dict[str, Any]:
        rival = self.find_rival(speed)
        return asdict(speed) | {
            "images_per_second": speed.images_per_second,
            "speedup": None if rival is None else measure_speedup(speed, rival),
            "memory_reduction": None if rival is None else measure_reduction(speed, rival),
        }


def measure_speedup(speed: Speed, rival: Speed) -> float:
    """Returns how many times as fast as the rival a model is, in images per second."""
    return speed.images_per_second / rival.images_per_second


def measure_reduction(speed: Speed, rival: Speed) -> float | None:
    """Returns 1 - m, where m is the peak memory divided by the rival's; None if it is unknown."""
    if speed.peak_mib is None or not rival.peak_mib:
        return None
    return 1 - speed.peak_mib / rival.peak_mib


def _describe_model(model: ComparedModel) -> dict[str, Any]:
    handle, identity = model.handle, model.handle.identity
    return {
        "model": model.label,
        "latent_space": identity.latent_space,
        "weights": identity.weights,
        "compute": handle.compute,
        "patch": handle.traits.patch,
        "channels": handle.traits.channels,
    }
