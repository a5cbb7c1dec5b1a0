"""`--mask` and `--masks` on the command line: summaries, plans, info, verify, and pipes."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinac_cli.container.record import read_record
from dinac_cli.container.tensors import MASK

from ..container.hand_made import content_of, record_of, tensor
from .conftest import save
from .processes import run

MASKED = np.zeros((32, 48), np.uint8)
MASKED[:, :24] = 255
PATCHES = [[255, 128, 0]] * 2  # of the second patch, half counts: 127.5


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos`, masks of one of them, and their latents, for reading only."""
    folder = tmp_path_factory.mktemp("masked")
    for seed, name in enumerate(("a.png", "b.png")):
        save(folder / "photos" / name, 48, 32, seed)
    (folder / "masks").mkdir()
    Image.fromarray(MASKED).save(folder / "masks/a.png")
    done = run("encode", "photos", "latents", "--masks", "masks", cwd=folder)
    assert (done.code, done.err) == (0, NONE_OF_ONE)
    return folder


NONE_OF_ONE = "dinac: without a mask in masks, so everything counts: 1 image\n"


def test_a_second_run_and_a_plan_say_how_many_have_none(work: Path) -> None:
    again = run("encode", "photos", "latents", "--masks", "masks", cwd=work)
    assert (again.code, again.out) == (0, "0 encoded with nano, 2 already done\n")
    assert again.err == NONE_OF_ONE
    planned = run("plan", "photos", "latents", "--masks", "masks", "--quick", cwd=work)
    assert planned.code == 0
    assert NONE_OF_ONE.removeprefix("dinac: ") in planned.out
    for command in ("plan", "encode"):
        done = run(command, "photos", "latents", "--masks", "masks", "--json", cwd=work)
        assert done.objects[-1]["unmasked"] == 1
    assert "unmasked" not in run("plan", "photos", "x", "--quick", "--json", cwd=work).objects[-1]


def test_a_plan_of_shards_counts_them_too(work: Path, tmp_path: Path) -> None:
    request = ("photos", str(tmp_path / "out"), "--masks", "masks", "--shard-size", "1")
    planned = run("plan", *request, "--quick", cwd=work)
    assert planned.code == 0
    assert NONE_OF_ONE.removeprefix("dinac: ") in planned.out
    done = run("encode", *request, cwd=work)
    assert (done.code, done.err) == (0, NONE_OF_ONE)
    summary = run("plan", *request, "--quick", "--json", cwd=work).objects[-1]
    assert (summary["unmasked"], summary["images_done"]) == (1, 2)


def test_a_plan_does_not_look_for_masks_of_images_in_archives(work: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(work / "photos/a.png", "a.png")
    shutil.copy(work / "photos/b.png", tmp_path)
    request = ("in.tar", "b.png", "out", "--masks", str(work / "masks"), "--quick")
    planned = run("plan", *request, cwd=tmp_path)
    assert f"\nwithout a mask in {work / 'masks'}, so everything counts: 1 image\n" in planned.out
    summary = run("plan", *request, "--json", cwd=tmp_path).objects[-1]
    assert summary["unmasked"] is None


def test_the_folder_must_be_named_again(work: Path) -> None:
    for command in ("plan", "encode"):
        done = run(command, "photos", "latents", cwd=work)
        assert (done.code, done.out) == (2, "")
        assert done.err == (
            "dinac: latents/a.png.dinac was made with --masks; name the folder with --masks again, "
            "or choose another OUT\n"
        )
    done = run("encode", "photos", "latents", "--no-mask", cwd=work)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "dinac: latents holds latents with --masks; you asked for --no-mask "
        "(latents/a.png.dinac); choose another OUT, or add --overwrite to re-encode everything\n"
    )


def test_a_part_without_any_mask_is_warned_of(work: Path, tmp_path: Path) -> None:
    (tmp_path / "typo").mkdir()
    out, typo = str(tmp_path / "out"), str(tmp_path / "typo")
    done = run("encode", "photos", out, "--masks", typo, "--limit", "1", cwd=work)
    assert done.code == 0
    assert (
        done.err
        == f"dinac: WARNING: no image has a mask in {typo}; check the folder and the names\n"
    )
    refused = run("encode", "photos", out, "--masks", typo, cwd=work)
    assert refused.code == 2
    assert refused.err == (
        f"dinac: --masks {typo}: holds no mask of any image, such as {typo}/a.png for "
        "photos/a.png; check the folder and the names\n"
    )


def test_opaque_images_and_a_folder_of_masks_are_warned_of(work: Path, tmp_path: Path) -> None:
    """`--mask masks` is easily typed for `--masks masks`: then the masks are inputs."""
    out = str(tmp_path / "out")
    done = run("encode", "photos", "masks", out, "--mask", cwd=work)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "dinac: photos/a.png and masks/a.png would both be written to a.png.dinac; "
        "give them different OUTs or rename one; for a folder of mask files, use --masks\n"
    )
    opaque = run("encode", "photos", out, "--mask", "--json", cwd=work)
    assert (opaque.code, opaque.objects[-1]["unmasked"]) == (0, 2)
    assert opaque.err == (
        "dinac: WARNING: no image has transparency, so everything counts; "
        "for a folder of mask files, use --masks\n"
    )


