"""What a training measures of its network."""

from __future__ import annotations

from dinac_cli.images.samples import draw_clouds
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.training.statistics import measure_sensitivity


def test_sensitivity_is_measured_in_the_middle_of_each_image(tiny: DinacAE) -> None:
    """Each image is decoded once per channel, which takes minutes for whole photographs."""
    image = draw_clouds(160, 200)
    whole = measure_sensitivity(tiny, [image], seed=0)
    assert len(whole) == tiny.config.bottleneck_dim
    assert whole == measure_sensitivity(tiny, [image[16:144, 36:164]], seed=0)
    assert whole != measure_sensitivity(tiny, [image[:128, :128]], seed=0)


def test_sensitivity_of_a_small_image_is_of_all_of_it(tiny: DinacAE) -> None:
    image = draw_clouds(40, 200)
    assert measure_sensitivity(tiny, [image], 0) == measure_sensitivity(tiny, [image[:, 36:164]], 0)
