"""The stages of a run, alone and together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinac_cli.bench import stages
from dinac_cli.bench.stages import StageFigures, measure_decode, measure_encode
from dinac_cli.codec.flight import Pending
from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.errors import DinacError
from dinac_cli.models.dinac.model import DinacModel

TINY = Path(__file__).parent.parent / "golden/tiny"


def load(part: str) -> ModelHandle:
    return ModelHandle(DinacModel(TINY, "tiny"), part, DeviceChoice(device="cpu", dtype="f32"))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((20 + number, 30, 3), 80 * number, np.uint8)).save(path)
    return [*paths, paths[0]]


def test_all_stages_of_encode_and_decode_are_timed(images: list[Path], tmp_path: Path) -> None:
    encoded = measure_encode(images, load("encoder"), 2, tmp_path / "latents")
    assert (encoded.command, encoded.files) == ("encode", 4)
    for part in ("parts", "whole"):
        assert len(list((tmp_path / "latents" / part).iterdir())) == 4
    latents = sorted((tmp_path / "latents/whole").iterdir())
    decoded = measure_decode(latents, load("decoder"), 2, tmp_path / "decoded")
    assert (decoded.command, decoded.files) == ("decode", 4)
    parts, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / "decoded" / part).iterdir()}
        for part in ("parts", "whole")
    )
    assert parts == whole
    assert len(parts) == 4
    for figures in (encoded, decoded):
        assert min(figures.read_seconds, figures.model_seconds, figures.write_seconds) > 0
        assert min(figures.overlapped_seconds, figures.whole_seconds) > 0


def test_each_figure_is_its_fastest_round(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = iter([(1, 9, 3, 5, 8), (2, 9, 1, 4, 9), (3, 7, 2, 6, 7)])
    monkeypatch.setattr(stages, "_time_round", lambda *_: next(rounds))
    figures = measure_encode(images, load("encoder"), 2, tmp_path / "latents")
    assert figures == StageFigures("encode", 4, 1, 7, 1, 4, 7)


def test_ratios_compare_the_whole_with_its_parts() -> None:
    figures = StageFigures("encode", 9, 1.0, 4.0, 2.0, 2.5, 5.0)
    assert figures.ratio == 1.25
    assert figures.overlapped_ratio == 2


def test_model_runs_one_by_one_and_then_overlapped(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("encoder")
    engine, in_flight, seen = model.engine, [0], list[int]()
    submit = engine.submit_images

    class Counted:
        def __init__(self, pending: Pending[Any]) -> None:
            self.pending = pending
            in_flight[0] += 1
            seen.append(in_flight[0])

        @property
        def is_done(self) -> bool:
            return self.pending.is_done

        def result(self) -> Any:
            in_flight[0] -= 1
            return self.pending.result()

    monkeypatch.setattr(stages, "ROUNDS", 1)
    monkeypatch.setattr(stages, "_run", lambda *_: None)
    monkeypatch.setattr(
        engine, "submit_images", lambda *args, **extras: Counted(submit(*args, **extras))
    )
    measure_encode(images, model, 2, tmp_path / "latents")
    assert seen == [1, 1, 1, 1, 1, 2, 3, 4]


def test_failing_file_is_an_error(images: list[Path], tmp_path: Path) -> None:
    images[2].write_bytes(b"no image")
    with pytest.raises(DinacError):
        measure_encode(images, load("encoder"), 2, tmp_path / "latents")
