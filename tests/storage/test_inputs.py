"""Arguments (files, folders, globs, lists, `-`) are expanded to inputs."""

from __future__ import annotations

import ntpath
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from dinac_cli.errors import UsageError
from dinac_cli.storage import inputs as inputs_module
from dinac_cli.storage.exclusion import Exclusion
from dinac_cli.storage.inputs import FileKind, Input, InputScan, Search, require_inputs, split_list


class OnWindows:
    """The parts of `os` that name absolute paths, as on Windows."""

    path = ntpath
    sep = "\\"


KIND = FileKind(
    "picture",
    "pictures",
    lambda name: name.lower().endswith(".pic"),
    lambda head: head.startswith(b"PIC"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, also the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_files(folder: Path, *names: str, content: bytes = b"") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def scan(*paths: str, **options: object) -> InputScan:
    return InputScan(KIND, paths, **options)  # type: ignore[arg-type]


def names(inputs: Iterable[Input]) -> list[str]:
    return [entry.name for entry in inputs]


def problems(inputs: Iterable[Input]) -> list[tuple[str, str | None]]:
    return [(entry.label, entry.problem) for entry in inputs]


class TestFolder:
    def test_folder_is_walked_in_order_with_relative_names(self, folder: Path) -> None:
        make_files(folder, "in/b.pic", "in/a.pic", "in/sub/deep/c.pic", "in/Z.PIC")
        found = list(scan("in"))
        assert names(found) == ["Z.PIC", "a.pic", "b.pic", "sub/deep/c.pic"]
        assert found[3].path == os.path.join("in", "sub", "deep", "c.pic")
        assert all(entry.problem is None for entry in found)

    def test_two_iterations_agree(self, folder: Path) -> None:
        make_files(folder, *(f"in/{i % 5}/{i}.pic" for i in range(40)), "in/notes.txt")
        both = scan("in")
        assert list(both) == list(both)
        assert both.others == 1

    def test_hidden_files_and_folders_are_skipped_and_not_counted(self, folder: Path) -> None:
        make_files(folder, "in/.hidden.pic", "in/._a.pic", "in/.git/x.pic", "in/a.pic")
        both = scan("in")
        assert names(both) == ["a.pic"]
        assert both.others == 0

    def test_a_path_without_inputs_is_a_gap(self, folder: Path) -> None:
        make_files(folder, "in/a.pic", "other/notes.txt")
        both = scan("in", "other")
        assert names(both) == ["a.pic"]
        assert both.gap == "other holds no pictures"
        make_files(folder, "other/b.pic")
        assert names(both) == ["a.pic", "b.pic"]
        assert both.gap is None

    def test_content_decides_if_the_suffix_does_not(self, folder: Path) -> None:
        make_files(folder, "in/no-suffix", "in/wrong.txt", content=b"PIC and more")
        make_files(folder, "in/empty", "in/notes.md")
        both = scan("in")
        assert names(both) == ["no-suffix", "wrong.txt"]
        assert both.others == 2

    def test_suffix_decides_before_the_content(self, folder: Path) -> None:
        make_files(folder, "in/a.pic", content=b"text")
        assert names(scan("in")) == ["a.pic"]

    def test_trailing_slash_changes_nothing(self, folder: Path) -> None:
        make_files(folder, "in/sub/a.pic")
        assert names(scan("in/")) == names(scan("in")) == ["sub/a.pic"]
        assert names(scan(".")) == ["in/sub/a.pic"]

    def test_pipe_is_counted_as_other(self, folder: Path) -> None:
        make_files(folder, "in/a.pic")
        os.mkfifo(folder / "in/pipe.pic")
        both = scan("in")
        assert names(both) == ["a.pic"]
        assert both.others == 1

    def test_out_is_skipped_in_any_spelling(self, folder: Path) -> None:
        make_files(folder, "in/a.pic", "in/out/old.pic", "in/sub/b.pic")
        for spelling in ("in/out", "./in/sub/../out", str(folder / "in/out")):
            assert names(scan("in", skipped_folder=spelling)) == ["a.pic", "sub/b.pic"]
        (folder / "link").symlink_to(folder / "in/out")
        assert names(scan("in", skipped_folder="link")) == ["a.pic", "sub/b.pic"]

    def test_out_created_during_the_walk_is_skipped(self, folder: Path) -> None:
        make_files(folder, "in/a.pic")
        walk = iter(scan("in", skipped_folder="in/out"))
        make_files(folder, "in/out/x.pic")  # before the listing: iteration is lazy
        assert names(walk) == ["a.pic"]

    def test_out_that_is_itself_an_input_is_walked(self, folder: Path) -> None:
        make_files(folder, "in/a.pic")
        assert names(scan("in", skipped_folder="in")) == ["a.pic"]

    def test_folder_that_cannot_be_listed_does_not_end_the_walk(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_files(folder, "in/a.pic", "in/locked/b.pic", "in/z.pic")
        real = os.scandir

        def scandir(path: str) -> object:
            if path.endswith("locked"):
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        whole = scan("in")
        found = list(whole)
        assert names(found) == ["a.pic", "locked", "z.pic"]
        assert (
            found[1].problem == "cannot list this folder: Permission denied; check its permissions"
        )
        assert whole.gap == f"{os.path.join('in', 'locked')} cannot be listed"

    def test_folder_that_cannot_be_entered_is_a_problem(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_files(folder, "in/locked/b.pic")
        real = os.stat

        def stat(path: object, *args: object, **options: object) -> os.stat_result:
            if str(path).endswith("locked"):
                raise PermissionError(13, "Permission denied")
            return real(path, *args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "stat", stat)
        assert problems(scan("in")) == [
            (
                os.path.join("in", "locked"),
                "cannot list this folder: Permission denied; check its permissions",
            )
        ]

    @pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes only on Linux")
    def test_name_that_is_not_utf8_is_kept(self, folder: Path) -> None:
        raw = os.fsdecode(b"caf\xe9 \x01.pic")
        make_files(folder, f"in/{raw}", content=b"PIC")
        (entry,) = scan("in")
        assert entry.name == raw
        assert entry.path is not None
        assert Path(entry.path).read_bytes() == b"PIC"


class TestLinks:
    def test_link_to_a_folder_is_followed(self, folder: Path) -> None:
        make_files(folder, "elsewhere/a.pic", "in/b.pic")
        (folder / "in/link").symlink_to(folder / "elsewhere")
        assert names(scan("in")) == ["b.pic", "link/a.pic"]

    def test_loop_is_not_followed(self, folder: Path) -> None:
        make_files(folder, "in/sub/a.pic")
        (folder / "in/sub/up").symlink_to(folder / "in")
        (folder / "in/self").symlink_to(folder / "in")
        assert names(scan("in")) == ["sub/a.pic"]

    def test_dangling_link_with_the_name_of_an_input_is_an_input(self, folder: Path) -> None:
        make_files(folder, "in/b.pic")
        (folder / "in/a.pic").symlink_to("nowhere")
        (folder / "in/notes").symlink_to("nowhere")
        (folder / "in/round.pic").symlink_to("round.pic")
        both = scan("in")
        assert names(both) == ["a.pic", "b.pic", "round.pic"]
        assert both.others == 1


class TestNamedFile:
    def test_file_has_its_base_name(self, folder: Path) -> None:
        make_files(folder, "far/away/a.pic", "b.txt")
        assert names(scan("far/away/a.pic", "b.txt")) == ["a.pic", "b.txt"]

    def test_missing_file_is_a_problem(self, folder: Path) -> None:
        assert problems(scan("far/gone.pic")) == [
            ("far/gone.pic", "no such file or folder; check the path")
        ]

    def test_dash_is_standard_input(self, folder: Path) -> None:
        (entry,) = scan("-")
        assert (entry.path, entry.name, entry.label) == (None, "stdin", "stdin")

    def test_file_called_dash_needs_its_folder(self, folder: Path) -> None:
        make_files(folder, "-")
        (entry,) = scan("./-")
        assert (entry.path, entry.name) == ("./-", "-")

    def test_single_file_is_recognised(self, folder: Path) -> None:
        make_files(folder, "in/a.pic", "b[1].pic")
        assert scan("in/a.pic").single_file
        assert scan("-").single_file
        assert scan("b[1].pic").single_file
        assert not scan("in").single_file
        assert not scan("in/*.pic").single_file
        assert not scan("in/a.pic", "b[1].pic").single_file
        assert not scan("in/a.pic", listed=b"").single_file


class TestGlob:
    def test_matches_have_their_base_names(self, folder: Path) -> None:
        make_files(folder, "in/b.pic", "in/a.pic", "in/.hidden.pic", "in/c.txt")
        assert names(scan("in/*.pic")) == ["a.pic", "b.pic"]
        assert names(scan("in/[ab].pic", "in/?.txt")) == ["a.pic", "b.pic", "c.txt"]

    def test_existing_name_with_magic_characters_is_no_pattern(self, folder: Path) -> None:
        make_files(folder, "a[1].pic", "a1.pic", "star*.pic", "start.pic")
        assert names(scan("a[1].pic")) == ["a[1].pic"]
        assert names(scan("star*.pic")) == ["star*.pic"]

    def test_pattern_without_a_match_is_a_problem(self, folder: Path) -> None:
        assert problems(scan("in/*.pic")) == [("in/*.pic", "no file matches this pattern")]

    def test_matching_folder_is_walked(self, folder: Path) -> None:
        make_files(folder, "in/x1/sub/a.pic", "in/x2/b.pic", "in/y/c.pic")
        assert names(scan("in/x*")) == ["sub/a.pic", "b.pic"]
        assert names(scan("in/x*/")) == ["sub/a.pic", "b.pic"]

    def test_two_stars_reach_any_depth(self, folder: Path) -> None:
        make_files(folder, "in/a.pic", "in/s/b.pic", "in/s/t/c.pic", "in/s/t/d.txt")
        assert names(scan("in/**/*.pic")) == ["a.pic", "b.pic", "c.pic"]

    def test_two_stars_yield_no_file_twice(self, folder: Path) -> None:
        make_files(folder, "in/a.pic", "in/s/b.pic", "in/s/t/c.pic", "in/s-1/d.pic")
        assert names(scan("in/**")) == ["a.pic", "s/b.pic", "s/t/c.pic", "s-1/d.pic"]
        assert names(scan("in/**/*")) == ["a.pic", "b.pic", "t/c.pic", "d.pic"]

    def test_two_stars_before_a_folder_name_walk_that_folder(self, folder: Path) -> None:
        make_files(folder, "in/1/keep/a.pic", "in/2/x/keep/b.pic", "in/2/drop/c.pic")
        assert names(scan("in/**/keep")) == ["a.pic", "b.pic"]

    def test_two_stars_yield_no_file_twice_through_a_loop(self, folder: Path) -> None:
        make_files(folder, "in/a.pic", "in/s/b.pic")
        (folder / "in/s/up").symlink_to(folder / "in")
        assert names(scan("in/**/*.pic")) == ["a.pic", "b.pic"]

    def test_link_to_a_file_is_another_file(self, folder: Path) -> None:
        make_files(folder, "in/a.pic")
        (folder / "in/b.pic").symlink_to("a.pic")
        assert names(scan("in/*.pic")) == ["a.pic", "b.pic"]


class TestSearch:
    @pytest.fixture
    def opened(self) -> list[str]:
        """The files that a search has opened."""
        return []

    @pytest.fixture
    def kind(self, opened: list[str]) -> FileKind:
        """A kind whose outputs have names that begin with `out`."""

        def is_output(path: str) -> bool:
            opened.append(path)
            return os.path.basename(path).startswith("out")

        return replace(KIND, is_output=is_output)

    def find(self, kind: FileKind, *paths: str, **options: object) -> Search:
        entries = list(InputScan(kind, paths, **options))  # type: ignore[arg-type]
        (search,) = {entry.search for entry in entries}
        assert search is not None
        return search

    def test_outputs_among_other_files_are_skipped(
        self, folder: Path, kind: FileKind, opened: list[str]
    ) -> None:
        make_files(folder, *(f"in/b/out{i}.pic" for i in range(9)), "in/c/a.pic", "in/c/b.pic")
        search = self.find(kind, "in")
        assert opened == []
        assert search.skips_outputs
        assert search.skips_outputs
        assert opened == ["in/b/out0.pic", "in/c/a.pic"]  # one file of each folder is enough

    def test_outputs_alone_are_inputs(self, folder: Path, kind: FileKind) -> None:
        make_files(folder, "in/out1.pic", "in/b/out2.pic", "in/notes.txt")
        assert not self.find(kind, "in").skips_outputs
        assert not self.find(kind, "in/**/*.pic").skips_outputs

    def test_outputs_in_out_are_never_inputs(self, folder: Path, kind: FileKind) -> None:
        make_files(folder, "in/out1.pic")
        assert self.find(kind, "in", skipped_folder="in").skips_outputs

    def test_one_decision_per_argument_for_all_iterations(
        self, folder: Path, kind: FileKind
    ) -> None:
        make_files(folder, "in/a.pic", "in/out1.pic", "other/out2.pic")
        inputs = InputScan(kind, ("in", "other"))
        first, second = list(inputs), list(inputs)
        assert [entry.search for entry in first] == [entry.search for entry in second]
        skipped = [entry.name for entry in first if entry.search and entry.search.skips(entry)]
        assert skipped == ["out1.pic"]

    def test_named_and_listed_files_have_none(self, folder: Path, kind: FileKind) -> None:
        make_files(folder, "in/a.pic", "in/out1.pic")
        inputs = InputScan(kind, ("in/out1.pic",), listed=b"in/a.pic\nin\n")
        assert {entry.search for entry in inputs} == {None}


class TestExclusion:
    def test_patterns_are_relative_to_each_folder(self, folder: Path) -> None:
        make_files(folder, "one/a.pic", "one/x/a.pic", "two/b.pic", "two/x/a.pic")
        inputs = scan("one", "two", exclusion=Exclusion(["/a.pic"]))
        assert names(inputs) == ["x/a.pic", "b.pic", "x/a.pic"]
        assert (inputs.excluded, inputs.others) == (1, 0)

    def test_excluded_folder_is_not_listed(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_files(folder, "in/a.pic", "in/thumbs/deep/b.pic", "in/sub/thumbs/c.pic")
        listed = []
        scandir = os.scandir

        def record(path: str) -> object:
            listed.append(path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", record)
        assert names(scan("in", exclusion=Exclusion(["thumbs/"]))) == ["a.pic"]
        assert listed == ["in", os.path.join("in", "sub")]

    def test_files_globs_and_lists_are_filtered_too(self, folder: Path) -> None:
        make_files(folder, "in/a.pic", "in/b.pic", "in/x/a.pic", "in/x/c.pic")
        excluded = Exclusion(["a.*", "x/"])
        assert names(scan("in/a.pic", "in/b.pic", exclusion=excluded)) == ["b.pic"]
        assert names(scan("in/*", exclusion=excluded)) == ["b.pic"]
        assert names(scan("in/**", exclusion=excluded)) == ["b.pic"]
        listed = b"in/a.pic\nin/b.pic\nin/x\nin/x/c.pic\nin\n"
        assert names(scan(listed=listed, exclusion=excluded)) == ["in/b.pic", "in/b.pic"]

    def test_named_folder_is_searched_although_its_name_matches(self, folder: Path) -> None:
        make_files(folder, "in/a.pic", "in/b.txt")
        assert names(scan("in", exclusion=Exclusion(["*", "!*.pic"]))) == ["a.pic"]
        assert names(scan(listed=b".", exclusion=Exclusion(["/in/b.*"]))) == ["in/a.pic"]


class TestList:
    def test_list_is_split_at_its_separator(self) -> None:
        assert list(split_list(b"a\nb b\r\n\n\r\nc", null=False)) == ["a", "b b", "c"]
        assert list(split_list(b"a\nb\0c\r\0\0", null=True)) == ["a\nb", "c\r"]
        assert list(split_list(b"", null=False)) == []

    def test_name_that_is_not_utf8_is_kept(self) -> None:
        assert list(split_list(b"\xff.pic\n", null=False)) == [os.fsdecode(b"\xff.pic")]

    def test_nul_without_null_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"NUL characters; add --null, or save it as UTF-8$"):
            list(split_list(b"a.pic\0b.pic\0", null=False))

    def test_entries_keep_their_relative_path(self, folder: Path) -> None:
        make_files(folder, "x/a.pic", "x/y/b.pic", "c*.pic")
        listed = b"./x/a.pic\nx//y/../y/b.pic\nc*.pic\n"
        found = list(scan(listed=listed))
        assert names(found) == ["x/a.pic", "x/y/b.pic", "c*.pic"]
        assert all(entry.problem is None for entry in found)

    def test_dash_in_a_list_is_a_file(self, folder: Path) -> None:
        make_files(folder, "-")
        (entry,) = scan(listed=b"-\n")
        assert (entry.path, entry.name) == ("-", "-")

    def test_folder_in_a_list_is_walked_with_its_path(self, folder: Path) -> None:
        make_files(folder, "x/y/a.pic", "x/b.pic")
        assert names(scan(listed=b"x/y/\n")) == ["x/y/a.pic"]
        assert names(scan(listed=b".\n")) == ["x/b.pic", "x/y/a.pic"]

    def test_missing_entry_is_a_problem(self, folder: Path) -> None:
        assert problems(scan(listed=b"gone.pic")) == [
            ("gone.pic", "no such file or folder; check the path")
        ]

    def test_absolute_entries_keep_their_whole_path(self, folder: Path) -> None:
        make_files(folder, "data/x/a.pic", "data/x/y/b.pic")
        listed = os.fsencode(folder / "data/x/a.pic")
        whole = str(folder / "data/x/a.pic").lstrip("/")
        (entry,) = scan(listed=listed)
        assert (entry.path, entry.name, entry.problem) == (os.fsdecode(listed), whole, None)
        assert names(scan(listed=b"/./" + listed)) == [whole]
        assert names(scan(listed=os.fsencode(folder / "data/x/y"))) == [f"{whole[:-5]}y/b.pic"]
        (entry,) = scan(listed=listed, root=str(folder / "data"))
        assert (entry.name, entry.problem) == ("x/a.pic", None)

    def test_absolute_entries_are_noticed(self) -> None:
        assert scan(listed=b"a.pic\n/b.pic\n").keeps_whole_paths
        assert not scan(listed=b"a.pic\n/b.pic\n", root="/").keeps_whole_paths
        assert not scan("/a.pic", listed=b"a.pic").keeps_whole_paths
        assert not scan("/a.pic").keeps_whole_paths

    def test_absolute_entry_with_two_dots_is_a_problem(self, folder: Path) -> None:
        make_files(folder, "a.pic", "x/b.pic")
        entry = f"{folder}/x/../a.pic"
        assert problems(scan(listed=entry.encode())) == [
            (entry, "holds '..'; write the path without it, or name a base folder with --root")
        ]

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("C:\\data\\a.pic", "C/data/a.pic"),
            ("d:/data/a.pic", "d/data/a.pic"),
            ("\\\\host\\share\\a.pic", "host/share/a.pic"),
            ("C:\\", "C"),
        ],
    )
    def test_drive_becomes_a_folder(
        self, path: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(inputs_module, "os", OnWindows)
        assert inputs_module._name_absolute(path) == (name, None)

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
    def test_byte_order_mark_is_understood(self, encoding: str) -> None:
        text = "ü/a.pic\r\nb.pic\r\n"
        if encoding == "utf-16-be":
            text = f"\ufeff{text}"
        assert list(split_list(text.encode(encoding), null=False)) == ["ü/a.pic", "b.pic"]

    def test_list_in_damaged_utf16_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"is damaged UTF-16; save it as UTF-8$"):
            list(split_list("a.pic".encode("utf-16")[:-1], null=False))

    def test_list_that_names_nothing_is_noticed(self) -> None:
        assert [scan(listed=text).has_empty_list for text in (b"", b"\r\n\n", b"a")] == [
            True,
            True,
            False,
        ]
        assert not scan("a.pic").has_empty_list

    def test_relative_entries_are_relative_to_root(self, folder: Path) -> None:
        make_files(folder, "data/x/a.pic")
        (entry,) = scan(listed=b"x/a.pic\n", root="data")
        assert (entry.path, entry.name, entry.problem) == ("data/x/a.pic", "x/a.pic", None)

    @pytest.mark.parametrize("root", [None, "data"])
    @pytest.mark.parametrize("entry", ["../up.pic", "x/../../up.pic", ".."])
    def test_entries_outside_the_root_are_problems(
        self, folder: Path, root: str | None, entry: str
    ) -> None:
        make_files(folder, "up.pic", "data/x/a.pic")
        where = "--root data" if root else "the current folder"
        assert problems(scan(listed=entry.encode(), root=root)) == [
            (entry, f"is outside {where}, so its output would be outside OUT")
        ]

    def test_absolute_entry_beside_the_root_is_a_problem(self, folder: Path) -> None:
        make_files(folder, "database/a.pic", "data/b.pic")
        listed = os.fsencode(folder / "database/a.pic")
        ((_, problem),) = problems(scan(listed=listed, root=str(folder / "data")))
        assert problem is not None
        assert problem.startswith("is outside --root")

    def test_paths_come_before_the_list(self, folder: Path) -> None:
        make_files(folder, "a.pic", "b.pic")
        assert names(scan("b.pic", listed=b"a.pic")) == ["b.pic", "a.pic"]


class TestRequest:
    def test_request_without_inputs_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"no input: .* LIST before OUT$"):
            require_inputs((), None, "nowhere")
        with pytest.raises(UsageError, match=r"no input: .* LIST$"):
            require_inputs((), None, None)

    def test_single_argument_taken_as_out_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"^no input: .* was taken as OUT, the last argument"):
            require_inputs((), None, str(tmp_path))

    def test_standard_input_twice_is_refused(self) -> None:
        with pytest.raises(UsageError, match="named twice"):
            require_inputs(("-", "a", "-"), None, None)

    def test_list_alone_is_accepted(self) -> None:
        require_inputs((), b"", None)


def test_captions_of_inputs_are_no_other_files(folder: Path) -> None:
    make_files(folder, "in/a.pic", "in/a.txt", "in/b.txt", "in/c.pic", "in/metadata.jsonl")
    make_files(folder, "in/d/captions.json", "in/d/e.PIC", "in/d/e.b.txt", "in/d/e.txt")
    make_files(folder, "in/d/f.notes", "in/d/f.txt")
    plain = scan("in")
    assert len(names(plain)) == 3
    assert plain.others == 8
    captioned = replace(plain, kind=replace(KIND, has_captions=True))
    assert names(captioned) == names(plain)
    assert captioned.others == 4  # b.txt, d/e.b.txt, d/f.notes and d/f.txt


def test_a_caption_may_come_before_its_input(folder: Path) -> None:
    make_files(folder, "in/a.txt", "in/b.txt", "in/b.webp", "in/c.pic")
    kind = replace(KIND, has_captions=True, accepts_name=lambda name: name.endswith(".webp"))
    webp = replace(scan("in"), kind=kind)
    for _ in range(2):
        assert names(webp) == ["b.webp"]
        assert webp.others == 2  # a.txt and c.pic
