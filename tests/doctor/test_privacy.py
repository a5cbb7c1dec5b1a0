"""Private names are hidden wherever they can stand."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dinac_cli.doctor.privacy import Privacy

ALICE = Privacy(homes=("/home/alice",), users=("alice", "al"), hosts=("vega.example", "vega"))


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("/home/alice", "~"),
        ("/home/alice/.cache: full", "~/.cache: full"),
        ("/home/alice2/x", "/home/alice2/x"),
        ("/home/alice-b/x", "/home/USER-b/x"),
        ("/data/alice/x and /data/malice/x", "/data/USER/x and /data/malice/x"),
        ("Alice said so on VEGA.example", "USER said so on HOST"),
        ("/net/vega/x", "/net/HOST/x"),
        ("the word al, but /scratch/al/x", "the word al, but /scratch/USER/x"),
        ("C:\\data\\alice\\x", "C:\\data\\USER\\x"),
    ],
)
def test_names_are_hidden(text: str, hidden: str) -> None:
    assert ALICE.hide({"a": [text], "b": 1, "c": None}) == {"a": [hidden], "b": 1, "c": None}


def test_the_screen_shows_only_the_home_shorter() -> None:
    assert ALICE.shorten("/home/alice/x on vega, /data/alice") == "~/x on vega, /data/alice"


def test_names_come_from_the_environment_and_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "link"
    home.symlink_to(tmp_path)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "wanda")
    monkeypatch.setattr(socket, "gethostname", lambda: "altair.example")
    found = Privacy.of_this_machine()
    assert {str(home), os.path.realpath(tmp_path)} <= set(found.homes)
    assert {"wanda", "link"} <= set(found.users)
    assert {"altair.example", "altair"} <= set(found.hosts)


def test_the_root_of_the_file_system_is_no_private_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    assert "/" not in Privacy.of_this_machine().homes
    assert Privacy((), (), ()).hide("/data/x") == "/data/x"