def test_images_without_a_mask_and_masks_without_an_image_are_named(
    work: Path, tmp_path: Path
) -> None:
    masks = tmp_path / "mk"
    masks.mkdir()
    for name in ("a.png", "tpyo.png", "._a.png"):
        Image.fromarray(MASKED).save(masks / name)
    unused = f"dinac: 1 mask in {masks} belongs to no image: {masks}/tpyo.png; check its name\n"
    none = f"dinac: without a mask in {masks}, so everything counts: 1 image\n"
    options = ("--masks", str(masks), "-v")
    for count, out in enumerate(("loose", "shards")):
        request = ("photos", str(tmp_path / out), *options, *("--shard-size", "1") * count)
        planned = run("plan", *request, "--quick", cwd=work)
        assert f"{unused.removeprefix('dinac: ')}" in planned.out
        assert ("dinac: new photos/b.png (no mask)\n" in planned.err) == (not count)
        done = run("encode", *request, cwd=work)
        assert done.err.endswith(none + unused)
        assert done.err.count("photos/b.png") == done.err.count("no mask)") == 1
        again = run("encode", "photos", str(tmp_path / out), *options[:2], cwd=work)
        assert again.err == none + unused
    part = run("encode", "photos", str(tmp_path / "part"), *options, "--limit", "1", cwd=work)
    assert "tpyo" not in part.err
    first = run("encode", "photos", str(tmp_path / "json"), *options, "--json", cwd=work).objects
    assert {one["name"]: one.get("unmasked") for one in first[:-1]} == {
        "a.png": None,
        "b.png": True,
    }


def test_transparency_that_masks_leave_out_is_counted(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "photos", tmp_path / "photos")
    clear = Image.open(tmp_path / "photos/b.png").convert("RGB")
    clear.putalpha(Image.fromarray(MASKED))
    clear.save(tmp_path / "photos/b.png")
    masks = str(work / "masks")
    for out, options in (("loose", ()), ("shards", ("--shard-size", "2"))):
        done = run("encode", "photos", out, "--masks", masks, *options, cwd=tmp_path)
        assert done.err == (
            f"dinac: without a mask in {masks}, so everything counts: 1 image\n"
            "dinac: 1 of these images has transparency, which --masks ignores and --mask would "
            "keep\n"
        )


def test_a_mask_that_cannot_be_used_is_one(work: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("a.png", "a.webp"):
        (tmp_path / "masks" / name).write_text("no image")
    masks = ("--masks", str(tmp_path / "masks"))
    hint = f"without a mask in {masks[1]}, so everything counts: 1 image\n"
    for shards in ((), ("--shard-size", "2")):
        request = ("photos", str(tmp_path / f"out{len(shards)}"), *masks, *shards)
        done = run("encode", *request, cwd=work)
        assert done.code == 3
        assert done.err.endswith(f"a.png, a.webp; keep one\ndinac: {hint}")
        planned = run("plan", *request, "--quick", cwd=work)
        assert f"\n{hint}" in planned.out


def test_info_shows_how_much_counts(work: Path) -> None:
    one = run("info", "latents/a.png.dinac", cwd=work)
    assert "\nmask           50.1% counts\n" in one.out
    both = run("info", "latents", cwd=work)
    assert "\nmask       in 1, of which 50.1% counts\n" in both.out
    first, second, summary = run("info", "latents", "--json", cwd=work).objects
    share = (255 + 128) / (3 * 255)
    assert first["mask"] == pytest.approx(share)
    assert "mask" not in second
    assert (summary["masks"], summary["mask_mean"]) == (1, pytest.approx(share))


def test_other_commands_read_records_with_masks(work: Path, tmp_path: Path) -> None:
    decoded = str(tmp_path / "decoded")
    for command in (
        ("verify", "latents", "--source", "photos"),
        ("decode", "latents", decoded),
        ("psnr", "photos", decoded),
        ("report", "photos", decoded, str(tmp_path / "report.html"), "--latents", "latents"),
        ("export", "latents", str(tmp_path / "exported"), "--to", "npz"),
    ):
        done = run(*command, cwd=work)
        assert (done.code, done.err) == (0, ""), command


def test_verify_refuses_a_mask_of_another_shape(tmp_path: Path) -> None:
    entries = {"latents": tensor("F32", [1, 1, 2], 0, 8), "mask": tensor("U8", [2], 8, 10)}
    (tmp_path / "bad.dinac").write_bytes(record_of(content_of(bytes(10), **entries)))
    done = run("verify", "bad.dinac", cwd=tmp_path)
    assert done.code == 3
    assert "bad.dinac: tensor mask has shape [2], not [1, 2]; re-encode" in done.err


def test_standard_input_has_alpha_but_no_name(work: Path, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.dstack([np.zeros((32, 48, 3), np.uint8), MASKED])).save(file, "PNG")
    path = tmp_path / "x.dinac"
    assert run("encode", "-", str(path), "--mask", stdin=file.getvalue()).code == 0
    mask = read_record(path, [MASK]).mask
    assert mask is not None
    assert mask.tolist() == PATCHES
    refused = run("encode", "-", "-", "--masks", str(work / "masks"), stdin=file.getvalue())
    assert refused.code == 2
    assert refused.err == (
        "dinac: --masks needs names, which images of standard input lack; use --mask\n"
    )


def test_a_run_follows_mask(work: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert run("encode", "photos", out, "--mask", cwd=work).code == 0
    done = run("encode", "photos", out, cwd=work)
    assert (done.code, done.out) == (0, "0 encoded with nano, 2 already done\n")
    assert done.err == f"dinac: following {out}/a.png.dinac: --mask\n"
    info = run("info", out, cwd=work)
    assert "\nmask       in none: everything counts\n" in info.out
    summary = json.loads(run("info", out, "--json", cwd=work).out.splitlines()[-1])
    assert (summary["masks"], summary["mask_mean"]) == (0, None)
