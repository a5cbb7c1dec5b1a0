"""The console: which stream each line goes to, escaped names, plain lines and the bar."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import time
from dataclasses import dataclass

import pytest

from dinac_cli.commands.screen import console as console_module
from dinac_cli.commands.screen.console import Console, escape_unprintable


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@dataclass
class State:
    done: int = 3
    total: int | None = 10

    def describe_line(self, width: int) -> str:
        return "4.5 images/s [bold]"[:width]


def use_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Puts a terminal of 60 columns on stderr. A fixture cannot: capturing would undo it."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "60"), ("LINES", "20")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return terminal


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a.jpg", "a.jpg"),
        ("naïve 図 #1 (copy).jpg", "naïve 図 #1 (copy).jpg"),
        ("[red]a[/red] :smile: {x} %s", "[red]a[/red] :smile: {x} %s"),
        ("a\nb\tc\r\x1b[31m\x00\x7f", "a\\nb\\tc\\r\\x1b[31m\\x00\\x7f"),
        (os.fsdecode(b"caf\xe9.jpg"), "caf\\xe9.jpg"),
        ("\ud800", "\\ud800"),
        ("a\u202egpj", "a\\u202egpj"),
        ("a\u2028b\xa0c", "a\\u2028b\\xa0c"),
        ("\U000e0001", "\\U000e0001"),
        ("", ""),
    ],
)
def test_unprintable_characters_are_escaped(text: str, escaped: str) -> None:
    assert escape_unprintable(text) == escaped


class TestStreams:
    def test_results_go_to_stdout_and_the_rest_to_stderr(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        console = Console()
        console.print_result("result")
        console.print_json({"a": 1})
        console.print_json({"b": 2}, to_stderr=True)
        console.say("remark")
        console.warn("a.jpg: odd")
        console.fail("a.jpg: bad")
        out, err = capsys.readouterr()
        assert out == 'result\n{"a": 1}\n'
        assert err == '{"b": 2}\ndinac: remark\ndinac: warning: a.jpg: odd\ndinac: a.jpg: bad\n'

    def test_quiet_prints_errors_and_requested_data_only(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        console = Console(quiet=True)
        console.print_result("result")
        console.print_json({"a": 1})
        console.say("remark")
        console.warn("odd")
        console.fail("bad")
        assert capsys.readouterr() == ('{"a": 1}\n', "dinac: bad\n")

    def test_names_are_escaped_and_never_markup(self, capsys: pytest.CaptureFixture[str]) -> None:
        Console().fail("[red]x[/red]\x1b[31m\nnext: bad")
        assert capsys.readouterr().err == "dinac: [red]x[/red]\\x1b[31m\\nnext: bad\n"

    def test_json_is_one_line_of_ascii(self, capsys: pytest.CaptureFixture[str]) -> None:
        name = os.fsdecode(b"caf\xe9\n.jpg")
        Console().print_json({"file": name})
        out = capsys.readouterr().out
        assert out.isascii()
        assert out.count("\n") == 1
        assert json.loads(out) == {"file": name}

    def test_json_refuses_infinity(self) -> None:
        with pytest.raises(ValueError, match="JSON"):
            Console().print_json({"psnr": float("inf")})

    def test_characters_outside_the_encoding_are_escaped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))
        Console().say("1 kB → 2 kB ü→ö")
        Console().warn("|Δ| ≥ 2 (… and …); a…b |Δ")
        assert raw.getvalue() == (
            b"dinac: 1 kB -> 2 kB \\xfc\\u2192\\xf6\n"
            b"dinac: warning: |delta| >= 2 (... and ...); a\\u2026b |\\u0394\n"
        )

    def test_bar_and_lines_above_it_fit_the_encoding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Sizes(State):
            def describe_line(self, width: int) -> str:
                return "1 kB → 2 kB"

        terminal = use_terminal(monkeypatch)
        terminal.encoding = "cp1252"
        console = Console()
        with console.track("encode", Sizes()) as update:
            update()
            console.say("a.jpg → b.jpg")
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
        assert "1 kB -> 2 kB" in text
        assert "a.jpg -> b.jpg" in text
        text.encode("cp1252")  # the bar, too

    @pytest.mark.parametrize("name", ["stdout", "stderr"])
    def test_closed_stream_is_skipped(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, name, None)
        console = Console()
        console.print_result("x")
        console.say("x")
        assert not console.draws_bar


class TestPlainLines:
    def test_one_line_every_few_seconds(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        state = State()
        with Console().track("encode", state) as update:
            for _ in range(24):
                now += 0.5
                update()
            state.total = None
            now += 5
            update()
        assert capsys.readouterr() == (
            "",
            "dinac: encode 3/10, 4.5 images/s [bold]\n" * 2
            + "dinac: encode 3, 4.5 images/s [bold]\n",
        )

    def test_none_if_quiet(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(console_module, "PLAIN_INTERVAL_SECONDS", 0)
        with Console(quiet=True).track("encode", State()) as update:
            update()
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize("term", ["dumb", "unknown"])
    def test_used_on_a_terminal_that_cannot_redraw(
        self, term: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        terminal = use_terminal(monkeypatch)
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(console_module, "PLAIN_INTERVAL_SECONDS", 0)
        console = Console()
        assert not console.draws_bar
        with console.track("encode", State()) as update:
            update()
        assert terminal.getvalue() == "dinac: encode 3/10, 4.5 images/s [bold]\n"

    def test_none_without_progress(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(console_module, "PLAIN_INTERVAL_SECONDS", 0)
        console = Console(progress=False)
        with console.track("encode", State()) as update:
            update()
            console.say("remark")
            console.print_result("result")
        assert capsys.readouterr() == ("result\n", "dinac: remark\n")


class TestBar:
    def test_is_drawn_and_removed_at_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = use_terminal(monkeypatch)
        console = Console()
        assert console.draws_bar
        with console.track("encode", State()) as update:
            update()
            console.fail("[red]x[/red] :smile:\n: bad")
            console.print_json({"file": "[red]"}, to_stderr=True)
        assert console._live is None
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
        assert "dinac: [red]x[/red] :smile:\\n: bad" in text
        assert '{"file": "[red]"}' in text
        assert "encode" in text
        assert "3/10" in text
        assert "4.5 images/s [bold]" in text
        assert terminal.getvalue().endswith(("\x1b[1A\x1b[2K", "\x1b[?25h"))

    def test_none_without_progress(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = use_terminal(monkeypatch)
        console = Console(progress=False)
        assert not console.draws_bar
        with console.track("encode", State()), console.track_phases("encode", State()):
            console.say("remark")
        assert terminal.getvalue() == "dinac: remark\n"

    def test_results_and_json_are_printed_without_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Standard output is the same terminal."""
        terminal = use_terminal(monkeypatch)
        monkeypatch.setattr(sys, "stdout", terminal)
        console = Console()
        with console.track("encode", State()):
            for text in ("first", "second"):
                console.print_result(text)
                assert f"\x1b[2K{text}\n\x1b[?25l" in terminal.getvalue()
            console.print_json({"file": "a"})
            assert '\x1b[2K{"file": "a"}\n\x1b[?25l' in terminal.getvalue()
        assert console._live is None
        assert terminal.getvalue().endswith(("\x1b[1A\x1b[2K", "\x1b[?25h"))

    def test_cursor_stays_visible_in_phases(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """SIGTERM may end the process before anything could show the cursor again."""
        terminal = use_terminal(monkeypatch)
        with Console().track_phases("bench", State(), ticks=False) as update:
            update()
            assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")
            assert "3/10" in terminal.getvalue()

    def test_is_redrawn_on_request_only_if_it_does_not_tick(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        terminal, state = use_terminal(monkeypatch), State()
        earlier = set(threading.enumerate())  # a bar of an earlier test may still be ending
        with Console().track_phases("bench", state, ticks=False) as update:
            update()
            drawn = terminal.getvalue()
            assert set(threading.enumerate()) <= earlier
            state.done = 4
            assert terminal.getvalue() == drawn
            update()
            assert "4/10" in terminal.getvalue()

    def test_is_not_drawn_without_a_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Silent(State):
            def describe_line(self, width: int) -> str:
                return ""

        terminal = use_terminal(monkeypatch)
        with Console().track_phases("plan", Silent(), ticks=False) as update:
            update()
            update()
        assert re.sub(r"\x1b\[\??[0-9]*[a-zA-Z]|\r", "", terminal.getvalue()).strip() == ""
        assert "\n" not in terminal.getvalue()

    @pytest.mark.parametrize(
        ("done", "total", "count"),
        [(0, None, ""), (12_000, None, "12,000/?"), (5, 60_000, "5/60,000")],
    )
    def test_count_of_a_phase(self, done: int, total: int | None, count: str) -> None:
        assert console_module._format_count(done, total) == count

    def test_long_lines_above_it_stay_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = use_terminal(monkeypatch)
        console = Console()
        with console.track("encode", State()):
            console.say("x" * 150)
        assert "x" * 150 in terminal.getvalue()

    @pytest.mark.parametrize("total", [None, 0, 10])
    def test_total_may_be_unknown_or_zero(
        self, total: int | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        terminal = use_terminal(monkeypatch)
        with Console().track("encode", State(total=total)):
            pass
        expected = "3/?" if total is None else f"3/{total}"
        assert expected in terminal.getvalue()

    def test_is_removed_after_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use_terminal(monkeypatch)
        console = Console()
        with pytest.raises(ValueError, match="x"), console.track("encode", State()):
            raise ValueError("x")
        assert console._live is None

    def test_without_color(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = use_terminal(monkeypatch)
        monkeypatch.setenv("NO_COLOR", "1")
        with Console().track("encode", State()):
            pass
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", terminal.getvalue())


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_long_lines_stay_whole_on_a_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is broken into lines cannot be copied."""
    terminal = Terminal()
    monkeypatch.setattr(sys, name, terminal)
    monkeypatch.setattr(terminal, "fileno", lambda: 1)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((24, 10)))
    text = "photos of 2024/a day at the sea/image number 1.jpg: truncated"
    console = Console()
    (console.print_result if name == "stdout" else console.fail)(text)
    assert terminal.getvalue() == f"{'' if name == 'stdout' else 'dinac: '}{text}\n"
