"""From results to progress lines, summaries, JSON, the failures file and an exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.commands.failure_list import open_failures
from dinac_cli.commands.run import ScreenOptions, hold_out
from dinac_cli.commands.screen import console as console_module
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.log import LogChoice, open_log
from dinac_cli.commands.screen.progress import RunProgress
from dinac_cli.commands.screen.signals import STOPPING, SignalledStop
from dinac_cli.commands.screen.summary import Summary
from dinac_cli.commands.screen.tables import format_duration, format_size, format_sizes
from dinac_cli.errors import Exit, OutputError, UsageError
from dinac_cli.jobs.executor.control import StageClock
from dinac_cli.jobs.results import FileResult, Status, Tally

from .given import GivenRun, run_given

WRITTEN = FileResult(
    "a.jpg", Status.WRITTEN, output="out/a.jpg.dinac",
    width=100, height=50, bytes_in=2000, bytes_out=500,
)  # fmt: skip
DONE = FileResult("b.jpg", Status.DONE, output="out/b.jpg.dinac")
FAILED = FileResult("c.jpg", Status.FAILED, reason="not an image")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1234, "1.2 kB"),
        (999_949, "999.9 kB"),
        (999_960, "1.0 MB"),
        (5.25e6, "5.2 MB"),
        (7.77e9, "7.8 GB"),
        (1e12, "1.0 TB"),
        (1.5e15, "1500.0 TB"),
    ],
)
def test_size(size: float, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.21, "4.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1:00"),
        (187, "3:07"),
        (3599.4, "59:59"),
        (3599.6, "1:00:00"),
        (7387, "2:03:07"),
        (360000, "100:00:00"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_sizes_with_their_ratio() -> None:
    assert format_sizes(2000, 500) == "2.0 kB → 500 B (0.25x)"
    assert format_sizes(0, 500) == "0 B → 500 B"


class TestTally:
    def test_sizes_count_written_files_only(self) -> None:
        tally = Tally()
        for result in (WRITTEN, DONE, FAILED, FileResult("d", Status.MISSING)):
            tally.add(result)
        assert tally.to_json() == {
            "summary": True,
            "written": 1,
            "redone": 0,
            "done": 1,
            "failed": 2,
            "not_inputs": 0,
            "pixels": 5000,
            "bytes_in": 2000,
            "bytes_out": 500,
        }
        assert tally.finished == 4

    def test_result_leaves_out_empty_fields(self) -> None:
        assert FAILED.to_json() == {"file": "c.jpg", "status": "failed", "reason": "not an image"}
        assert WRITTEN.to_json() == {
            "file": "a.jpg",
            "status": "written",
            "output": "out/a.jpg.dinac",
            "width": 100,
            "height": 50,
            "bytes_in": 2000,
            "bytes_out": 500,
        }
        odd = FileResult("d.gif", Status.WRITTEN, warnings=("first of 3 frames",))
        assert odd.to_json()["warnings"] == ["first of 3 frames"]


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> RunProgress:
    """A run of 100 files at 2 images/s, with 9 done and one failed."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = StageClock()
    clock.seconds = {"read": 1.0, "model": 9.0, "write": 2.0}
    clock.host_seconds = 3.0
    clock.add_busy("", [(0.0, 1.0)])
    progress = RunProgress(clock, 100, SignalledStop(), started=now, workers=2)
    for _ in range(9):
        progress.add(WRITTEN)
    progress.add(FAILED)
    clock.host_seconds += 2.0
    now += 4
    return progress


