"""What is being written leaves in order where order matters, else as soon as it is done."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from dinac_cli.errors import OutputError
from dinac_cli.jobs.executor.job import Made, deliver
from dinac_cli.jobs.executor.local import Outbox
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.output import OutputKind

from .hand_made import latents_out


def make(label: str) -> Made:
    return Made(FileResult(label, Status.WRITTEN))


def labels(outbox: Outbox, at_most: int) -> list[str]:
    return [made.result.file for made in outbox.take_ready(at_most)]


def test_unordered_gives_what_is_done() -> None:
    outbox = Outbox(ordered=False)
    futures = [Future[Made]() for _ in range(3)]
    for number, future in enumerate(futures):
        outbox.put(number, future)
    futures[1].set_result(make("1"))
    assert labels(outbox, at_most=3) == ["1"]
    assert len(outbox) == 2
    assert not outbox.waits_for_model


def test_ordered_gives_nothing_before_its_turn() -> None:
    outbox = Outbox(ordered=True)
    futures = [Future[Made]() for _ in range(3)]
    for number, future in enumerate(futures):
        outbox.put(number, future)
    futures[1].set_result(make("1"))
    assert labels(outbox, at_most=3) == []
    futures[0].set_result(make("0"))
    assert labels(outbox, at_most=3) == ["0", "1"]
    futures[2].set_result(make("2"))
    assert labels(outbox, at_most=0) == ["2"]


def test_ordered_does_not_wait_for_what_the_model_has_not_made() -> None:
    outbox = Outbox(ordered=True)
    outbox.put_result(1, FileResult("1", Status.FAILED))
    assert [outbox.waits_for_model] == [True]
    assert labels(outbox, at_most=0) == []  # would otherwise never return
    outbox.put_result(0, FileResult("0", Status.FAILED))
    assert [outbox.waits_for_model] == [False]
    assert labels(outbox, at_most=0) == ["0", "1"]
    assert [outbox.waits_for_model] == [False]


@pytest.mark.parametrize("ordered", [False, True])
def test_waits_until_few_enough_are_left(ordered: bool) -> None:
    outbox = Outbox(ordered=ordered)
    futures = [Future[Made]() for _ in range(3)]
    for number, future in enumerate(futures):
        outbox.put(number, future)

    def finish() -> None:
        for number, future in enumerate(futures):
            time.sleep(0.02)
            future.set_result(make(str(number)))

    thread = threading.Thread(target=finish)
    thread.start()
    assert labels(outbox, at_most=1)[:2] == ["0", "1"]
    assert len(outbox) <= 1
    thread.join()


def test_error_of_a_write_is_raised() -> None:
    outbox = Outbox(ordered=False)
    future = Future[Made]()
    future.set_exception(OutputError("full"))
    outbox.put(0, future)
    with pytest.raises(OutputError, match="full"):
        list(outbox.take_ready(0))


def test_delivery_to_a_folder(tmp_path: Path) -> None:
    result = FileResult("a.jpg", Status.WRITTEN)
    made = deliver(latents_out(tmp_path), "trip/a.jpg.dinac", b"record", result)
    assert made.data == b""
    assert made.result.output == str(tmp_path / "trip/a.jpg.dinac")
    assert (tmp_path / "trip/a.jpg.dinac").read_bytes() == b"record"


def test_delivery_to_a_stream() -> None:
    result = FileResult("a.jpg", Status.WRITTEN)
    made = deliver(latents_out(Path("-"), OutputKind.STREAM), "a.jpg.dinac", b"record", result)
    assert made == Made(result, b"record")
