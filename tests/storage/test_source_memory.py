"""The memory of sources: what it recognises, and that it is only a cache."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from dinac_cli.storage import source_memory
from dinac_cli.storage.source_memory import (
    MEMORY_NAME,
    Recall,
    Sighting,
    SourceMemory,
    Standing,
)

OLD = 10**18  # a time in nanoseconds that is long ago


@dataclass(frozen=True)
class State:
    """The state of a source file."""

    size: int = 100
    mtime: int = OLD
    ctime: int = OLD
    device: int = 1
    inode: int = 5

    @property
    def status(self) -> os.stat_result:
        return cast(
            os.stat_result,
            SimpleNamespace(
                st_mode=0o100644,
                st_size=self.size,
                st_mtime_ns=self.mtime,
                st_ctime_ns=self.ctime,
                st_dev=self.device,
                st_ino=self.inode,
            ),
        )


SAME, OTHER, UNKNOWN = (Recall.SAME, 0), (Recall.CHANGED, 0), (Recall.UNKNOWN, 0)


class Out:
    """A folder OUT with a memory."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self.folder = folder
        self.opened = opened
        self.memory = opened.enter_context(SourceMemory(str(folder)))

    def see(self, state: State = State(), name: str = "a.jpg", content: str = "a1") -> Sighting:
        return self.memory.identify(str(self.folder / f"{name}.dinac"), content, state.status)

    def remember(self, *states: State, name: str = "a.jpg") -> None:
        for state in states:
            self.memory.remember(self.see(state, name), 0)

    def recall(
        self, state: State = State(), name: str = "a.jpg", content: str = "a1"
    ) -> tuple[Recall, int]:
        return self.memory.recall(self.see(state, name, content))

    def reopen(self, *, read_only: bool = False) -> None:
        memory = SourceMemory(str(self.folder), read_only=read_only)
        self.memory = self.opened.enter_context(memory)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Out]:
    with ExitStack() as opened:
        yield Out(tmp_path, opened)


def test_the_same_state_is_known_in_the_next_run(out: Out) -> None:
    assert out.recall() == UNKNOWN
    assert not (out.folder / MEMORY_NAME).exists()
    out.remember(State())
    assert out.recall() == SAME
    out.reopen()
    assert out.recall() == SAME
    assert out.recall(name="b.jpg") == UNKNOWN


@pytest.mark.parametrize(
    "changed",
    [{"size": 1}, {"mtime": 1}, {"ctime": 1}, {"device": 2}, {"inode": 6}],
    ids=lambda changed: next(iter(changed)),
)
def test_each_part_of_the_state_counts(out: Out, changed: dict[str, int]) -> None:
    out.remember(State())
    assert out.recall(State(**changed)) == OTHER
    assert out.recall(content="a2") == OTHER  # another record has this name now


WANTED = b"the requirements of a run"


