"""What an image costs on its way into a shard, also with several processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinac_cli.bench import shard_costs
from dinac_cli.bench.shard_costs import QUALITY, make_jpegs, measure_pipeline
from dinac_cli.errors import DinacError, ImageError
from tests.cli.conftest import save

from .test_host import open_model


def test_images_become_squares(tmp_path: Path) -> None:
    from PIL import Image

    paths = make_jpegs([save(tmp_path / "a.png", 90, 60)], 32, tmp_path / "made")
    with Image.open(paths[0]) as made:
        assert (made.format, made.size) == ("JPEG", (32, 32))
    assert QUALITY < 95
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ImageError):
        make_jpegs([tmp_path / "b.png"], 32, tmp_path / "made")


def test_several_processes_write_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_costs, "SHARD_IMAGES", 5)
    images = make_jpegs([save(tmp_path / "a.png", 90, 60)], 32, tmp_path / "made")
    cost = measure_pipeline(images, open_model("encoder"), tmp_path / "out", 2, 0.05)
    assert cost.processes == 2
    assert cost.images_per_second > 0
    assert (cost.parent_us or 0) > 0
    assert cost.cpu_ms is cost.main_ms is None
    assert (tmp_path / "out/_dinac/run.json").exists()


def test_a_file_that_fails_ends_the_measurement(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DinacError, match=r"a\.jpg: not an image"):
        measure_pipeline([tmp_path / "a.jpg"], open_model("encoder"), tmp_path / "out", 1, 0.05)
