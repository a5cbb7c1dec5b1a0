"""`dinac verify`: whole output, exit codes, and imports."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dinac_cli.container.record import pack_record, unpack_record

from .conftest import SIZES
from .processes import (
    DEADLINE_SECONDS,
    Finished,
    feed,
    finish,
    parse_lines,
    run,
    run_noting_imports,
    start,
)

CUT_SHORT = "the record is cut short; copy it again or re-encode"


def without_time(done: Finished) -> str:
    return re.sub(r" in \d+\.\d s$", "", done.out.removesuffix("\n"))


def test_intact_records_verify_without_torch(work: Path, tmp_path: Path) -> None:
    done, imported = run_noting_imports(
        tmp_path / "imports", ("torch", "huggingface_hub", "rich"), "verify",
        str(work / "latents"), "--source", str(work / "photos"), "--model", "nano",
    )  # fmt: skip
    assert (done.code, done.err, imported) == (0, "", "")
    assert without_time(done) == "4 verified"


def test_each_finding_is_reported(own: Path) -> None:
    latents = own / "latents"
    data = (latents / "a.jpg.dinac").read_bytes()
    (latents / "a.jpg.dinac").write_bytes(data[:-40] + bytes([data[-40] ^ 255]) + data[-39:])
    (latents / "cut.dinac").write_bytes(data[:-1])
    (latents / "more.dinac").write_bytes((latents / "b.png.dinac").read_bytes() + b"more")
    (latents / "notes.txt").write_text("ignored")
    (own / "photos/b.png").write_bytes(b"changed")
    (own / "photos/sub/b.png").unlink()
    done = run("verify", "latents", "--source", "photos", "--failures", "failed.jsonl", cwd=own)
    assert done.code == 3
    damaged, *others = done.err.splitlines()
    assert damaged.startswith("dinac: latents/a.jpg.dinac: ")
    assert damaged.endswith("copy the record again or re-encode")
    [changed] = re.findall(r"\(7 bytes, not \d+\)", others[0])
    assert others == [
        f"dinac: latents/b.png.dinac: its source photos/b.png has changed {changed}; "
        "run encode --checksum again",
        f"dinac: latents/cut.dinac: {CUT_SHORT}",
        f"dinac: latents/more.dinac: b.png: its source photos/b.png has changed {changed}; "
        "run encode --checksum again",
        "dinac: latents/more.dinac after record 1: not a latent record: no dinac preamble",
        "dinac: latents/sub/b.png.dinac: its source photos/sub/b.png does not exist",
    ]
    assert without_time(done) == "1 verified, 6 failed, 1 other file skipped"
    failed = parse_lines((own / "failed.jsonl").read_text())
    assert [entry["status"] for entry in failed] == ["failed"] * 6
    quiet = run("verify", "latents", "--quiet", cwd=own)
    assert (quiet.code, quiet.out) == (3, "")


def test_records_of_another_model_fail(work: Path) -> None:
    tiny = Path(__file__).parent.parent / "golden/tiny"
    done = run("verify", "latents/a.jpg.dinac", "--model", tiny, cwd=work)
    assert (done.code, without_time(done)) == (3, "0 verified, 1 failed")
    assert re.fullmatch(
        r"dinac: latents/a\.jpg\.dinac: encoded with model nano \(latent space \w{16}, "
        r"weights \w{16}\), not with tiny \(latent space \w{16}, weights \w{16}\)\n",
        done.err,
    )


def test_json_of_reencoded_records(own: Path) -> None:
    path = own / "latents/b.png.dinac"
    record = unpack_record(path.read_bytes())
    path.write_bytes(pack_record(record.header, record.latents + np.float32(1)))
    command = ("verify", "latents", "--source", "photos", "--reencode", "100%")
    done = run(*command, "--json", cwd=own)
    assert done.code == 3
    *files, summary = done.objects
    by_name = {entry["file"].removeprefix("latents/"): entry for entry in files}
    assert sorted(by_name) == sorted(f"{name}.dinac" for name in SIZES)
    spoilt = by_name.pop("b.png.dinac")
    assert spoilt["delta"] == pytest.approx(1, abs=0.05)
    assert spoilt["reason"] == (
        f"re-encoded, its latents differ by up to {spoilt['delta']:.3g}, more than 0.25"
    )
    for entry in by_name.values():
        del entry["bytes_in"], entry["width"], entry["height"]
        assert entry == {
            "file": f"latents/{entry['name']}",
            "name": entry["name"],
            "status": "verified",
            "source": "unchanged",
            "delta": 0.0,
        }
    assert summary == {
        "summary": True,
        "verified": 3,
        "failed": 1,
        "unknown_sources": 0,
        "encoded_anew": 4,
        "max_delta": spoilt["delta"],
        "not_inputs": 0,
    }
    allowed = run(*command, "--max-delta", "2", "--limit", "2", cwd=own)
    assert (allowed.code, allowed.err) == (0, "")
    assert without_time(allowed) == (f"2 verified; 2 re-encoded, largest |Δ| {spoilt['delta']:.3g}")


def test_streams_and_lists(work: Path) -> None:
    names = [f"latents/{name}.dinac" for name in SIZES]
    stream = b"".join((work / name).read_bytes() for name in names)
    done = run("verify", "-", "--source", "photos", stdin=stream, cwd=work)
    assert (done.code, done.err, without_time(done)) == (0, "", "4 verified")
    cut = run("verify", "-", "--json", stdin=stream[:-1], cwd=work)
    assert cut.code == 3
    assert [entry.get("reason") for entry in cut.objects] == [None, None, None, CUT_SHORT, None]
    listed = run(
        "verify", "--files-from", "-", "--null", "--limit", "3", "--verbose",
        stdin="\0".join(names).encode(), cwd=work,
    )  # fmt: skip
    assert (listed.code, without_time(listed)) == (0, "3 verified")
    assert listed.err == "".join(f"dinac: {name} (verified)\n" for name in names[:3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no input: name files, folders, '-' or --files-from LIST"),
        (("gone",), "gone: no such file or folder; check the path"),
        (("empty",), "no latent files found in empty; run dinac encode first"),
        (("latents", "--source", "gone"), "--source gone: no such folder; check the path"),
        (
            ("latents", "--reencode", "5%"),
            "--reencode reads the images again; name their folder with --source",
        ),
        (("latents", "--max-delta", "1"), "--max-delta needs --reencode"),
        (
            ("latents", "--reencode", "101"),
            "--reencode 101: expected a share such as 5%, more than 0, at most 100%",
        ),
        (
            ("latents", "--max-delta", "-1"),
            "--max-delta -1: expected a finite number, 0 or more",
        ),
        (
            ("latents", "--revision", "1"),
            "--revision 1: name its model with --model",
        ),
    ],
)
def test_wrong_arguments_are_refused(work: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run("verify", *arguments, cwd=work)
    assert (done.code, done.out, done.err) == (2, "", f"dinac: {message}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_signal_ends_waiting_for_standard_input(work: Path) -> None:
    process = start("verify", "-", stdin=subprocess.PIPE)
    feed(
        process, (work / "latents/b.png.dinac").read_bytes()[:100]
    )  # reads once signals are handled
    process.send_signal(signal.SIGTERM)
    process.wait(DEADLINE_SECONDS)  # before standard input is closed
    done = finish(process)
    assert (done.code, without_time(done)) == (143, "0 verified")
    assert done.err == (
        "dinac: finishing the work in flight; press again to stop at once\n"
        "dinac: stopped before the end; these are the findings so far\n"
    )


def test_many_small_records_take_a_few_seconds(tmp_path: Path, work: Path) -> None:
    """Verifies 1,000 records of 3 kB; this took 0.7 s when written."""
    data = (work / "latents/sub/b.png.dinac").read_bytes()
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(1000):
        (folder / f"{number}.dinac").write_bytes(data)
    done = run("verify", folder, "--json")
    assert (done.code, json.loads(done.out.splitlines()[-1])["verified"]) == (0, 1000)
