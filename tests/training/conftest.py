"""Small images on disk and a small model, which train in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinac_cli.images.samples import draw_clouds, draw_leaves, draw_rings
from dinac_cli.images.writing import write_image
from dinac_cli.models.dinac.autoencoder import DinacAE

TINY = Path(__file__).parents[1] / "golden/tiny"


@pytest.fixture(scope="session")
def photo_paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Five images; small.png is smaller than a crop, the others have at least 64 pixels a side."""
    folder = tmp_path_factory.mktemp("photos")
    images = {
        "clouds.png": draw_clouds(80, 112),
        "leaves.png": draw_leaves(96, 64),
        "rings.png": draw_rings(64, 64),
        "small.png": draw_rings(24, 64),
        "wide.png": draw_clouds(64, 128),
    }
    for name, pixels in images.items():
        (folder / name).write_bytes(write_image(pixels, "png"))
    return [str(folder / name) for name in images]


@pytest.fixture
def tiny() -> DinacAE:
    """The small reference network, float32."""
    torch.manual_seed(0)
    return DinacAE.from_pretrained(TINY)
