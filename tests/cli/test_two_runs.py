"""Two concurrent runs into one OUT: all files are whole; a second training is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dinac_cli.training.trainer import StepReport, Trainer

from .conftest import list_files, read_files, save
from .processes import Finished, finish, get_client, run, run_process, start

TINY = Path(__file__).parents[1] / "golden/tiny"
QUICK = ("--init", TINY, "--crop", "32", "--batch-size", "2", "--device", "cpu", "--dtype", "f32")


def test_concurrent_encode_and_decode_write_whole_files(tmp_path: Path) -> None:
    for number in range(30):
        save(tmp_path / f"images/{number:02}.png", 48, 48, number)
    for command in (("encode", "images", "latents"), ("decode", "latents", "decoded")):
        both = [finish(process) for process in [start(*command, cwd=tmp_path) for _ in range(2)]]
        assert [(done.code, done.err) for done in both] == [(0, ""), (0, "")]
        alone = run(*command[:2], f"{command[2]}-alone", cwd=tmp_path)
        assert alone.code == 0
        made = read_files(tmp_path / command[2])
        assert len(made) == 30
        assert made == read_files(tmp_path / f"{command[2]}-alone")


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of folders")
def test_second_training_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        save(tmp_path / f"images/{number}.png", 48, 48, number)
    command = ("train", "images", "model", "--steps", "2", *QUICK)
    seconds: list[Finished] = []
    take_step = Trainer.step

    def start_second(trainer: Trainer, done: float) -> StepReport:
        if not seconds:
            seconds.append(run_process(*command, cwd=tmp_path, program=get_client()))
        return take_step(trainer, done)

    monkeypatch.setattr(Trainer, "step", start_second)
    assert run(*command, cwd=tmp_path).code == 0
    [second] = seconds
    reason = "another training is writing there; wait for its end, or choose another OUT"
    assert (second.code, second.out, second.err) == (1, "", f"dinac: model: {reason}\n")
    assert list_files(tmp_path / "model") == ["config.json", "model.safetensors", "training.json"]
