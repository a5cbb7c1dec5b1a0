"""rFID: the distance of the features of all pairs, and too few of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from scipy.linalg import sqrtm

from dinac_cli.commands.psnr import PsnrTable
from dinac_cli.commands.run import ScreenOptions
from dinac_cli.errors import Exit, UsageError
from dinac_cli.images.pixels import Pixels
from dinac_cli.jobs.measures import PSNR_ALONE, Measures
from dinac_cli.jobs.psnr import MeasureOptions, PsnrRun, measure_pairs
from dinac_cli.jobs.results import FileResult, Status, Tally
from dinac_cli.jobs.rfid import ReconstructionFid

from .hand_made import run_control

FEATURES = 4


class MeanColours:
    """In place of the Inception network: describes an image by four numbers."""

    def describe(self, pixels: Pixels) -> np.ndarray:
        return np.array([*pixels.mean(axis=(0, 1)), pixels.std()])


def open_measures() -> Measures:
    network = cast(Any, MeanColours())
    return Measures(PSNR_ALONE.pairs, ReconstructionFid(network, FEATURES))


def write_sets(folder: Path, count: int) -> dict[str, list[Pixels]]:
    rng = np.random.default_rng(0)
    images: dict[str, list[Pixels]] = {"A": [], "B": []}
    for side, most in (("A", 256), ("B", 200)):
        (folder / side).mkdir()
        for number in range(count):
            image = rng.integers(0, most, (9, 8, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / side / f"{number}.png")
            images[side].append(image)
    return images


def measure(folder: Path, measures: Measures) -> list[FileResult]:
    first, second = str(folder / "A"), str(folder / "B")
    return list(measure_pairs(first, second, MeasureOptions(), run_control(), measures=measures))


def test_rfid_is_the_distance_of_all_features(tmp_path: Path) -> None:
    images = write_sets(tmp_path, 12)
    measures = open_measures()
    results = measure(tmp_path, measures)
    assert [list(result.metrics) for result in results] == [["psnr"]] * 12
    described = [[MeanColours().describe(image) for image in images[side]] for side in "AB"]
    mean, other_mean = (np.mean(vectors, axis=0) for vectors in described)
    covariance, other_covariance = (np.cov(vectors, rowvar=False) for vectors in described)
    root = np.real(sqrtm(covariance @ other_covariance))
    expected = ((mean - other_mean) ** 2).sum() + np.trace(covariance + other_covariance - 2 * root)
    assert expected > 10
    assert measures.rfid is not None
    assert measures.rfid.count == 12
    assert measures.rfid.measure() == pytest.approx(expected)


def make_run(folder: Path, measures: Measures) -> PsnrRun:
    return PsnrRun(
        work=lambda control: (_ for _ in ()),
        first=str(folder / "A"),
        second=str(folder / "B"),
        measures=measures,
    )


def test_too_few_images_are_refused_before_the_run(tmp_path: Path) -> None:
    write_sets(tmp_path, FEATURES - 1)
    with pytest.raises(
        UsageError, match=r"^rFID needs at least 4 pairs of images, and there are 3;"
    ):
        make_run(tmp_path, open_measures()).count()
    assert make_run(tmp_path, PSNR_ALONE).count() == FEATURES - 1


def test_too_few_measured_pairs_have_no_value_and_exit_code_3(tmp_path: Path) -> None:
    write_sets(tmp_path, FEATURES)
    (tmp_path / "B/0.png").write_bytes(b"text")
    measures = open_measures()
    assert make_run(tmp_path, measures).count() == FEATURES
    results = measure(tmp_path, measures)
    assert [result.status for result in results] == [Status.FAILED] + [Status.MEASURED] * 3
    table = PsnrTable(ScreenOptions(), measures=measures)
    tally = Tally()
    for result in results[1:]:
        table.add(result)
        tally.add(result)
    assert table.choose_exit(tally) is Exit.FAILURES
    assert measures.rfid is not None
    measures.rfid.add(*(np.full((4, 4, 3), value, np.uint8) for value in (3, 9)))
    enough = PsnrTable(ScreenOptions(), measures=measures)
    assert enough.choose_exit(tally) is Exit.DONE
