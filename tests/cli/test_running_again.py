"""A second run redoes and reports what changed, and keeps files that dinac did not write."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dinac_cli.container.record import pack_record, unpack_record

from .conftest import draw, list_files, read_files, save
from .processes import run

CHOOSE = "choose another output folder or add --overwrite"


def make_newer(path: Path) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**12))


def test_changed_sources_are_reencoded_and_reported(own: Path) -> None:
    draw(64, 48, seed=77).save(own / "photos/b.png")  # another picture
    make_newer(own / "photos/b.png")
    make_newer(own / "photos/a.jpg")  # newer, with the same content
    cut = own / "latents/sub/deep/c.webp.dinac"
    cut.write_bytes(cut.read_bytes()[:-9])
    untouched = (own / "latents/a.jpg.dinac").stat().st_mtime_ns
    encoded = run("encode", "photos", "latents", cwd=own)
    assert encoded.code == 0
    assert encoded.summary == (
        "2 encoded with nano, 2 of them again, 2 already done, "
        "1 other file skipped; SIZES in TIME\n"
    )
    changed, short = sorted(encoded.err.splitlines())
    assert changed == "dinac: photos/b.png: redone: the source has changed"
    assert short.startswith("dinac: photos/sub/deep/c.webp: redone: the output was ")
    assert (own / "latents/a.jpg.dinac").stat().st_mtime_ns == untouched


def test_a_change_of_equal_size_and_time_is_found(own: Path) -> None:
    path = own / "photos/b.png"
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the checksum of the last chunk, which readers ignore
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    checked = run("encode", "photos", "latents", "--json", cwd=own)
    *files, summary = checked.objects
    assert summary["done"] == 3
    assert [entry["file"] for entry in files if entry["status"] != "done"] == ["photos/b.png"]


def test_foreign_files_are_replaced_only_with_overwrite(own: Path) -> None:
    latents, image = own / "latents/b.png.dinac", own / "decoded/a.jpg.png"
    latents.write_text("precious")
    draw(50, 37).save(image)
    precious = image.read_bytes()
    encoded = run("encode", "photos", "latents", cwd=own)
    assert (encoded.code, encoded.err) == (
        3,
        "dinac: photos/b.png: latents/b.png.dinac: "
        f"exists and was not written by dinac; {CHOOSE}\n",
    )
    decoded = run("decode", "latents/a.jpg.dinac", "decoded", cwd=own)
    assert (decoded.code, decoded.err) == (
        3,
        "dinac: latents/a.jpg.dinac: decoded/a.jpg.png: "
        f"exists and was not written by dinac; {CHOOSE}\n",
    )
    assert latents.read_text() == "precious"
    assert image.read_bytes() == precious
    replaced = run("encode", "photos", "latents", "--overwrite", cwd=own)
    assert (replaced.code, replaced.err) == (0, "")
    assert latents.read_bytes()[8:14] == b"DINAC\0"


def test_decoding_into_the_folder_of_originals_replaces_none(own: Path) -> None:
    before = read_files(own / "photos")
    done = run("decode", "latents", "photos", cwd=own)
    assert done.code == 3
    assert done.summary == "2 decoded, 2 failed; SIZES in TIME\n"
    assert [line.split(": ")[1:3] for line in sorted(done.err.splitlines())] == [
        ["latents/b.png.dinac", "photos/b.png"],
        ["latents/sub/b.png.dinac", "photos/sub/b.png"],
    ]
    assert before.items() <= read_files(own / "photos").items()


def test_other_precision_or_settings_are_refused(own: Path) -> None:
    before = read_files(own)
    encoded = run("encode", "photos", "latents", "--precision", "q6", cwd=own)
    assert (encoded.code, encoded.out) == (2, "")
    assert encoded.err == (
        "dinac: latents holds bf16 latents; you asked for --precision q6 (latents/a.jpg.dinac); "
        "choose another OUT, or add --overwrite to re-encode everything\n"
    )
    decoded = run("decode", "latents", "decoded", "-n", "3", "--seed", "5", cwd=own)
    assert (decoded.code, decoded.out) == (2, "")
    assert decoded.err == (
        "dinac: decoded holds images decoded with --steps 1 --seed 0; "
        "you asked for --steps 3 --seed 5 (decoded/a.jpg.png); "
        "choose another OUT, or add --overwrite to decode everything again\n"
    )
    assert read_files(own) == before

    anew = run("decode", "latents", "decoded", "-n", "3", "--overwrite", cwd=own)
    assert (anew.code, anew.err) == (0, "")
    again = run("decode", "latents", "decoded", "-n", "3", cwd=own)
    assert (again.code, again.out) == (0, "0 decoded, 4 already done\n")
    # In a folder with both settings, each image with other settings fails alone.
    del before["decoded/a.jpg.png"]
    (own / "decoded/b.png").write_bytes(before["decoded/b.png"])
    mixed = run("decode", "latents", "decoded", "-n", "3", cwd=own)
    assert (mixed.code, mixed.out) == (3, "0 decoded, 3 already done, 1 failed\n")
    assert mixed.err == (
        "dinac: latents/b.png.dinac: decoded/b.png was decoded with --steps 1; "
        "this run uses --steps 3; choose another OUT or add --overwrite\n"
    )


def test_latents_of_an_unknown_model_are_refused(own: Path) -> None:
    path = own / "latents/b.png.dinac"
    record = unpack_record(path.read_bytes())
    header = replace(record.header, latent_space="0123456789abcdef", model="other")
    path.write_bytes(pack_record(header, record.latents))
    done = run("decode", "latents", "decoded", cwd=own)
    assert (done.code, done.err) == (
        3,
        "dinac: latents/b.png.dinac: encoded with model other (latent space 0123456789abcdef), "
        "which is neither embedded nor cached; name it with --model\n",
    )
    named = run("decode", path, "decoded", "--model", "nano", cwd=own)
    assert named.code == 3
    assert "encoded with model other (latent space 0123456789abcdef), not with nano" in named.err
    allowed = run("decode", path, "new", "--model", "nano", "--allow-other-model", cwd=own)
    assert (allowed.code, list_files(own / "new")) == (0, ["b.png"])


def test_out_may_be_inside_the_input_folder_or_equal_it(own: Path) -> None:
    photos = own / "photos"
    for out in (photos, photos / "out"):
        shutil.copytree(own / "latents", out, dirs_exist_ok=True)
    save(photos / "out/stray.png")
    before = list_files(photos)
    inside = run("encode", "photos", "photos/out", cwd=own)
    assert inside.out.startswith("0 encoded with nano, 4 already done, ")
    (photos / "out/stray.png").unlink()
    same = run("encode", "photos", "photos", cwd=own)
    assert same.out.startswith("0 encoded with nano, 4 already done, ")
    assert list_files(photos) == [name for name in before if name != "out/stray.png"]


@pytest.mark.parametrize("name", [".dinac-tmp-0-0-0-1-00000000", ".dinac-tmp-x"])
def test_unknown_temporary_files_are_kept(own: Path, name: str) -> None:
    (own / "latents" / name).write_text("somebody's")
    assert run("encode", "photos", "latents", cwd=own).code == 0
    assert (own / "latents" / name).read_text() == "somebody's"
