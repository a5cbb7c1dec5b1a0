"""OUT holds all outputs of a run, and nothing is written elsewhere."""

from __future__ import annotations

import errno
import ntpath
import os
import posixpath
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dinac_cli.container.names import escape_name
from dinac_cli.errors import OutputError, UnwritableDiskError
from dinac_cli.storage.output import Output, OutputKind

from .leftovers import leave_temporary


def make_output(path: Path, **options: bool) -> Output:
    return Output(str(path), OutputKind.FOLDER, lambda path: False, **options)


def test_folder_is_created_with_the_first_output(tmp_path: Path) -> None:
    output = make_output(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    target = output.locate("trip/day 1/a.jpg.dinac")
    output.write(target, b"record")
    assert (tmp_path / "out/trip/day 1/a.jpg.dinac").read_bytes() == b"record"
    assert [path.name for path in (tmp_path / "out/trip/day 1").iterdir()] == ["a.jpg.dinac"]


def test_unused_folders_that_a_run_made_are_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for name in ("kept", "kept/a/out"):
        output = make_output(tmp_path / name)
        output.open()
        output.prepare(output.locate("trip/a.jpg.dinac"))
        output.remove_unused()
    assert [path.name for path in (tmp_path / "kept").rglob("*")] == ["trip"]
    output = make_output(tmp_path / "out")
    output.open()
    output.prepare(output.locate("empty/a.jpg.dinac"))
    output.write(output.locate("trip/a.jpg.dinac"), b"record")
    output.remove_unused()
    assert (tmp_path / "out/trip/a.jpg.dinac").exists()


def test_file_out_is_the_target_for_any_name(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "new/x.dinac"), OutputKind.FILE, lambda path: False)
    assert output.locate("trip/a.jpg.dinac") == str(tmp_path / "new/x.dinac")
    output.write(output.locate("a"), b"record")
    assert (tmp_path / "new/x.dinac").read_bytes() == b"record"


def test_file_out_in_the_current_folder_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = Output("x.dinac", OutputKind.FILE, lambda path: False, fsync=True)
    output.write(output.locate("a"), b"record")
    assert os.listdir() == ["x.dinac"]


def test_outputs_that_are_set_aside_keep_their_path_and_each_other(tmp_path: Path) -> None:
    output = make_output(tmp_path / "out")
    places = []
    for content in (b"1", b"2", b"3"):
        output.write(output.locate("sub/a.jpg.dinac"), content)
        places.append(output.set_aside(output.locate("sub/a.jpg.dinac")))
    removed = tmp_path / "out/.dinac-removed/sub"
    names = ["a.jpg.dinac", "a.jpg.2.dinac", "a.jpg.3.dinac"]
    assert places == [str(removed / name) for name in names]
    assert [(removed / name).read_bytes() for name in names] == [b"1", b"2", b"3"]
    assert os.listdir(tmp_path / "out/sub") == []


def test_nothing_is_set_aside_outside_of_the_folder(tmp_path: Path) -> None:
    output = make_output(tmp_path / "out")
    output.write(output.locate("a.dinac"), b"1")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/.dinac-removed").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="leads outside"):
        output.set_aside(output.locate("a.dinac"))
    assert (tmp_path / "out/a.dinac").read_bytes() == b"1"


@pytest.mark.parametrize("system", [posixpath, ntpath])
@given(st.text(st.sampled_from("/\\.~: aC1é\0"), min_size=1) | st.text(min_size=1))
@example("1:30.png")  # on Windows, `join` takes this for a path on drive `1:`
@example("../../a")
@example("C:/a")
def test_every_name_in_a_record_is_below_the_folder(system: ModuleType, raw: str) -> None:
    name = escape_name(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dinac_cli.storage.output.os", SimpleNamespace(path=system, sep=system.sep))
        path = system.normpath(make_output(Path("out")).locate(name))
    assert path.startswith(f"out{system.sep}")
    assert len(path.split(system.sep)) == len(name.split("/")) + 1


def test_foreign_file_is_kept(tmp_path: Path) -> None:
    output = make_output(tmp_path)
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists and was not written by dinac"):
        output.write(output.locate("a"), b"record")
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_foreign_file_is_replaced_with_overwrite(tmp_path: Path) -> None:
    output = make_output(tmp_path, overwrite=True)
    (tmp_path / "a").write_bytes(b"mine")
    output.write(output.locate("a"), b"record")
    assert (tmp_path / "a").read_bytes() == b"record"


@pytest.mark.parametrize("overwrite", [False, True])
def test_link_out_of_the_folder_is_refused(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/sub").mkdir(parents=True)
    (tmp_path / "out/sub/link").symlink_to(tmp_path / "elsewhere")
    output = make_output(tmp_path / "out", overwrite=overwrite)
    with pytest.raises(OutputError, match=r"leads outside .* through a symbolic link"):
        output.write(output.locate("sub/link/a"), b"record")
    with pytest.raises(OutputError, match="leads outside"):
        output.prepare(output.locate("sub/link/deeper/a"))
    assert not (tmp_path / "elsewhere/a").exists()


def test_folder_beside_out_with_the_same_prefix_is_outside(tmp_path: Path) -> None:
    (tmp_path / "out-2").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path / "out-2")
    output = make_output(tmp_path / "out")
    with pytest.raises(OutputError, match="leads outside"):
        output.write(output.locate("link/a"), b"record")


def test_link_as_out_and_links_within_it_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real/one").mkdir(parents=True)
    (tmp_path / "real/two").symlink_to("one")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    output = make_output(tmp_path / "out")
    output.write(output.locate("two/a"), b"record")
    assert (tmp_path / "real/one/a").read_bytes() == b"record"


def test_link_in_the_place_of_an_output_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match="exists and was not written by dinac"):
        make_output(tmp_path / "out").write(str(tmp_path / "out/a"), b"record")
    make_output(tmp_path / "out", overwrite=True).write(str(tmp_path / "out/a"), b"record")
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert (tmp_path / "out/a").read_bytes() == b"record"


def test_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    output = make_output(tmp_path / "out")
    with pytest.raises(OutputError, match="cannot write: "):
        output.write(output.locate("sub/a"), b"record")


def test_full_disk_for_a_folder_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def makedirs(path: str, exist_ok: bool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "makedirs", makedirs)
    with pytest.raises(UnwritableDiskError, match="free some space and run the same command again"):
        make_output(tmp_path / "out").prepare(str(tmp_path / "out/a"))


def test_leftovers_are_removed_when_a_folder_is_first_used(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    unused, used = leave_temporary(tmp_path), leave_temporary(tmp_path / "sub")
    make_output(tmp_path).prepare(str(tmp_path / "sub/a"))
    assert (unused.exists(), used.exists()) == (True, False)


def test_number_of_remembered_folders_is_bounded(tmp_path: Path) -> None:
    output = make_output(tmp_path)
    output._ready.update(str(number) for number in range(5000))
    output.prepare(str(tmp_path / "a"))
    assert output._ready == {str(tmp_path)}


def test_missing_drive_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Windows, the topmost folder, which is its own parent, may not exist."""
    monkeypatch.setattr("dinac_cli.storage.output.os", EmptyWindows())
    with pytest.raises(OutputError, match=r"^Z:\\: not a folder; choose another OUT$"):
        make_output(Path("Z:\\new\\out")).require_writable()


class EmptyWindows:
    """`os` of a Windows without any file."""

    path = SimpleNamespace(
        dirname=ntpath.dirname,
        join=ntpath.join,
        lexists=lambda path: False,
        isdir=lambda path: False,
    )
