"""`--prune`: outputs without a source are moved away, and records follow renamed sources."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dinac_cli.codec import records
from dinac_cli.jobs import encode as encode_job
from dinac_cli.jobs.pruning import Pruning
from dinac_cli.storage.output import Output
from dinac_cli.storage.source_memory import MEMORY_NAME

from .conftest import list_files, read_files, save
from .processes import Finished, run

REMOVED = ".dinac-removed"


@pytest.fixture
def folder(own: Path) -> Path:
    """`own`, without the last source: one of four outputs is an orphan."""
    (own / "photos/sub/deep/c.webp").unlink()
    return own


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Twenty images and their records, in `photos` and `latents`."""
    for number in range(20):
        save(tmp_path / f"photos/{number:02}.png", 16, 16, number)
    assert run("encode", "photos", "latents", cwd=tmp_path).code == 0
    return tmp_path


def prune(folder: Path, *arguments: str) -> Finished:
    return run("encode", "photos", "latents", "--prune=all", *arguments, cwd=folder)


def encode_afresh(folder: Path, *options: str) -> dict[str, bytes]:
    """Returns the records that an empty OUT would hold."""
    assert run("encode", "photos", "fresh", *options, cwd=folder).code == 0
    return read_files(folder / "fresh")


def test_nothing_is_moved_without_the_option(folder: Path) -> None:
    before = read_files(folder / "latents")
    done = run("encode", "photos", "latents", cwd=folder)
    assert (done.code, read_files(folder / "latents")) == (0, before)


def test_a_record_without_a_source_is_moved_and_counted(folder: Path) -> None:
    before = read_files(folder / "latents")
    done = prune(folder)
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "0 encoded with nano, 3 already done, 1 moved to latents/.dinac-removed, "
        "1 other file skipped\n"
    )
    lost = "sub/deep/c.webp.dinac"
    assert read_files(folder / "latents") == {
        **{name: data for name, data in before.items() if name != lost},
        f"{REMOVED}/{lost}": before[lost],
    }
    again = prune(folder)
    assert again.out == "0 encoded with nano, 3 already done, 1 other file skipped\n"


def test_json_names_and_counts_what_was_moved(folder: Path) -> None:
    *files, summary = prune(folder, "--json").objects
    assert files[-1] == {
        "file": "latents/sub/deep/c.webp.dinac",
        "status": "pruned",
        "output": f"latents/{REMOVED}/sub/deep/c.webp.dinac",
    }
    assert (summary["pruned"], summary["renamed"], summary["done"]) == (1, 0, 3)
    verbose = run("encode", "photos", "latents", "--prune", "-v", cwd=folder)
    assert REMOVED not in verbose.err


def test_images_without_a_record_are_moved_and_other_images_stay(folder: Path) -> None:
    (folder / "latents/a.jpg.dinac").unlink()
    save(folder / "decoded/mine.png")
    before = read_files(folder / "decoded")
    done = run("decode", "latents", "decoded", "--prune=all", cwd=folder)
    assert (done.code, done.err) == (0, "")
    assert done.out == "0 decoded, 3 already done, 1 moved to decoded/.dinac-removed\n"
    assert (folder / f"decoded/{REMOVED}/a.jpg.png").read_bytes() == before["a.jpg.png"]
    assert not (folder / "decoded/a.jpg.png").exists()
    assert (folder / "decoded/mine.png").read_bytes() == before["mine.png"]


def test_records_of_any_name_keep_their_images(own: Path) -> None:
    shutil.rmtree(own / "decoded")
    for number, name in enumerate(("bare", "plain.dinac", "LOUD.DINAC", "photo.JPG.dinac")):
        shutil.copy(own / "latents/a.jpg.dinac", own / "latents" / name)
        os.utime(own / "latents" / name, (number, number))
    assert run("decode", "latents", "decoded", cwd=own).code == 0
    before = read_files(own / "decoded")
    done = run("decode", "latents", "decoded", "--prune=all", cwd=own)
    assert (done.code, read_files(own / "decoded")) == (0, before)


