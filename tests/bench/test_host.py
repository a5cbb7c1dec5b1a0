"""How fast the host feeds a model: every stage and number of processes has a figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinac_cli.bench import host
from dinac_cli.bench.host import FORMATS, list_counts, list_tasks, measure_task
from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.container.record import unpack_record
from dinac_cli.errors import DinacError
from dinac_cli.models.dinac.model import DinacModel
from tests.cli.conftest import save

GOLDEN = Path(__file__).parent.parent / "golden"


def open_model(part: str) -> ModelHandle:
    choice = DeviceChoice(device="cpu", dtype="f32")
    return ModelHandle(DinacModel(GOLDEN / "tiny", "tiny"), part, choice)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [save(tmp_path / f"{number}.jpg", 32, 32, number) for number in range(3)]


@pytest.mark.parametrize(
    ("processors", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_numbers_of_processes(processors: int, counts: list[int]) -> None:
    assert list_counts(processors) == counts


def test_every_task_has_its_figures(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_WARM_SECONDS", 0.0)
    monkeypatch.setattr(host, "_BATCH_TOKENS", 64)  # the first result waits for a whole batch
    encoder, decoder = open_model("encoder"), open_model("decoder")
    figures = []
    for task in list_tasks(images, encoder, decoder, tmp_path / "records"):
        counts = [1, 2] if task.name == "encode" else [1]
        figures.append(measure_task(task, counts, tmp_path, 0.05, 1000.0))
    assert [row.task for row in figures] == ["encode", *(f"decode to {form}" for form in FORMATS)]
    for row in figures:
        assert min(row.read, row.pack, row.write) > 0
        assert row.model == 1000.0
        assert all(one.images_per_second > 0 for one in row.whole)
    assert [(one.processes, one.parent_us is None) for one in figures[0].whole] == [
        (1, True),
        (2, False),
    ]
    assert (figures[0].whole[1].parent_us or 0) > 0
    assert "engine" not in vars(encoder)  # the model was neither loaded nor replaced


def test_the_model_is_measured_unless_its_rate_is_given(images: list[Path], tmp_path: Path) -> None:
    task = next(list_tasks(images, open_model("encoder"), open_model("decoder"), tmp_path))
    assert measure_task(task, [], tmp_path, 0.05).model > 0


def test_the_records_are_valid(images: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "records"
    tasks = list(list_tasks(images, open_model("encoder"), open_model("decoder"), folder))
    records = sorted(folder.glob("*.dinac"))
    assert len(records) == len(tasks[1].entries) == 3
    for record in records:
        unpack_record(record.read_bytes())


def test_a_bad_image_is_an_error(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("not a picture")
    tasks = list_tasks([bad], open_model("encoder"), open_model("decoder"), tmp_path)
    task = next(tasks)
    with pytest.raises(DinacError, match="not an image"):
        measure_task(task, [1], tmp_path, 0.05, 1.0)