class TestProgressLine:
    whole = (
        "1 failed  2.0 images/s  ETA 45.0 s  0.0 MP/s  18.0 kB → 4.5 kB (0.25x)  bottleneck: model"
        "  workers 25% busy"
    )

    @pytest.mark.parametrize(
        ("width", "line"),
        [
            (200, whole),
            (80, whole.replace("0.0 MP/s  ", "").replace("  workers 25% busy", "")),
            (60, "1 failed  2.0 images/s  ETA 45.0 s  18.0 kB → 4.5 kB (0.25x)"),
            (40, "1 failed  2.0 images/s  ETA 45.0 s"),
            (33, "1 failed  2.0 images/s"),
            (20, "1 failed"),
            (5, "1 fai"),
        ],
    )
    def test_keeps_the_most_important_figures(
        self, progress: RunProgress, width: int, line: str
    ) -> None:
        assert progress.describe_line(width) == line

    def test_says_how_busy_a_gpu_is(self, progress: RunProgress) -> None:
        progress.clock.add_busy("", [(10.0, 13.0)])
        assert "  device 75% busy  workers 25% busy" in progress.describe_line(200)
        progress.clock.add_busy("", [(9.5, 12.5)])  # two processes share the GPU
        assert "  device 88% busy" in progress.describe_line(200)
        progress.clock.add_busy("", [(20.0, 30.0)])  # work from before the first result
        assert "  device 100% busy" in progress.describe_line(200)

    def test_says_how_busy_several_gpus_are_on_average(self, progress: RunProgress) -> None:
        progress.devices = 2
        progress.clock.add_busy("cuda:0", [(10.0, 13.0)])
        progress.clock.add_busy("cuda:1", [(11.0, 12.0)])
        assert "  device 50% busy" in progress.describe_line(200)

    @pytest.mark.parametrize(
        ("busy", "devices", "elapsed", "hint"),
        [
            (1.6, 1, 40.0, "the GPU was idle 60% of the time: "),
            (3.2, 2, 40.0, "the GPUs were idle 60% of the time: "),
            (3.0, 1, 40.0, None),
            (1.6, 1, 20.0, None),
            (0.0, 1, 40.0, None),  # a CPU: it is unknown
        ],
    )
    def test_hints_at_idle_gpus(
        self, progress: RunProgress, busy: float, devices: int, elapsed: float, hint: str | None
    ) -> None:
        progress.clock.add_busy("", [(10.0, 10.0 + busy)])
        progress.devices = devices
        progress.started = time.monotonic() - elapsed
        said = progress.describe_idle_device()
        assert (said is None) is (hint is None)
        assert hint is None or (said or "").startswith(hint)

    def test_never_exceeds_the_width(self, progress: RunProgress) -> None:
        assert all(len(progress.describe_line(width)) <= width for width in range(200))

    def test_before_the_first_result(self) -> None:
        assert RunProgress(StageClock(), 3, SignalledStop()).describe_line(40) == "starting"

    @pytest.mark.parametrize(
        ("stage", "text"),
        [
            ("read", "reading the first files, 3.0 s"),
            ("model", "loading the model and computing the first batch, 3.0 s"),
        ],
    )
    def test_says_what_the_first_result_waits_for(
        self, monkeypatch: pytest.MonkeyPatch, stage: str, text: str
    ) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: 1003.0)
        clock = StageClock()
        with clock.measure(stage):
            waiting = RunProgress(clock, 3, SignalledStop(), started=1000.0)
            assert waiting.describe_line(80) == text
            waiting.add(DONE)
            checking = "checking finished files, 3.0 s" if stage == "read" else text
            assert waiting.describe_line(80) == f"1 already done  {checking}"
            waiting.add(WRITTEN)
            assert text not in waiting.describe_line(200)

    def test_while_stopping(self, progress: RunProgress) -> None:
        progress.stop.set()
        assert progress.describe_line(80) == STOPPING
        assert progress.describe_line(20) == STOPPING[:20]

    def test_without_a_total(self, progress: RunProgress) -> None:
        progress.total = None
        assert "ETA" not in progress.describe_line(200)

    def test_more_results_than_inputs_make_the_total_unknown(self, progress: RunProgress) -> None:
        """A file may hold several records."""
        for _ in range(90):
            progress.add(WRITTEN)
        assert "ETA 0.0 s" in progress.describe_line(200)
        progress.add(WRITTEN)
        assert progress.total is None
        assert "ETA" not in progress.describe_line(200)


class TestSummary:
    def test_counts_everything(self, progress: RunProgress) -> None:
        progress.add(DONE)
        progress.add(FileResult("e", Status.WRITTEN, reason="the source has changed"))
        progress.tally.not_inputs = 2
        assert Summary("encoded with nano").describe(progress) == (
            "10 encoded with nano, 1 of them again, 1 already done, 1 failed, "
            "2 other files skipped; 18.0 kB → 4.5 kB (0.25x) in 4.0 s"
        )

    def test_without_results(self) -> None:
        empty = RunProgress(StageClock(), 0, SignalledStop())
        assert Summary("decoded").describe(empty) == "0 decoded"


