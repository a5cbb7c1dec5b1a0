"""`dinac train` as a user runs it: a checkpoint, a stop that is taken up again, refusals."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from .conftest import list_files, save
from .processes import finish, run, start, wait_until

TINY = Path(__file__).parents[1] / "golden/tiny"
QUICK = ("--init", TINY, "--crop", "32", "--batch-size", "2", "--device", "cpu", "--dtype", "f32")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three images, of which one is too small to be cropped."""
    for number, side in enumerate((64, 48, 16)):
        save(tmp_path / f"images/{number}.png", side, side, number)
    return tmp_path / "images"


def test_a_trained_model_is_one_like_any_other(images: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    trained = run("train", images, model, "--steps", "3", *QUICK)
    assert trained.code == 0
    end = rf"\([\d.]+ before\); try it with --model {re.escape(str(model))}"
    assert re.fullmatch(rf"3 steps on 1 image; [\d.]+ dB on 1 held out {end}\n", trained.out)
    assert trained.err.count("\n") == 1
    assert "2.png: 16x16 is smaller than a crop of 32" in trained.err
    assert list_files(model) == ["config.json", "model.safetensors", "training.json"]

    again = run("train", images, model, "--steps", "3", *QUICK)
    assert (again.code, again.out) == (0, f"{model} is trained already\n")

    other = run("train", images, model, "--steps", "4", *QUICK)
    assert other.code == 2
    assert "a finished training of other settings or images" in other.err.splitlines()[-1]

    encoded = run("encode", images, tmp_path / "latents", "--model", model)
    assert encoded.code == 0
    decoded = run("decode", tmp_path / "latents", tmp_path / "decoded", "--model", model)
    assert (decoded.code, len(list_files(tmp_path / "decoded"))) == (0, 3)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_next_run_goes_on(
    images: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    model = tmp_path / "model"
    command = ("train", images, model, "--steps", "1000000", *QUICK)
    process = start(*command)
    wait_until(lambda: _has_read_input(process.pid))
    process.send_signal(number)
    stopped = finish(process)
    assert stopped.code == code
    assert "run the same command again to go on" in stopped.err
    assert list_files(model) == ["training.state"]

    other = run("train", images, model, "--steps", "5", *QUICK)
    assert other.code == 1
    assert "holds a stopped training with other steps" in other.err


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_a_second_ctrl_c_stops_at_once(images: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    process = start("train", images, model, "--steps", "1000000", *QUICK)
    wait_until(lambda: _has_read_input(process.pid))
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert b"once more stops at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert finish(process).code == 130
    assert not model.exists() or set(list_files(model)) <= {"training.state"}


def test_what_cannot_be_trained_is_refused_in_one_line(images: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    cases = {
        "say how long to train": (images, model),
        "either --minutes or --steps": (images, model, "--steps", "3", "--minutes", "1"),
        "no image of at least 128 pixels": (images, model, "--steps", "3", "--crop", "128"),
        "holds other files and no training": (images, images, "--steps", "3"),
        "nosuch: no such file or folder": (images, "nosuch", model, "--steps", "3"),
        "is an empty name": (images, "", "--steps", "3"),
        "multiple of the model's patch": (images, model, "--steps", "3", "--crop", "40"),
    }
    for message, arguments in cases.items():
        refused = run("train", *arguments)
        assert refused.code == 2, message
        assert message in refused.err.splitlines()[-1]
    assert not model.exists()


def _has_read_input(pid: int) -> bool:
    """Whether the process has come to catch signals itself, which it does before it trains."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & 1 << (signal.SIGTERM - 1))
    return False
