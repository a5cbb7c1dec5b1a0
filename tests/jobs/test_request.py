"""Which inputs a run takes, what OUT is, and what is refused before any work."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from dinac_cli.errors import UsageError
from dinac_cli.jobs.request import (
    Selection,
    choose_output_kind,
    count_inputs,
    reads_stdin,
    require_existing,
)
from dinac_cli.storage.inputs import InputScan
from dinac_cli.storage.naming import name_latents
from dinac_cli.storage.output import OutputKind
from dinac_cli.storage.parts import Shard

from .hand_made import IMAGES, latents_out, select_images


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def count(selection: Selection, kind: OutputKind = OutputKind.FOLDER) -> int | None:
    return count_inputs(selection, latents_out(Path("out"), kind), name_latents)


class TestSelection:
    def test_limit_takes_the_first(self, folder: Path) -> None:
        touch(folder, *(f"in/{number}.png" for number in range(5)))
        selection = Selection(select_images("in").scan, limit=2)
        assert [entry.name for entry in selection] == ["0.png", "1.png"]
        assert count(selection) == 2

    def test_shards_part_the_names(self, folder: Path) -> None:
        touch(folder, *(f"in/{number}.png" for number in range(20)))
        scan = select_images("in").scan
        parts = [[entry.name for entry in Selection(scan, Shard(i, 3))] for i in range(3)]
        assert sorted(itertools.chain(*parts)) == sorted(entry.name for entry in scan)
        assert all(parts)

    def test_limit_counts_within_the_shard(self, folder: Path) -> None:
        touch(folder, *(f"in/{number}.png" for number in range(20)))
        selection = Selection(select_images("in").scan, Shard(1, 2), limit=3)
        assert len(list(selection)) == 3
        assert all(Shard(1, 2).holds(entry.name) for entry in selection)


class TestOutputKind:
    @pytest.mark.parametrize(
        ("inputs", "out", "kind"),
        [
            (["a.png"], "-", OutputKind.STREAM),
            (["in"], "-", OutputKind.STREAM),
            (["a.png"], "x.dinac", OutputKind.FILE),
            (["a.png"], "new/X.DINAC", OutputKind.FILE),
            (["-"], "x.dinac", OutputKind.FILE),
            (["a.png"], "old.dinac", OutputKind.FILE),
            (["a.png"], "folder.dinac", OutputKind.FOLDER),
            (["a.png"], "new", OutputKind.FOLDER),
            (["a.png"], "new.png/", OutputKind.FOLDER),
            (["a.png"], "v1.5", OutputKind.FOLDER),
        ],
    )
    def test_kind(self, folder: Path, inputs: list[str], out: str, kind: OutputKind) -> None:
        touch(folder, "a.png", "b.png", "in/c.png", "old.dinac")
        (folder / "folder.dinac").mkdir()
        assert choose_output_kind(out, InputScan(IMAGES, tuple(inputs)), (".dinac",)) is kind

    @pytest.mark.parametrize(
        ("inputs", "out"),
        [
            (["a.png"], "b.png"),  # a shell made `dinac encode *.png` of it
            (["a.png", "b.png"], "old.dinac"),
            (["in"], "old.dinac"),
            (["a.png"], "dangling"),
        ],
    )
    def test_existing_file_is_no_folder(self, folder: Path, inputs: list[str], out: str) -> None:
        touch(folder, "a.png", "b.png", "in/c.png", "old.dinac")
        (folder / "dangling").symlink_to("nowhere")
        with pytest.raises(UsageError, match=f"^{out}: OUT, the last argument, is an existing"):
            choose_output_kind(out, InputScan(IMAGES, tuple(inputs)), (".dinac",))

    @pytest.mark.parametrize("inputs", [["a.png", "b.png"], ["in"], ["*.png"]])
    def test_name_of_a_file_for_more_than_one(self, folder: Path, inputs: list[str]) -> None:
        touch(folder, "a.png", "b.png", "in/c.png")
        with pytest.raises(UsageError) as caught:
            choose_output_kind("x.dinac", InputScan(IMAGES, tuple(inputs)), (".dinac",))
        assert str(caught.value) == (
            "x.dinac: OUT, the last argument, is named like a file, but the input is not one file: "
            "name a folder (x.dinac/ if it is one)"
        )
        scan = InputScan(IMAGES, tuple(inputs))
        assert choose_output_kind("x.dinac/", scan, (".dinac",)) is OutputKind.FOLDER

    @pytest.mark.parametrize(
        ("inputs", "out", "suffixes"),
        [
            (["a.png"], "new.PNG", (".dinac",)),
            (["a.png", "b.png"], "forgotten.jpg", (".dinac",)),
            (["a.png"], "x.gif", (".png", ".jpg")),
            (["a.png"], "x.dinac", (".png", ".jpg")),
            (["a.png"], "x.npz", (".dinac",)),
        ],
    )
    def test_name_of_another_kind_of_file_is_no_folder(
        self, folder: Path, inputs: list[str], out: str, suffixes: tuple[str, ...]
    ) -> None:
        touch(folder, "a.png", "b.png")
        with pytest.raises(UsageError) as caught:
            choose_output_kind(out, InputScan(IMAGES, tuple(inputs)), suffixes)
        file = f" or a file that ends in {', '.join(suffixes)}" if len(inputs) == 1 else ""
        assert str(caught.value) == (
            f"{out}: OUT, the last argument, is named like a file that is not written here: "
            f"name a folder ({out}/ if it is one){file}"
        )


class TestCount:
    def test_nothing_found(self, folder: Path) -> None:
        touch(folder, "in/notes.txt", "in/more.txt")
        with pytest.raises(UsageError) as caught:
            count(select_images("in"))
        assert str(caught.value) == "no images found in in (2 other files)"

    def test_empty_list(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="no images found in the list"):
            count(Selection(InputScan(IMAGES, (), listed=b"\n")))

    def test_empty_part_of_a_list_that_is_not_empty(self, folder: Path) -> None:
        touch(folder, "in/a.png")
        scan = select_images("in").scan
        assert sorted(count(Selection(scan, Shard(i, 4))) or 0 for i in range(4)) == [0, 0, 0, 1]

    @pytest.mark.parametrize("kind", [OutputKind.FOLDER, OutputKind.STREAM])
    def test_standard_input_may_hold_any_number(self, folder: Path, kind: OutputKind) -> None:
        touch(folder, "in/a.png")
        assert count(select_images("-"), kind) is None
        assert count(select_images("in", "-"), kind) is None
        assert count(select_images("in"), kind) == 1
        assert reads_stdin(select_images("in", "-").scan)
        assert not reads_stdin(select_images("in").scan)

    def test_collision_is_refused(self, folder: Path) -> None:
        touch(folder, "1/a.png", "2/a.png")
        with pytest.raises(
            UsageError, match=r"1/a\.png and 2/a\.png would both be written to a\.p"
        ):
            count(select_images("1", "2"))

    def test_collision_does_not_matter_in_a_stream(self, folder: Path) -> None:
        touch(folder, "1/a.png", "2/a.png")
        assert count(select_images("1", "2"), OutputKind.STREAM) == 2

    def test_what_is_not_there_collides_with_nothing(self, folder: Path) -> None:
        """It is going to be named with its own reason."""
        assert count(select_images("1/a.png", "2/a.png")) == 2
        listed = b"/x/a.png\n/y/a.png\n"
        assert count(Selection(InputScan(IMAGES, (), listed=listed))) == 2

    def test_only_input_is_not_there(self, folder: Path) -> None:
        with pytest.raises(UsageError, match=r"^gone\.png: no such file or folder$"):
            require_existing(select_images("gone.png"))

    def test_one_of_several_is_not_there(self, folder: Path) -> None:
        require_existing(select_images("gone.png", "gone too.png"))
        require_existing(select_images("-"))


@pytest.mark.parametrize("folds", [True, False])
def test_names_equal_but_for_case(
    folder: Path, monkeypatch: pytest.MonkeyPatch, folds: bool
) -> None:
    """As the file system of OUT has it: one file there, or two."""
    monkeypatch.setattr("dinac_cli.jobs.request.ignores_case", lambda out: folds)
    touch(folder, "in/a.png", "in/A.PNG")
    if not folds:
        assert count(select_images("in")) == 2
        return
    with pytest.raises(UsageError, match=r"would both be written to a\.png\.dinac"):
        count(select_images("in"))
    assert not (folder / "out").exists()