class TestCurrentRecords:
    """A record that met the requirements is known, while neither file has changed since."""

    RECORD = State(size=900, inode=77)

    def is_current(
        self,
        out: Out,
        source: State = State(),
        record: State = RECORD,
        wanted: bytes = WANTED,
        reader: int = 3,
    ) -> bool:
        return out.memory.is_current(
            str(out.folder / "a.jpg.dinac"),
            source.status,
            Standing(record.status, wanted),
            anonymous=False,
            reader=reader,
        )

    def remember(self, out: Out, source: State = State()) -> None:
        out.memory.remember(out.see(source), 3, Standing(self.RECORD.status, WANTED))

    def test_it_is_known_in_this_run_and_in_the_next(self, out: Out) -> None:
        assert not self.is_current(out)
        self.remember(out)
        assert self.is_current(out)
        out.reopen(read_only=True)
        assert self.is_current(out)
        assert out.recall() == (Recall.SAME, 3)

    @pytest.mark.parametrize(
        "changed",
        [{"size": 1}, {"mtime": 1}, {"ctime": 1}, {"device": 2}, {"inode": 6}],
        ids=lambda changed: next(iter(changed)),
    )
    def test_each_part_of_both_states_counts(self, out: Out, changed: dict[str, int]) -> None:
        self.remember(out)
        assert not self.is_current(out, source=State(**changed))
        assert not self.is_current(out, record=replace(self.RECORD, **changed))

    def test_requirements_and_reader_count(self, out: Out) -> None:
        self.remember(out)
        assert not self.is_current(out, wanted=b"others")
        assert not self.is_current(out, reader=4)

    def test_a_record_that_lacks_something_is_not_current(self, out: Out) -> None:
        self.remember(out)
        out.memory.remember(out.see(), 3)
        assert not self.is_current(out)
        assert out.recall() == (Recall.SAME, 3)

    def test_an_unstable_inode_does_not_count(self, out: Out) -> None:
        self.remember(out, State(inode=6))
        self.remember(out, State(inode=7))
        assert self.is_current(out, State(inode=8))
        assert not self.is_current(out, State(inode=8, device=2))

    def test_an_entry_of_long_ago_is_looked_at_again(
        self, out: Out, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So that an entry in use does not make room for others."""
        self.remember(out)
        today = source_memory._today()
        monkeypatch.setattr(source_memory, "_today", lambda: today + 30)
        assert not self.is_current(out)

    def test_an_anonymous_record_is_known_by_its_own_file(self, out: Out) -> None:
        record = out.folder / "a.jpg.dinac"
        record.write_bytes(b"a record and its checksum")
        standing = Standing(os.stat(record), WANTED)
        source = State()
        sighting = out.memory.identify(str(record), None, source.status)

        def is_current() -> bool:
            return out.memory.is_current(
                str(record), source.status, standing, anonymous=True, reader=0
            )

        assert not is_current()
        out.memory.remember(sighting, 0, standing)
        assert is_current()
        assert not self.is_current(out, reader=0)


def test_unstable_inodes_and_devices_are_recognised_apart(out: Out) -> None:
    out.remember(State(), State(inode=6))
    assert out.recall(State(inode=7)) == SAME
    assert out.recall(State(inode=7, device=2)) == OTHER
    assert out.recall(State(inode=7, ctime=1)) == OTHER
    out.remember(State(inode=7, device=2))
    assert out.recall(State(inode=8, device=3)) == SAME
    out.remember(State(ctime=1, inode=9))  # another state: nothing is known of its inode
    assert out.recall(State(ctime=1, inode=10)) == OTHER


def test_a_source_that_has_just_changed_is_not_remembered(
    out: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(ctime=OLD + source_memory.SETTLE_NS)
    monkeypatch.setattr("time.time_ns", lambda: OLD + 2 * source_memory.SETTLE_NS)
    out.remember(state)
    assert out.recall(state) == UNKNOWN
    monkeypatch.setattr("time.time_ns", lambda: OLD + 2 * source_memory.SETTLE_NS + 1)
    out.remember(state)
    assert out.recall(state) == SAME


def test_the_table_grows_and_keeps_every_entry(out: Out) -> None:
    names = [f"{number}.jpg" for number in range(3000)]
    for number, name in enumerate(names):
        out.remember(State(inode=number), name=name)
    out.reopen()
    assert all(out.recall(State(inode=n), name) == SAME for n, name in enumerate(names))
    assert (out.folder / MEMORY_NAME).stat().st_size < 3000 * 64 * 6
    assert b"jpg" not in (out.folder / MEMORY_NAME).read_bytes()


def test_entries_that_were_not_used_for_long_make_room(
    out: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_memory, "_MOST_BUCKETS", 16)
    days = source_memory._KEPT_DAYS + 1
    for turn in range(3):
        monkeypatch.setattr(source_memory, "_today", lambda day=1000 + turn * days: day)
        for number in range(100):
            out.remember(State(), name=f"{turn}-{number}.jpg")
        known = [out.recall(name=f"{turn}-{n}.jpg") for n in range(100)]
        assert known == [SAME] * 100
    assert out.recall(name="1-7.jpg") in (SAME, UNKNOWN)
    assert (out.folder / MEMORY_NAME).stat().st_size == 64 + 16 * 1024


def test_a_full_table_forgets_instead_of_growing_without_end(
    out: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_memory, "_MOST_BUCKETS", 16)
    for number in range(600):
        out.remember(State(), name=f"{number}.jpg")
        assert out.recall(name=f"{number}.jpg") == SAME
    assert (out.folder / MEMORY_NAME).stat().st_size == 64 + 16 * 1024


def test_two_runs_share_one_table(out: Out) -> None:
    other = Out(out.folder, out.opened)
    for number in range(800):
        (out, other)[number % 2].remember(State(inode=number), name=f"{number}.jpg")
    assert [
        name for name in range(800) if other.recall(State(inode=name), f"{name}.jpg") != SAME
    ] == []


def test_threads_share_one_table(out: Out) -> None:
    def remember(first: int) -> None:
        for number in range(first, 1200, 4):
            out.remember(State(inode=number), name=f"{number}.jpg")

    threads = [threading.Thread(target=remember, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(out.recall(State(inode=n), f"{n}.jpg") == SAME for n in range(1200))


def test_damage_is_a_lost_memory_and_no_error(out: Out) -> None:
    out.remember(State())
    path = out.folder / MEMORY_NAME
    whole = path.read_bytes()
    for position in range(64, len(whole)):
        if whole[position]:
            path.write_bytes(
                whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
            )
            assert out.recall() == UNKNOWN
    for size in (0, 64, 700, 5000, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert out.recall() in (UNKNOWN, SAME)
        out.remember(State())
        out.reopen()


@pytest.mark.parametrize("content", [b"", b"somebody's notes", b"DINAC\0sources\0\2\0" * 99])
def test_a_file_of_another_program_or_version_is_kept(out: Out, content: bytes) -> None:
    path = out.folder / MEMORY_NAME
    path.write_bytes(content)
    out.reopen()
    out.remember(State())
    assert out.recall() == UNKNOWN
    assert path.read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs links and named pipes")
def test_links_pipes_and_folders_are_kept_and_never_followed(out: Out) -> None:
    path, outside = out.folder / MEMORY_NAME, out.folder / "outside"
    out.remember(State())
    path.rename(outside)
    before = outside.read_bytes()
    makers: tuple[Callable[[], object], ...] = (
        lambda: path.symlink_to(outside),
        lambda: os.mkfifo(path),
        path.mkdir,
    )
    for make in makers:
        make()
        out.reopen()
        out.remember(State(inode=77), name="b.jpg")
        assert out.recall() == UNKNOWN
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            path.rmdir()
    path.symlink_to(out.folder / "nowhere")
    out.reopen()
    out.remember(State())
    assert not (out.folder / "nowhere").exists()
    assert outside.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_no_error(out: Out) -> None:
    lost = Out(out.folder / "missing", out.opened)
    lost.remember(State())
    assert lost.recall() == UNKNOWN


def test_a_file_that_cannot_be_written_recalls(out: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    real = source_memory._open_file

    def refuse(path: str, flags: int) -> FileIO:
        if flags & os.O_RDWR:
            raise PermissionError(path)
        return real(path, flags)

    out.remember(State())
    monkeypatch.setattr(source_memory, "_open_file", refuse)
    out.reopen()
    out.remember(State(), name="b.jpg")
    out.memory.forget(str(out.folder / "a.jpg.dinac"))
    assert (out.recall(), out.recall(name="b.jpg")) == (SAME, UNKNOWN)


def test_a_read_only_memory_recalls_and_writes_nothing(out: Out) -> None:
    out.remember(State())
    before = (out.folder / MEMORY_NAME).read_bytes()
    out.reopen(read_only=True)
    assert out.recall() == SAME
    out.remember(State(), name="b.jpg")
    assert out.recall(name="b.jpg") == UNKNOWN
    assert (out.folder / MEMORY_NAME).read_bytes() == before


def test_an_anonymous_record_is_known_by_its_own_file(out: Out) -> None:
    record = out.folder / "a.jpg.dinac"
    record.write_bytes(b"latents")
    os.utime(record, ns=(OLD, OLD))

    def see(inode: int = 5) -> Sighting:
        return out.memory.identify(str(record), None, State(inode=inode).status)

    out.remember(State())  # before the record was anonymous
    out.memory.forget(str(record))
    assert out.recall() == UNKNOWN
    out.memory.remember(see(), 0)
    first = see()
    record.rename(out.folder / "b.jpg.dinac")
    (out.folder / "b.jpg.dinac").rename(record)
    assert out.memory.recall(see()) == SAME
    os.utime(record, ns=(OLD, OLD + 1))  # encoded again
    assert out.memory.recall(see()) == UNKNOWN
    out.memory.remember(see(6).follow(first), 0)  # only the inode had changed
    assert out.memory.recall(see(7)) == SAME
    assert out.memory.recall(replace(first)) == UNKNOWN


def test_the_reader_revision_is_remembered(out: Out) -> None:
    out.memory.remember(out.see(), 3)
    assert out.recall() == (Recall.SAME, 3)