class RemarkingSummary(Summary):
    def remarks(self) -> Iterator[str]:
        yield "a remark"


def report(
    run: GivenRun, out: str | None = None, summary: Summary | None = None, **options: Any
) -> int:
    return run_given(run, summary or Summary("encoded"), ScreenOptions(**options), out)


def parse_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


class TestRun:
    def test_all_done(self, capsys: pytest.CaptureFixture[str]) -> None:
        run = GivenRun(WRITTEN, DONE)
        assert report(run) == 0
        assert run.closed
        out, err = capsys.readouterr()
        summary = r"1 encoded, 1 already done, 7 other files skipped; .* in \d\.\d s\n"
        assert re.fullmatch(summary, out)
        assert err == ""

    def test_failures_are_named_and_set_the_exit_code(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert report(GivenRun(WRITTEN, FAILED)) == 3
        assert capsys.readouterr().err == "dinac: c.jpg: not an image\n"

    def test_missing_counterpart_is_a_failure(self) -> None:
        missing = FileResult("d.jpg", Status.MISSING, reason="has no counterpart in B")
        assert report(GivenRun(missing)) == Exit.FAILURES

    def test_redone_files_and_warnings_are_reported(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        again = FileResult("d.jpg", Status.WRITTEN, output="x", reason="the source has changed")
        odd = FileResult("e.gif", Status.WRITTEN, output="y", warnings=("first of 3 frames",))
        report(GivenRun(again, odd))
        assert capsys.readouterr().err == (
            "dinac: d.jpg: redone: the source has changed\n"
            "dinac: warning: e.gif: first of 3 frames\n"
        )

    def test_verbose_names_every_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        streamed = FileResult("d.jpg", Status.WRITTEN)
        report(GivenRun(WRITTEN, DONE, streamed), verbose=True)
        assert capsys.readouterr().err == (
            "dinac: a.jpg → out/a.jpg.dinac (written)\n"
            "dinac: b.jpg → out/b.jpg.dinac (done)\n"
            "dinac: d.jpg (written)\n"
        )

    def test_quiet_prints_failures_only(self, capsys: pytest.CaptureFixture[str]) -> None:
        report(GivenRun(WRITTEN, FAILED), quiet=True)
        assert capsys.readouterr() == ("", "dinac: c.jpg: not an image\n")

    def test_progress_lines_name_the_verb(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(console_module, "PLAIN_INTERVAL_SECONDS", 0)
        report(GivenRun(DONE, DONE))
        assert capsys.readouterr().err == (
            "dinac: encode 1/2, 1 already done\ndinac: encode 2/2, 2 already done\n"
        )

    def test_json_has_one_object_a_file_and_the_summary_last(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        report(GivenRun(WRITTEN, FAILED), json=True)
        out, err = capsys.readouterr()
        lines = parse_lines(out)
        assert lines[:2] == [WRITTEN.to_json(), FAILED.to_json()]
        assert lines[2]["summary"] is True
        assert (lines[2]["written"], lines[2]["failed"], lines[2]["not_inputs"]) == (1, 1, 7)
        assert err == "dinac: c.jpg: not an image\n"

    def test_json_goes_to_stderr_if_records_go_to_stdout(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        report(GivenRun(WRITTEN), "-", json=True)
        out, err = capsys.readouterr()
        assert out == ""
        assert [line.get("summary", False) for line in parse_lines(err)] == [False, True]

    def test_summary_goes_to_stderr_if_records_go_to_stdout(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        report(GivenRun(WRITTEN), "-")
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("dinac: 1 encoded")

    def test_failures_file(self, tmp_path: Path) -> None:
        path = tmp_path / "failures.jsonl"
        report(GivenRun(WRITTEN, FAILED, DONE), failures=str(path))
        assert parse_lines(path.read_text()) == [FAILED.to_json()]
        report(GivenRun(WRITTEN), failures=str(path))
        assert path.read_text() == ""

    def test_known_failures_are_counted_and_not_printed(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = str(tmp_path / "failed.jsonl")
        other = FileResult("d.jpg", Status.FAILED, reason="empty file (0 bytes)")
        report(GivenRun(FAILED, other), failures=path)
        capsys.readouterr()

        repeated: dict[str, Any] = {"failures": path, "known": path}
        assert report(GivenRun(FAILED, other, WRITTEN), **repeated) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert out.splitlines()[0].startswith("1 encoded, 2 failed, ")
        assert out.splitlines()[1] == f"2 known failures are listed in {path}"
        written = [FAILED.to_json(), other.to_json()]
        assert parse_lines(Path(path).read_text()) == written

        changed = FileResult("c.jpg", Status.FAILED, reason="cannot read: Permission denied")
        new = FileResult("e.jpg", Status.FAILED, reason="not an image")
        assert report(GivenRun(changed, other, new), quiet=True, **repeated) == 3
        said = "dinac: c.jpg: cannot read: Permission denied\ndinac: e.jpg: not an image\n"
        assert capsys.readouterr() == ("", said)

        assert report(GivenRun(other), verbose=True, **repeated) == 0
        out, err = capsys.readouterr()
        assert err == "dinac: d.jpg: empty file (0 bytes)\n"
        assert out.endswith(f"1 known failure is listed in {path}\n")

        assert report(GivenRun(other, FAILED), json=True, **repeated) == 3
        *_, summary = parse_lines(capsys.readouterr().out)
        assert (summary["failed"], summary["known"]) == (2, 1)

    def test_missing_list_of_known_failures_is_empty(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        report(GivenRun(FAILED), known=str(tmp_path / "none"))
        assert capsys.readouterr().err == "dinac: c.jpg: not an image\n"

    def test_other_lines_of_known_failures_are_ignored_with_a_warning(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "failed.jsonl"
        whole = json.dumps(FAILED.to_json()).encode()
        odd = (b"\xff", b"[1]", b"7", b'{"file": 1, "reason": "x"}', b"[" * 100_000, b"{}")
        path.write_bytes(b"\n".join([*odd, whole, whole[:20]]))
        assert report(GivenRun(FAILED), known=str(path)) == 0
        assert capsys.readouterr().err == (
            f"dinac: warning: --known {path}: ignored 7 lines not written by --failures\n"
        )

    def test_unreadable_known_failures_are_refused_before_any_work(self, tmp_path: Path) -> None:
        run = GivenRun(WRITTEN)
        with pytest.raises(UsageError, match=r"--known .*: cannot read: Is a directory"):
            report(run, known=str(tmp_path))
        assert run.given == 0

    def test_stopped_run_keeps_the_list_that_it_would_replace(self, tmp_path: Path) -> None:
        path = tmp_path / "failed.jsonl"
        report(GivenRun(FAILED), failures=str(path))
        before = path.read_bytes()
        repeated: dict[str, Any] = {"failures": str(path), "known": str(path)}
        assert report(GivenRun(signal_number=signal.SIGINT), **repeated) == 130
        new = FileResult("e.jpg", Status.FAILED, reason="not an image")
        assert report(GivenRun(new, WRITTEN), fail_fast=True, **repeated) == 3
        assert path.read_bytes() == before
        assert report(GivenRun(WRITTEN), **repeated) == 0
        assert path.read_bytes() == b""
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_device_is_never_replaced(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        with open_failures(str(pipe), str(pipe)) as note:
            note(FAILED)
        assert json.loads(os.read(reader, 4096)) == FAILED.to_json()
        os.close(reader)
        assert pipe.is_fifo()
        assert list(tmp_path.iterdir()) == [pipe]

    def test_log_gets_what_a_quiet_run_does_not_print(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "log"
        log = LogChoice(path=str(path), command_line="dinac encode")
        warned = FileResult("d.jpg", Status.WRITTEN, warnings=("only frame 1 of 3",))
        summary = RemarkingSummary("encoded")
        assert report(GivenRun(warned), quiet=True, log=log, summary=summary) == 0
        assert capsys.readouterr() == ("", "")
        texts = [line.partition("] ")[2] for line in path.read_text().splitlines()]
        assert texts[:2] == ["start: dinac encode", "warning: d.jpg: only frame 1 of 3"]
        assert texts[2].startswith("1 encoded, 7 other files skipped; ")
        assert texts[3:] == ["a remark", "exit 0"]

    def test_quiet_run_with_a_log_says_that_it_was_stopped(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "log"
        run = GivenRun(signal_number=signal.SIGTERM)
        assert report(run, quiet=True, log=LogChoice(path=str(path), command_line="dinac")) == 143
        out, err = capsys.readouterr()
        stopped = "stopped before the end; run the same command again to continue"
        assert out == ""
        assert err.splitlines()[1:] == [f"dinac: {stopped}", f"dinac: {path} has the details"]
        assert path.read_text().splitlines()[-1].endswith("exit 143")
        assert stopped in path.read_text()

    def test_log_is_not_replaced_by_the_list_of_failures(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_text("earlier runs\n")
        log = LogChoice(path=str(path), command_line="dinac")
        with pytest.raises(UsageError, match="--log and --failures name the same file"):
            report(GivenRun(FAILED), log=log, failures=f"{tmp_path}/./log")
        assert path.read_text() == "earlier runs\n"
        path.unlink()
        with pytest.raises(UsageError, match="--log and --failures name the same file"):
            report(GivenRun(FAILED), log=log, failures=str(path))
        assert not path.exists()

    def test_log_gets_the_end_of_a_run_with_an_error(self, tmp_path: Path) -> None:
        log = LogChoice(path=str(tmp_path / "log"), command_line="dinac")
        ends = {
            BrokenPipeError(): ["exit 141"],
            KeyboardInterrupt(): ["exit 130"],
            OutputError("disk full;\nfree some space"): [
                "error: disk full; free some space",
                "exit 1",
            ],
            AssertionError(): ["error: AssertionError", "exit 1"],
        }
        for error, texts in ends.items():
            with pytest.raises(type(error)), open_log(log):
                raise error
            lines = (tmp_path / "log").read_text().splitlines()
            assert [line.partition("] ")[2] for line in lines][-len(texts) :] == texts

    def test_no_progress_leaves_the_summary_and_failures(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(console_module, "PLAIN_INTERVAL_SECONDS", 0)
        report(GivenRun(FAILED, DONE), no_progress=True)
        out, err = capsys.readouterr()
        assert out == "0 encoded, 1 already done, 1 failed, 7 other files skipped\n"
        assert err == "dinac: c.jpg: not an image\n"

    def test_unwritable_failures_file_is_refused_before_any_work(self, tmp_path: Path) -> None:
        run = GivenRun(WRITTEN)
        with pytest.raises(OutputError, match=r"--failures .*: cannot write: Is a directory"):
            report(run, failures=str(tmp_path))
        assert run.given == 0

    def test_fail_fast_stops_at_the_first_failure(self) -> None:
        run = GivenRun(FAILED, WRITTEN, WRITTEN)
        assert report(run, fail_fast=True) == Exit.FAILURES
        assert run.given == 1
        assert run.closed

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, Exit.TERMINATED)]
    )
    def test_signal(self, capsys: pytest.CaptureFixture[str], number: int, code: int) -> None:
        run = GivenRun(WRITTEN, FAILED, signal_number=number)
        assert report(run) == code
        assert run.given == 0
        assert capsys.readouterr().err == (
            "dinac: stopped before the end; run the same command again to continue\n"
        )

    def test_remark_is_printed_unless_the_run_was_stopped(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        report(GivenRun(DONE), summary=RemarkingSummary("encoded"))
        assert capsys.readouterr().err == "dinac: a remark\n"
        report(GivenRun(DONE, signal_number=signal.SIGINT), summary=RemarkingSummary("encoded"))
        assert "a remark" not in capsys.readouterr().err

    def test_run_is_closed_if_a_line_cannot_be_printed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(console: Console, value: object, *, to_stderr: bool = False) -> None:
            raise BrokenPipeError

        monkeypatch.setattr(Console, "print_json", refuse)
        run = GivenRun(WRITTEN)
        with pytest.raises(BrokenPipeError) as caught:
            report(run, json=True)
        assert run.closed, "even while the frames of the error refer to it"
        del caught


def test_no_failures_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_failures(None) as write:
        write(FAILED)
    assert not list(tmp_path.iterdir())


def test_lock_of_a_remote_place_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    with hold_out(None, Console(quiet=False), "https://user:secret@host/latents?key=secret"):
        pass
    assert capsys.readouterr().err == (
        "dinac: warning: https://host/latents: --lock has no effect here; "
        "two runs write the same files\n"
    )