def test_an_input_of_several_records_prevents_pruning(folder: Path) -> None:
    parts = [folder / "latents/a.jpg.dinac", folder / "latents/b.png.dinac"]
    (folder / "latents/both.dinac").write_bytes(b"".join(p.read_bytes() for p in parts))
    for part in parts:
        part.unlink()
    before = read_files(folder / "decoded")
    done = run("decode", "latents", "decoded", "--prune=all", cwd=folder)
    assert done.code == 3
    assert done.err.startswith("dinac: decoded: --prune moved nothing: latents/both.dinac: ")
    assert done.err.endswith(" is not one file of one record; check the inputs and run again\n")
    assert read_files(folder / "decoded") == before


def test_a_tenth_of_the_outputs_is_the_limit(many: Path) -> None:
    for number in range(2):
        (many / f"photos/{number:02}.png").unlink()
    allowed = run("encode", "--prune", "photos", "latents", cwd=many)
    assert allowed.out.startswith("0 encoded with nano, 18 already done, 2 moved to ")
    for number in range(2, 5):
        (many / f"photos/{number:02}.png").unlink()
    before = read_files(many / "latents")
    refused = run("encode", "--prune", "photos", "latents", "--quiet", cwd=many)
    assert (refused.code, refused.out, read_files(many / "latents")) == (3, "", before)
    assert refused.err == (
        "dinac: latents: --prune moved nothing: 3 of 18 outputs have no source, which is more than "
        "10 %; check the inputs, or use --prune=all\n"
    )
    counted = run("encode", "--prune", "photos", "latents", "--json", cwd=many)
    summary = counted.objects[-1]
    assert (counted.code, summary["done"], summary["failed"]) == (3, 15, 0)
    assert refused.err == f"dinac: latents: {summary['prune_refused']}\n"
    assert run("encode", "--prune=all", "photos", "latents", cwd=many).code == 0
    assert len(list_files(many / f"latents/{REMOVED}")) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photos", "latents", "--limit", "9"), "needs all inputs; leave out --limit"),
        (("photos", "latents", "--shard", "0/2"), "needs all inputs; leave out --shard"),
        (
            ("photos", "latents", "--files-from", "list"),
            "needs folders as inputs, not a list; leave out --files-from",
        ),
        (("photo*", "latents"), "needs folders as inputs, and photo* is not a folder"),
        (
            ("photos", "photos/a.jpg", "latents"),
            "needs folders as inputs, and photos/a.jpg is not a folder",
        ),
        (("photos", "gone", "latents"), "needs folders as inputs, and gone does not exist"),
        (("-", "latents"), "needs folders as inputs, and - is not a folder"),
        (("photos", "-"), "needs a folder as OUT, and - is not a folder"),
    ],
)
def test_runs_that_do_not_see_all_sources_are_refused(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    (folder / "list").write_text("photos/a.jpg\n")
    before = read_files(folder / "latents")
    commands = (("encode",), ("encode", "--dry-run"), ("plan",))
    for command in commands:
        done = run(*command, "--prune", *arguments, cwd=folder)
        assert (done.code, done.out, done.err) == (2, "", f"dinac: --prune {message}\n")
    assert read_files(folder / "latents") == before


def test_decode_refuses_the_same_runs(folder: Path) -> None:
    done = run("decode", "latents", "decoded", "--prune", "--limit", "1", cwd=folder)
    said = "dinac: --prune needs all inputs; leave out --limit\n"
    assert (done.code, done.out, done.err) == (2, "", said)


def test_the_value_is_all_or_nothing(folder: Path) -> None:
    done = run("encode", "photos", "latents", "--prune=photos", cwd=folder)
    said = "dinac: --prune=photos: expected --prune or --prune=all\n"
    assert (done.code, done.out, done.err) == (2, "", said)


def test_a_folder_that_cannot_be_listed_prevents_pruning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: str = ".") -> object:
        if str(path) == os.path.join("photos", "sub"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    before = read_files(folder / "latents")
    monkeypatch.setattr(os, "scandir", scandir)
    done = prune(folder)
    monkeypatch.undo()
    assert (done.code, read_files(folder / "latents")) == (3, before)
    assert done.err == (
        "dinac: photos/sub: cannot list this folder: Permission denied; check its permissions\n"
        "dinac: latents: --prune moved nothing: photos/sub cannot be listed; "
        "check the inputs and run again\n"
    )


def test_an_input_folder_without_images_prevents_pruning(folder: Path) -> None:
    before = read_files(folder / "latents")
    done = run("encode", "photos", "empty", "latents", "--prune=all", cwd=folder)
    assert (done.code, read_files(folder / "latents")) == (3, before)
    assert done.err == (
        "dinac: latents: --prune moved nothing: empty holds no images; "
        "check the inputs and run again\n"
    )


def test_a_source_in_any_input_folder_counts(folder: Path) -> None:
    save(folder / "more/sub/deep/c.webp", 33, 90, 3)
    done = run("encode", "photos", "more", "latents", "--prune=all", cwd=folder)
    assert (done.code, REMOVED in done.out) == (0, False)


def test_a_source_that_fails_keeps_its_record(own: Path) -> None:
    (own / "photos/a.jpg").write_bytes(b"no image any more")
    before = read_files(own / "latents")
    done = prune(own)
    assert (done.code, read_files(own / "latents")) == (3, before)


def test_sources_behind_a_broken_link_are_not_gone(own: Path) -> None:
    (own / "photos/sub").rename(own / "disk")
    (own / "photos/sub").symlink_to(own / "disk")
    before = read_files(own / "latents")
    assert prune(own).code == 0
    (own / "disk").rename(own / "not mounted")
    assert prune(own).code == 0
    assert read_files(own / "latents") == before


def test_a_stopped_run_moves_nothing(folder: Path) -> None:
    (folder / "photos/broken.png").write_bytes(b"")
    before = read_files(folder / "latents")
    done = prune(folder, "--fail-fast")
    assert (done.code, read_files(folder / "latents")) == (3, before)


def test_a_source_that_comes_back_is_encoded_and_may_be_lost_again(own: Path) -> None:
    source = own / "photos/a.jpg"
    for turn, name in enumerate(("a.jpg.dinac", "a.jpg.2.dinac", "a.jpg.3.dinac")):
        content = source.read_bytes()
        source.unlink()
        assert prune(own).code == 0
        assert len(list_files(own / f"latents/{REMOVED}")) == turn + 1
        assert (own / f"latents/{REMOVED}" / name).exists()
        source.write_bytes(content)
        assert prune(own).out.startswith("1 encoded with nano, 3 already done")


def test_removed_outputs_never_come_back(folder: Path) -> None:
    assert prune(folder).code == 0
    for command in ("verify", "info"):
        done = run(command, "latents", "--json", cwd=folder)
        assert (done.code, REMOVED in done.out) == (0, False)
    decoded = run("decode", "latents", "again", cwd=folder)
    assert decoded.out.startswith("3 decoded")
    assert run("plan", "photos", "latents", "--json", cwd=folder).objects[-1]["orphaned"] == 0
    restored = run("decode", f"latents/{REMOVED}", "restored", cwd=folder)
    assert (restored.code, list_files(folder / "restored")) == (0, ["sub/deep/c.webp.png"])


def test_files_that_are_not_records_stay(folder: Path) -> None:
    beside = folder / "latents/sub/deep/c.webp.npz"
    beside.write_bytes(b"neighbour")
    (folder / "latents/mine.dinac").write_text("no record")
    (folder / "latents/link.dinac").symlink_to("a.jpg.dinac")
    assert prune(folder).code == 0
    assert list_files(folder / f"latents/{REMOVED}") == ["sub/deep/c.webp.dinac"]
    assert beside.exists()
    assert (folder / "latents/mine.dinac").exists()
    assert (folder / "latents/link.dinac").is_symlink()


def test_other_runs_and_inputs_inside_of_out_are_left_alone(folder: Path) -> None:
    assert run("encode", "photos", "latents/other", cwd=folder).code == 0
    save(folder / "latents/more/x.png")
    assert run("encode", "latents/more", "latents/more", cwd=folder).code == 0
    before = read_files(folder / "latents/other")
    done = run("encode", "photos", "latents/more", "latents", "--prune=all", cwd=folder)
    assert done.code == 0
    assert list_files(folder / f"latents/{REMOVED}") == ["sub/deep/c.webp.dinac"]
    assert read_files(folder / "latents/other") == before


def test_a_record_that_was_moved_by_hand_stays_and_is_counted(own: Path) -> None:
    (own / "latents/a.jpg.dinac").rename(own / "latents/kept.dinac")
    done = prune(own)
    assert done.out.startswith("0 encoded with nano, 3 already done, 1 renamed, ")
    assert done.err == (
        "dinac: 1 orphaned record in latents, without a source among the inputs; "
        "dinac plan -v names them\n"
    )
    (own / "latents/mine").mkdir()
    (own / "latents/kept.dinac").rename(own / "latents/mine/kept.dinac")
    (own / "latents/mine" / MEMORY_NAME).touch()  # the OUT of another run
    assert prune(own).err == ""


def test_out_may_be_the_input_folder(folder: Path) -> None:
    both = folder / "both"
    save(both / "a.png")
    save(both / "b.png", seed=1)
    assert run("encode", "both", "both", cwd=folder).code == 0
    assert run("decode", "both", "both", "-f", "webp", cwd=folder).code == 0
    (both / "b.png").unlink()
    assert run("encode", "both", "both", "--prune=all", cwd=folder).code == 0
    assert list_files(both / REMOVED) == ["b.png.dinac"]
    assert run("decode", "both", "both", "-f", "webp", "--prune=all", cwd=folder).code == 0
    assert list_files(both / REMOVED) == ["b.png.dinac", "b.png.webp"]
    assert list_files(both)[2:] == ["a.png", "a.png.dinac", "a.png.webp"]
    (both / "a.png.dinac").rename(both / "c.dinac")  # the original a.png is no record
    assert run("decode", "both", "both", "-f", "webp", "--prune=all", cwd=folder).code == 0
    assert list_files(both / REMOVED) == ["a.png.webp", "b.png.dinac", "b.png.webp"]


def test_an_output_that_cannot_be_moved_stays_and_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_files(folder / "latents")
    (folder / f"latents/{REMOVED}").write_text("in the way")
    done = prune(folder)
    assert done.code == 3
    assert done.err.startswith("dinac: latents/sub/deep/c.webp.dinac: latents/.dinac-removed/sub")
    kept = {name: data for name, data in read_files(folder / "latents").items() if name != REMOVED}
    assert kept == before


def test_an_output_that_another_run_has_moved_is_no_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Output.set_aside

    def set_aside(output: Output, target: str) -> str:
        real(output, target)
        return real(output, target)

    monkeypatch.setattr(Output, "set_aside", set_aside)
    done = prune(folder)
    assert (done.code, done.err) == (0, "")
    assert list_files(folder / f"latents/{REMOVED}") == ["sub/deep/c.webp.dinac"]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--precision", "f32", "--posterior"),
        ("--precision", "q8", "--flip"),
        ("--precision", "q3", "--resize", "24"),
    ],
)
def test_the_record_of_a_renamed_source_has_the_bytes_of_a_fresh_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    save(tmp_path / "photos/a.png", 40, 32)
    save(tmp_path / "photos/b.jpg", 32, 32, 1)
    assert run("encode", "photos", "latents", *options, cwd=tmp_path).code == 0
    (tmp_path / "photos/new").mkdir()
    (tmp_path / "photos/a.png").rename(tmp_path / "photos/new/z.png")
    (tmp_path / "photos/b.jpg").rename(tmp_path / "photos/B.jpg")
    with monkeypatch.context() as patch:
        patch.setattr(encode_job.EncodeJob, "submit", None)  # fails if anything is encoded
        done = run("encode", "photos", "latents", "--prune", cwd=tmp_path)
    assert (done.code, done.out) == (0, "0 encoded with nano, 2 renamed\n")
    assert read_files(tmp_path / "latents") == encode_afresh(tmp_path, *options)


