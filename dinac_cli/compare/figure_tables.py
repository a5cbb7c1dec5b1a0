"""The tables of a comparison as plain cells. The card, the page and the screen show the same ones.

The first row of a table holds its headings.
"""

from __future__ import annotations

from collections.abc import Iterator

from dinac_cli.compare.figures import (
    Comparison,
    Speed,
    VariantFigures,
    measure_reduction,
    measure_speedup,
)
from dinac_cli.images.metric_kinds import MS_SSIM, PSNR, SSIM

Table = list[list[str]]

_STATISTICS = {"mean": "Mean PSNR", "std": "Std", "median": "Median", "p5": "P5", "p95": "P95"}


def tabulate_quality(comparison: Comparison) -> Table:
    """Returns the table of PSNR, SSIM and bits per pixel: one row per variant."""
    heads = ["Model", "Precision", "Steps"]
    heads += [f"{title} (dB)" for title in _STATISTICS.values()]
    heads += [SSIM.label, MS_SSIM.label, "Bits per pixel"]
    has_identical = any(figures.psnr.identical for figures in comparison.variants)
    rows = [heads + ["Identical"] * has_identical]
    for figures in comparison.variants:
        rows.append(_list_quality(figures))
        if has_identical:
            rows[-1].append(str(figures.psnr.identical))
    return rows


def _list_quality(figures: VariantFigures) -> list[str]:
    variant = figures.variant
    return [
        variant.model.label,
        variant.precision,
        "-" if variant.steps is None else str(variant.steps),
        *(_format(getattr(figures.psnr, name), PSNR.digits) for name in _STATISTICS),
        _format(figures.ssim, SSIM.digits),
        _format(figures.ms_ssim, MS_SSIM.digits),
        _format(figures.bits_per_pixel, 2),
    ]


def tabulate_speed(comparison: Comparison, task: str) -> Table:
    """Returns the table of speed and memory of "encode" or "decode".

    Returns only headings if nothing was timed.
    """
    speeds = [speed for speed in comparison.speeds if speed.task == task]
    heads = ["Resolution", "Batch", "Model", *(["Steps"] if task == "decode" else [])]
    heads += ["ms/batch", "ms/image", "Images/s", "Peak memory (MiB)"]
    if comparison.baseline is not None:
        heads += [f"Speedup vs {comparison.baseline}", f"Memory reduction vs {comparison.baseline}"]
    return [heads, *(_list_speed(comparison, speed) for speed in speeds)]


def _list_speed(comparison: Comparison, speed: Speed) -> list[str]:
    cells = [f"{speed.side}x{speed.side}", str(speed.batch), speed.model]
    if speed.task == "decode":
        cells.append(str(speed.steps) if speed.steps else "-")
    cells += [
        _format(speed.ms_per_batch, 2),
        _format(speed.ms_per_batch / speed.batch, 3),
        _format(speed.images_per_second, 1),
        _format(speed.peak_mib, 1),
    ]
    if comparison.baseline is None:
        return cells
    rival = comparison.find_rival(speed)
    if rival is None:
        return [*cells, "-", "-"]
    reduction = measure_reduction(speed, rival)
    share = "-" if reduction is None else f"{reduction:.1%}"
    return [*cells, f"{measure_speedup(speed, rival):.2f}x", share]


def describe_images(comparison: Comparison) -> str:
    """Says over how many images the figures are, and how many were left out."""
    count, out = len(comparison.images), comparison.left_out
    text = "1 image" if count == 1 else f"{count} images"
    return f"{text} ({out} failed and left out)" if out else text


def list_notes(comparison: Comparison) -> Iterator[str]:
    """Yields what a reader must know about the table of quality."""
    first, total = comparison.variants[0], len(comparison.images)
    for metric, count in ((SSIM, first.ssim_images), (MS_SSIM, first.ms_ssim_images)):
        if count < total:
            yield (
                f"{metric.label}: {count} of {total} images; the others have a side below "
                f"{metric.smallest} pixels."
            )


def describe_machine(comparison: Comparison) -> str:
    """Names the machine and the software in one line."""
    machine = comparison.machine
    threads = f", {machine['threads']} threads" if machine["device"] == "cpu" else ""
    return (
        f"{machine['name']} ({machine['device']}{threads}), {machine['dtype']}, "
        f"torch {machine['torch']}, dinac {machine['dinac']}"
    )


def _format(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
