"""The inputs that a run takes, the kind of its OUT, and what is refused before any work."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from dinac_cli.errors import UsageError
from dinac_cli.images.writing import write_image
from dinac_cli.jobs.freshness import WantedImage
from dinac_cli.jobs.request import (
    IMAGES,
    InputRequest,
    Selection,
    _advise_on_records,
    choose_output_kind,
    refuse_file_name,
)
from dinac_cli.storage.inputs import InputScan
from dinac_cli.storage.naming import name_latents
from dinac_cli.storage.output import OutputKind
from dinac_cli.storage.parts import Shard

from .hand_made import draw, latents_out, select_images, select_latents, write_images


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns an empty folder, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def count(selection: Selection, kind: OutputKind = OutputKind.FOLDER) -> int | None:
    return selection.count(latents_out(Path("out"), kind), name_latents)


class TestSelection:
    def test_the_limit_takes_the_first_inputs(self, folder: Path) -> None:
        touch(folder, *(f"in/{number}.png" for number in range(5)))
        selection = Selection(select_images("in").scan, limit=2)
        assert [entry.name for entry in selection] == ["0.png", "1.png"]
        assert count(selection) == 2

    def test_shards_divide_the_names(self, folder: Path) -> None:
        touch(folder, *(f"in/{number}.png" for number in range(20)))
        scan = select_images("in").scan
        parts = [[entry.name for entry in Selection(scan, Shard(i, 3))] for i in range(3)]
        assert sorted(itertools.chain(*parts)) == sorted(entry.name for entry in scan)
        assert all(parts)

    def test_the_limit_counts_within_the_shard(self, folder: Path) -> None:
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
            (["a.png"], "../out", OutputKind.FOLDER),
            (["a.png"], "a.b/out", OutputKind.FOLDER),
            (["a.png"], "out.xyz/", OutputKind.FOLDER),
            (["a.png", "b.png"], "set.new", OutputKind.FOLDER),
        ],
    )
    def test_out_is_a_stream_a_file_or_a_folder(
        self, folder: Path, inputs: list[str], out: str, kind: OutputKind
    ) -> None:
        touch(folder, "a.png", "b.png", "in/c.png", "old.dinac")
        (folder / "folder.dinac").mkdir()
        assert choose_output_kind(out, InputScan(IMAGES, tuple(inputs)), (".dinac",)) is kind

    @pytest.mark.parametrize(
        ("inputs", "out"),
        [
            (["a.png"], "b.png"),  # what the shell makes of `dinac encode *.png`
            (["a.png", "b.png"], "old.dinac"),
            (["in"], "old.dinac"),
            (["a.png"], "dangling"),
        ],
    )
    def test_an_existing_file_is_refused_as_a_folder(
        self, folder: Path, inputs: list[str], out: str
    ) -> None:
        touch(folder, "a.png", "b.png", "in/c.png", "old.dinac")
        (folder / "dangling").symlink_to("nowhere")
        with pytest.raises(UsageError, match=f"^{out}: OUT, the last argument, is an existing"):
            choose_output_kind(out, InputScan(IMAGES, tuple(inputs)), (".dinac",))

    @pytest.mark.parametrize("inputs", [["a.png", "b.png"], ["in"], ["*.png"]])
    def test_a_file_name_for_several_inputs_is_refused(
        self, folder: Path, inputs: list[str]
    ) -> None:
        touch(folder, "a.png", "b.png", "in/c.png")
        with pytest.raises(UsageError) as caught:
            choose_output_kind("x.dinac", InputScan(IMAGES, tuple(inputs)), (".dinac",))
        assert str(caught.value) == (
            "x.dinac: OUT, the last argument, is named like a file, but the input is not one file; "
            "name a folder (x.dinac/ if this is one)"
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
            (["a.png"], "x.xyz", (".png", ".jpg")),
        ],
    )
    def test_the_name_of_another_kind_of_file_is_refused(
        self, folder: Path, inputs: list[str], out: str, suffixes: tuple[str, ...]
    ) -> None:
        touch(folder, "a.png", "b.png")
        with pytest.raises(UsageError) as caught:
            choose_output_kind(out, InputScan(IMAGES, tuple(inputs)), suffixes)
        file = f" or a file that ends in {', '.join(suffixes)}" if len(inputs) == 1 else ""
        assert str(caught.value) == (
            f"{out}: OUT, the last argument, is named like a file that is not written here; "
            f"name a folder ({out}/ if this is one){file}"
        )


class TestCount:
    def test_a_folder_without_images_is_refused(self, folder: Path) -> None:
        touch(folder, "in/notes.txt", "in/more.txt")
        with pytest.raises(UsageError) as caught:
            count(select_images("in"))
        assert str(caught.value) == (
            "no images found in in (2 other files); name image files or folders"
        )
        (folder / "in/more.txt").unlink()
        with pytest.raises(UsageError) as caught:
            count(select_latents("in"))
        assert (
            str(caught.value)
            == "no latent files found in in (1 other file); run dinac encode first"
        )

    def test_an_empty_list_is_refused(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="the list of --files-from names nothing"):
            count(Selection(InputScan(IMAGES, (), listed=b"\n")))

    def test_a_shard_may_be_empty_if_the_whole_is_not(self, folder: Path) -> None:
        touch(folder, "in/a.png")
        scan = select_images("in").scan
        assert sorted(count(Selection(scan, Shard(i, 4))) or 0 for i in range(4)) == [0, 0, 0, 1]

    @pytest.mark.parametrize("kind", [OutputKind.FOLDER, OutputKind.STREAM])
    def test_the_number_of_inputs_in_standard_input_is_unknown(
        self, folder: Path, kind: OutputKind
    ) -> None:
        touch(folder, "in/a.png")
        assert count(select_images("-"), kind) is None
        assert count(select_images("in", "-"), kind) is None
        assert count(select_images("in"), kind) == 1
        assert select_images("in", "-").reads_stdin
        assert not select_images("in").reads_stdin

    def test_two_inputs_with_one_output_are_refused(self, folder: Path) -> None:
        touch(folder, "1/a.png", "2/a.png")
        with pytest.raises(
            UsageError, match=r"1/a\.png and 2/a\.png would both be written to a\.p"
        ):
            count(select_images("1", "2"))

    def test_inputs_of_one_name_may_go_to_a_stream(self, folder: Path) -> None:
        touch(folder, "1/a.png", "2/a.png")
        assert count(select_images("1", "2"), OutputKind.STREAM) == 2

    def test_a_missing_file_collides_with_nothing(self, folder: Path) -> None:
        """Its own failure is reported."""
        assert count(select_images("1/a.png", "2/a.png")) == 2
        listed = b"/x/a.png\n/y/a.png\n"
        assert count(Selection(InputScan(IMAGES, (), listed=listed))) == 2

    def test_a_missing_only_input_is_refused(self, folder: Path) -> None:
        with pytest.raises(
            UsageError, match=r"^gone\.png: no such file or folder; check the path$"
        ):
            select_images("gone.png").require_existing()

    def test_a_missing_one_of_several_inputs_passes(self, folder: Path) -> None:
        select_images("gone.png", "gone too.png").require_existing()
        select_images("-").require_existing()


@pytest.mark.parametrize("folds", [True, False])
def test_names_that_differ_in_case_collide_if_the_file_system_ignores_case(
    folder: Path, monkeypatch: pytest.MonkeyPatch, folds: bool
) -> None:
    monkeypatch.setattr("dinac_cli.storage.output.ignores_case", lambda out: folds)
    touch(folder, "in/a.png", "in/A.PNG")
    if not folds:
        assert count(select_images("in")) == 2
        return
    with pytest.raises(UsageError, match=r"would both be written to a\.png\.dinac"):
        count(select_images("in"))
    assert not (folder / "out").exists()


class TestInputRequest:
    """The inputs as a user names them, checked before any work."""

    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            (InputRequest(paths=("",)), "an input or OUT is an empty name; is a variable unset?"),
            (InputRequest(paths=("in",), null=True), "--null and --root need --files-from"),
            (InputRequest(paths=("in",), root="in"), "--null and --root need --files-from"),
            (
                InputRequest(paths=("-",), files_from="-", listed=b""),
                "standard input cannot be both an input and the list of inputs; "
                "save the list to a file",
            ),
            (
                InputRequest(files_from="gone.txt"),
                "--files-from gone.txt: cannot read: No such file or directory; "
                "check the path and its permissions",
            ),
            (InputRequest(paths=("gone.png",)), "gone.png: no such file or folder; check the path"),
            (
                InputRequest(paths=("empty",)),
                "no images found in empty; name image files or folders",
            ),
        ],
    )
    def test_contradicting_or_missing_inputs_are_refused(
        self, folder: Path, request_: InputRequest, message: str
    ) -> None:
        touch(folder, "in/a.png")
        (folder / "empty").mkdir()
        with pytest.raises(UsageError) as caught:
            request_.select(IMAGES, "out")
        assert str(caught.value) == message

    def test_an_empty_out_is_refused(self, folder: Path) -> None:
        touch(folder, "in/a.png")
        with pytest.raises(UsageError, match=r"^an input or OUT is an empty name"):
            InputRequest(paths=("in",)).select(IMAGES, "")

    def test_a_list_is_read_from_its_file_or_given(self, folder: Path) -> None:
        touch(folder, "in/a.png", "in/b.png")
        (folder / "list.txt").write_text("a.png\nb.png\n")
        for request in (
            InputRequest(files_from="list.txt", root="in"),
            InputRequest(files_from="-", listed=b"a.png\0b.png\0", null=True, root="in"),
        ):
            assert [entry.name for entry in request.select(IMAGES, "out")] == ["a.png", "b.png"]

    def test_out_inside_an_input_folder_is_not_an_input(self, folder: Path) -> None:
        touch(folder, "in/a.png", "in/out/b.png")
        entries = InputRequest(paths=("in",)).select(IMAGES, "in/out")
        assert [entry.name for entry in entries] == ["a.png"]

    def test_the_limit_does_not_count_decoded_images_among_originals(self, folder: Path) -> None:
        stamp = WantedImage("1" * 64, "2" * 16, "steps=1").stamp
        write_images(folder / "in", "b.png", "d.png", "e.png")
        for name in ("a.png", "c.png"):
            (folder / "in" / name).write_bytes(write_image(draw(0), "png", stamp=stamp))
        selection = InputRequest(paths=("in",), limit=2).select(IMAGES, "out")
        assert [entry.name for entry in selection] == ["a.png", "b.png", "c.png", "d.png"]
        skipped = [entry.name for entry in selection if entry.search and entry.search.skips(entry)]
        assert skipped == ["a.png", "c.png"]
        named = InputRequest(paths=("in/a.png", "in/b.png"), limit=1).select(IMAGES, "out")
        assert [entry.name for entry in named] == ["a.png"]

    def test_shard_and_limit_are_those_of_the_selection(self, folder: Path) -> None:
        touch(folder, *(f"in/{number}.png" for number in range(9)))
        selection = InputRequest(paths=("in",), shard="1/3", limit=2).select(IMAGES)
        assert (selection.shard, selection.limit) == (Shard(1, 3), 2)


@pytest.mark.parametrize("out", ["x.safetensors", "x.PNG", "x.dinac"])
def test_a_run_that_needs_a_folder_refuses_a_file_name(folder: Path, out: str) -> None:
    with pytest.raises(UsageError, match="is named like a file, but must be a folder here"):
        refuse_file_name(out)
    refuse_file_name(f"{out}/")
    (folder / out).mkdir()
    refuse_file_name(out)


def test_advice_about_a_remote_tar_shows_no_password() -> None:
    advice = _advise_on_records("ftp://user:secret@host/x.tar")
    assert advice == "name the tars in it, such as ftp://host/x.tar"
