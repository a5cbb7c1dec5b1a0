"""`dinac plan` and `encode --dry-run`: each state, and that nothing changes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .conftest import save
from .processes import Finished, run, run_noting_imports

README = Path(__file__).parent.parent.parent / "README.md"


def picture(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Returns relative name → modification time and content of a folder and all below it."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in [folder, *folder.rglob("*")]
    }


def states(done: Finished) -> dict[str, str]:
    return {entry["file"]: entry["state"] for entry in done.objects[:-1]}


def spoil(own: Path) -> None:
    """Changes `own` so that each state occurs once; a.jpg stays done."""
    (own / "latents/b.png.dinac").write_bytes((own / "latents/b.png.dinac").read_bytes()[:-1])
    save(own / "photos/sub/b.png", 20, 20)
    save(own / "photos/new.png", 40, 30)
    (own / "photos/sub/deep/c.webp").unlink()
    (own / "photos/taken.png").write_bytes((own / "photos/new.png").read_bytes())
    (own / "latents/taken.png.dinac").write_text("mine")
    (own / "photos/broken.png").write_bytes(b"no image")
    (own / "latents/.a.jpg.dinac.tmp").write_text("left by a run that was killed")


def test_each_state_is_reported_and_nothing_changes(own: Path, tmp_path: Path) -> None:
    spoil(own)
    before = picture(own)
    photos, latents = own / "photos", own / "latents"
    done, imported = run_noting_imports(
        tmp_path / "imports", ("torch", "huggingface_hub", "rich"),
        "plan", str(photos), str(latents), "--json", "--quick",
    )  # fmt: skip
    assert (done.code, imported) == (3, "")
    assert picture(own) == before
    assert states(done) == {
        str(photos / "a.jpg"): "done",
        str(photos / "b.png"): "damaged",
        str(photos / "broken.png"): "failed",
        str(photos / "new.png"): "new",
        str(photos / "sub/b.png"): "stale",
        str(photos / "taken.png"): "conflict",
        str(latents / "sub/deep/c.webp.dinac"): "orphaned",
    }
    by_state = {entry.get("state"): entry for entry in done.objects}
    assert by_state["stale"]["changed"] == "size"
    assert by_state["new"]["pixels"] == 1200
    summary = done.objects[-1]
    assert summary["pixels"] == 1200 + 400 + 64 * 48
    rate = 8 * (latents / "a.jpg.dinac").stat().st_size / (50 * 37)
    assert (summary["bits_per_pixel"], summary["bits_per_pixel_measured"]) == (rate, True)
    assert abs(summary["bytes_estimated"] - summary["pixels"] * rate / 8) <= 2


def test_table_and_dry_run_say_the_same(own: Path) -> None:
    spoil(own)
    before = picture(own)
    planned = run("plan", "photos", "latents", "--verbose", cwd=own)
    dry = run("encode", "photos", "latents", "--dry-run", "--verbose", cwd=own)
    assert picture(own) == before
    assert planned.code == dry.code == 3
    assert planned.err == dry.err
    assert planned.out.splitlines()[:-1] == dry.out.splitlines()[:-1]
    rows = dict(re.findall(r"^(\w+) +(\d+) +[-\d]", planned.out, re.MULTILINE))
    assert rows.pop("failed") == rows.pop("new") == rows.pop("done") == "1"
    assert "dinac: stale photos/sub/b.png: the source has changed (size)\n" in planned.err
    for done in (planned, dry):
        assert re.search(
            r"\ntime: about [\d.]+ s \(cpu/\w+, from a sample of 3 images\)\n$", done.out
        )


def test_estimated_time_names_the_trials_or_the_reason_for_none(own: Path) -> None:
    one = run("plan", "photos/a.jpg", "one", "--json", cwd=own).objects[-1]
    all_of_them = run("plan", "photos", "all", "--json", "--workers", "1", cwd=own).objects[-1]
    assert 0 < one["seconds_estimated"] < 600
    assert (one["tried"], all_of_them["tried"]) == (1, 4)
    assert not (own / "one").exists()
    for extra, why in (
        (("--quick",), "not estimated (--quick)"),
        (("--overwrite", "--quick"), "not estimated (--quick)"),
    ):
        done = run("plan", "photos", "fresh", *extra, cwd=own)
        assert done.out.endswith(f"\ntime: {why}\n")
    dry = run("encode", "photos", "fresh", "--dry-run", "--compile", cwd=own)
    assert dry.out.endswith("\ntime: not estimated (compiled models are not tried)\n")
    assert run("plan", "photos", "latents", cwd=own).out.endswith("\nnothing to encode\n")
    piped = run("plan", "-", "fresh", cwd=own, stdin=(own / "photos/a.jpg").read_bytes())
    assert piped.out.endswith("\ntime: not estimated (of unknown size)\n")


def test_absent_device_prevents_only_the_estimate(own: Path) -> None:
    planned = run("plan", "photos", "fresh", "--device", "cuda:99", cwd=own)
    assert (planned.code, planned.err) == (0, "")
    assert "\n4 to encode, about " in planned.out
    assert "\ntime: not estimated (device cuda:99 is not available; " in planned.out


def test_quiet_plan_says_why_encode_would_refuse(own: Path) -> None:
    refusal = (
        "dinac: encode would refuse: latents holds bf16 latents; you asked for --precision q6 "
        "(latents/a.jpg.dinac); choose another OUT, or add --overwrite to re-encode everything\n"
    )
    for command in (("plan",), ("encode", "--dry-run")):
        done = run(*command, "photos", "latents", "--precision", "q6", "--quiet", cwd=own)
        assert (done.code, done.out, done.err) == (2, "", refusal)


def test_quiet_plan_tries_nothing(own: Path, tmp_path: Path) -> None:
    options = ("plan", str(own / "photos"), str(own / "fresh"), "--quiet")
    quiet, imported = run_noting_imports(tmp_path / "imports", ("torch",), *options)
    assert (quiet.code, quiet.out, quiet.err, imported) == (0, "", "", "")
    heard = run("plan", "photos", "fresh", "--quiet", "--json", cwd=own)
    assert heard.objects[-1]["tried"] >= 1


def test_impossible_out_is_refused(own: Path) -> None:
    (own / "file").write_text("in the way")
    done = run("plan", "photos", "file/out/deep", "--quick", cwd=own)
    assert (done.code, done.out) == (1, "")
    assert done.err == "dinac: file: not a folder; choose another OUT\n"


def test_missing_out_is_not_created(own: Path) -> None:
    done = run("plan", "photos", "fresh/out", "--json", "--precision", "q6", cwd=own)
    assert (done.code, done.err) == (0, "")
    assert set(states(done).values()) == {"new"}
    assert done.objects[-1]["bits_per_pixel"] == 2.41
    assert not (own / "fresh").exists()


def test_other_settings_are_conflicts(own: Path) -> None:
    done = run("plan", "photos", "latents", "--json", "--precision", "q6", cwd=own)
    assert done.code == 2
    assert set(states(done).values()) == {"conflict"}
    assert "holds bf16 latents; this run uses --precision q6; choose" in done.objects[0]["reason"]
    assert (own / "photos/new.png").write_bytes((own / "photos/b.png").read_bytes())
    shown = run("plan", "photos", "latents", "--precision", "q6", cwd=own)
    refused = run("encode", "photos", "latents", "--precision", "q6", cwd=own)
    assert (shown.code, shown.err) == (refused.code, "")
    refusal = refused.err.removeprefix("dinac: ")
    assert shown.out.splitlines(keepends=True)[-1] == f"encode would refuse: {refusal}"
    assert done.objects[-1]["refused"] == refusal.strip()


def test_changed_source_of_the_same_size_is_found_by_its_hash(own: Path) -> None:
    path = own / "photos/b.png"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"!")
    os.utime(path, (2e9, 2e9))
    done = run("plan", "photos/b.png", "latents", "--json", cwd=own)
    assert (done.code, done.objects[0]["changed"]) == (0, "hash")
    assert len(done.objects) == 2  # named files leave no orphans


def test_outputs_of_inputs_beyond_the_limit_are_not_orphans(own: Path) -> None:
    done = run("plan", "photos", "latents", "--json", "--limit", "1", cwd=own)
    assert states(done) == {"photos/a.jpg": "done"}


def test_link_out_of_out_is_a_conflict(own: Path) -> None:
    (own / "linked").mkdir()
    (own / "linked/sub").symlink_to(own / "latents/sub", target_is_directory=True)
    done = run("plan", "photos", "linked", "--json", cwd=own)
    assert states(done)["photos/a.jpg"] == "new"
    assert states(done)["photos/sub/b.png"] == "conflict"


def test_exit_code_says_whether_work_remains(own: Path) -> None:
    def plan(*options: str) -> int:
        return run("plan", "photos", "latents", "--quiet", *options, cwd=own).code

    assert (plan(), plan("--exit-code")) == (0, 0)
    (own / "latents/b.png.dinac").rename(own / "latents/orphan.dinac")
    assert (plan(), plan("--exit-code")) == (0, 3)
    assert (plan("--precision", "q6"), plan("--precision", "q6", "--exit-code")) == (2, 2)
    assert run("encode", "photos", "latents", cwd=own).code == 0
    assert plan("--exit-code") == 0  # an orphan is no work
    save(own / "photos/b.png", 20, 20)
    assert (plan(), plan("--exit-code")) == (0, 3)
    (own / "photos/b.png").write_bytes(b"broken")
    assert (plan(), plan("--exit-code")) == (3, 3)


def test_exit_code_reports_conflicts(own: Path) -> None:
    (own / "latents/sub").rename(own / "moved")
    (own / "latents/sub").symlink_to(own / "moved", target_is_directory=True)
    options = ("plan", "photos", "latents", "--quiet")
    codes = [run(*options, *extra, cwd=own).code for extra in ((), ("--exit-code",))]
    assert codes == [0, 3]


def test_dry_run_refuses_a_failures_file(own: Path) -> None:
    done = run("encode", "photos", "out", "--dry-run", "--failures", "failed", cwd=own)
    assert done.code == 2
    assert done.err == "dinac: --dry-run only prints the plan; leave out --failures\n"
    assert not (own / "failed").exists()
