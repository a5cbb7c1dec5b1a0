"""Which metrics are measured, with which weights, and of which sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dinac_cli.errors import UsageError
from dinac_cli.images.metric_kinds import METRIC_NAMES, MS_SSIM, SSIM
from dinac_cli.jobs.measures import WEIGHT_OPTIONS, MetricChoice, adapt_lpips
from dinac_cli.models.perceptual.backbones import SQUEEZE
from dinac_cli.models.perceptual.lpips import Lpips


def test_metrics_without_weights_are_opened_in_their_order() -> None:
    measures = MetricChoice(names=("ms-ssim", "psnr", "ssim")).open()
    assert [metric.name for metric in measures.metrics] == ["ms-ssim", "psnr", "ssim"]
    assert set(METRIC_NAMES) == {"ms-ssim", "psnr", "ssim", *WEIGHT_OPTIONS}
    image = np.zeros((20, 30, 3), np.uint8)
    values = measures.measure(image, image + np.uint8(1))
    assert list(values) == ["ms-ssim", "psnr", "ssim"]
    assert values["ms-ssim"] is None
    assert values["psnr"] == pytest.approx(48.1308036)
    assert not MS_SSIM.takes(30, 20)
    assert SSIM.takes(30, 20)


def test_unknown_metric_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^metric vmaf: choose from psnr, ssim, ms-ssim, lpips,"):
        MetricChoice(names=("vmaf",))


def test_lpips_has_no_value_outside_the_limits_of_its_network() -> None:
    weights = {name: torch.ones(shape) for name, shape in SQUEEZE.list_shapes()}
    weights |= {f"lin{n}.weight": torch.ones(1, c, 1, 1) for n, c in enumerate(SQUEEZE.channels)}
    backbone = replace(SQUEEZE, largest=40 * 30)
    measure = adapt_lpips(Lpips(backbone, weights))
    assert (measure.metric.name, measure.metric.label) == ("lpips-squeeze", "LPIPS-squeeze")
    for size, has_value in {(40, 30): True, (41, 30): False, (16, 17): False}.items():
        image = np.zeros((*size, 3), np.uint8)
        assert (measure.measure(image, image) == 0.0) is has_value
        assert (measure.measure(image, image) is None) is not has_value