def test_a_renamed_folder_is_not_encoded_again(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (many / "photos").rename(many / "trip")
    (many / "photos").mkdir()
    (many / "trip").rename(many / "photos/trip")
    planned = run("plan", "photos", "latents", "--prune", "--json", cwd=many).objects[-1]
    assert (planned["renamed"], planned["new"], planned["orphaned"]) == (20, 0, 0)
    monkeypatch.setattr(encode_job.EncodeJob, "submit", None)  # fails if anything is encoded
    *files, summary = run("encode", "photos", "latents", "--prune", "--json", cwd=many).objects
    assert (summary["renamed"], summary["pruned"], summary["failed"]) == (20, 0, 0)
    assert sorted(files, key=lambda file: str(file["file"]))[0] == {
        "file": "photos/trip/00.png",
        "status": "renamed",
        "name": "trip/00.png",
        "output": "latents/trip/00.png.dinac",
        "reason": "was latents/00.png.dinac",
    }
    monkeypatch.undo()
    assert read_files(many / "latents") == encode_afresh(many)
    again = run("encode", "photos", "latents", "--prune", cwd=many)
    assert again.out == "0 encoded with nano, 20 already done\n"


def test_records_that_a_fresh_run_would_make_otherwise_are_not_renamed(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(records, "name_creator", lambda: "dinac-cli 0.0")
        assert run("encode", "photos", "older", cwd=own).code == 0
    (own / "photos/a.jpg").rename(own / "photos/z.jpg")
    done = run("encode", "photos", "older", "--prune=all", cwd=own)
    assert done.out.startswith("1 encoded with nano, 3 already done, 1 moved to ")
    assert read_files(own / "older")["z.jpg.dinac"] == encode_afresh(own)["z.jpg.dinac"]


def test_anonymous_records_are_encoded_again(own: Path) -> None:
    assert run("encode", "photos", "hidden", "--anonymous", cwd=own).code == 0
    (own / "photos/a.jpg").rename(own / "photos/z.jpg")
    done = run("encode", "photos", "hidden", "--prune=all", cwd=own)
    assert done.out.startswith("1 encoded with nano, 3 already done, 1 moved to ")


def test_a_copy_of_a_renamed_source_is_encoded(own: Path) -> None:
    (own / "photos/a.jpg").rename(own / "photos/y.jpg")
    shutil.copy(own / "photos/y.jpg", own / "photos/z.jpg")
    done = prune(own)
    assert done.out.startswith("1 encoded with nano, 3 already done, 1 renamed")
    assert read_files(own / "latents") == encode_afresh(own)


def test_a_damaged_record_is_not_renamed(own: Path) -> None:
    record = own / "latents/a.jpg.dinac"
    data = bytearray(record.read_bytes())
    data[-1] ^= 255
    record.write_bytes(data)
    (own / "photos/a.jpg").rename(own / "photos/z.jpg")
    done = prune(own)
    assert done.out.startswith("1 encoded with nano, 3 already done, 1 moved to ")
    assert read_files(own / "latents")["z.jpg.dinac"] == encode_afresh(own)["z.jpg.dinac"]


def test_an_old_record_stays_if_nothing_may_be_moved(own: Path) -> None:
    (own / "photos/a.jpg").rename(own / "photos/z.jpg")
    done = run("encode", "photos", "empty", "latents", "--prune=all", cwd=own)
    assert done.code == 3
    assert {"a.jpg.dinac", "z.jpg.dinac"} <= read_files(own / "latents").keys()
    assert prune(own).out.startswith("0 encoded with nano, 4 already done, 1 moved to ")


def test_plan_says_what_would_happen_and_changes_nothing(folder: Path) -> None:
    (folder / "photos/a.jpg").rename(folder / "photos/z.jpg")
    before = read_files(folder / "latents")
    planned = run("plan", "photos", "latents", "--prune=all", "-v", cwd=folder)
    dry = run("encode", "photos", "latents", "--prune=all", "--dry-run", "-v", cwd=folder)
    assert (planned.code, planned.out, planned.err) == (dry.code, dry.out, dry.err)
    assert read_files(folder / "latents") == before
    assert planned.code == 0
    assert planned.out.endswith("1 orphaned record to move to latents/.dinac-removed\n")
    assert "dinac: renamed photos/z.jpg: was latents/a.jpg.dinac\n" in planned.err
    assert "dinac: orphaned latents/sub/deep/c.webp.dinac: " in planned.err
    refused = run("plan", "photos", "latents", "--prune", "--json", cwd=folder)
    assert refused.code == 3
    assert refused.objects[-1]["prune_refused"] in refused.err
    assert refused.err == (
        "dinac: latents: --prune would move nothing: 1 of 5 outputs have no source, which is more "
        "than 10 %; check the inputs, or use --prune=all\n"
    )
    code = run("plan", "photos", "latents", "--prune=all", "--exit-code", "--quick", cwd=folder)
    assert code.code == 3
    assert prune(folder).out.startswith("0 encoded with nano, 2 already done, 1 renamed, 1 moved ")
    code = run("plan", "photos", "latents", "--prune=all", "--exit-code", "--quick", cwd=folder)
    assert code.code == 0


def test_an_orphan_that_another_run_has_moved_is_not_planned(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = str(folder / "latents/moved.png.dinac")
    monkeypatch.setattr(Pruning, "list_orphans", lambda _: iter([moved]))
    planned = run("plan", "photos", "latents", "--prune=all", "--json", "--quick", cwd=folder)
    assert (planned.code, planned.err) == (0, "")
    assert planned.objects[-1]["orphaned"] == 0


def test_a_source_that_vanishes_during_the_run_is_gone(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Pruning.check

    def check_after_deletion(pruning: Pruning, planned: int = 0) -> str | None:
        (own / "photos/a.jpg").unlink()
        return check(pruning, planned)

    monkeypatch.setattr(Pruning, "check", check_after_deletion)
    done = prune(own)
    assert (done.code, list_files(own / f"latents/{REMOVED}")) == (0, ["a.jpg.dinac"])


def test_a_disk_that_vanishes_while_outputs_are_moved_loses_no_more_than_was_checked(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (many / "photos/07.png").unlink()
    real = Output.set_aside

    def set_aside(output: Output, target: str) -> str:
        shutil.rmtree(many / "photos", ignore_errors=True)
        return real(output, target)

    monkeypatch.setattr(Output, "set_aside", set_aside)
    done = run("encode", "photos", "latents", "--prune", cwd=many)
    assert (done.code, list_files(many / f"latents/{REMOVED}")) == (0, ["07.png.dinac"])


def test_the_python_interface_prunes(folder: Path) -> None:
    from dinac_cli.jobs.encode import encode_files

    results = list(encode_files(folder / "photos", folder / "latents", prune="all"))
    assert [result.status.value for result in results][-1] == "pruned"
