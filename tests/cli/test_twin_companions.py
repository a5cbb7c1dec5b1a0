"""`--flip` with `--features` and `--posterior`: all tensors of both images."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from dinac_cli import LatentFolder
from dinac_cli.container.record import Record, list_arrays, pack_encoded, read_record
from dinac_cli.container.tensors import COMPANIONS, Encoded

from .conftest import read_files, save
from .processes import Finished, run, run_together

TINY = Path(__file__).parent.parent / "golden/tiny"
NAMES = ("a.png", "sub/b.png")
ALL = ("--flip", "--features", "--posterior")
TITLES = {
    "latents": "npy",
    "logsnr": "logsnr.npy",
    "class_token": "class_token.npy",
    "flipped": "flipped.npy",
    "flipped_logsnr": "flipped_logsnr.npy",
    "flipped_class_token": "flipped_class_token.npy",
}


def encode(*arguments: str | Path, cwd: Path) -> Finished:
    model = ("--model", TINY, "--device", "cpu", "--dtype", "f32")
    return run("encode", *arguments, "--precision", "f32", *model, cwd=cwd)


def plan(*arguments: str | Path, cwd: Path) -> Finished:
    options = ("--json", "--precision", "f32", "--model", TINY)
    return run("plan", *arguments, *options, cwd=cwd)


def read(path: Path) -> Record:
    return read_record(path, COMPANIONS, with_twin=True)


def get_upright(record: Record) -> Encoded:
    return Encoded(record.latents, record.logsnr, record.class_token)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos`, their `mirrored` copies, and the latents of each: `all` and `of-mirrored`."""
    folder = tmp_path_factory.mktemp("twins")
    for seed, name in enumerate(NAMES):
        save(folder / "photos" / name, 40 + seed, 30, seed)
        (folder / "mirrored" / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(folder / "photos" / name) as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "mirrored" / name)
    for source, out, options in (("photos", "all", ALL), ("mirrored", "of-mirrored", ALL[1:])):
        done = encode(source, out, *options, cwd=folder)
        assert (done.code, done.err) == (0, "")
    return folder


def test_twin_equals_the_encoded_mirrored_image(folder: Path, tmp_path: Path) -> None:
    for name in NAMES:
        twin = read(folder / f"all/{name}.dinac").flipped
        alone = read(folder / f"of-mirrored/{name}.dinac")
        assert twin is not None
        for ours, expected in zip(twin, get_upright(alone), strict=True):
            np.testing.assert_array_equal(ours, expected, strict=True)
    assert encode("photos", tmp_path, *ALL, "--workers", "1", cwd=folder).code == 0
    assert read_files(tmp_path) == read_files(folder / "all")


def test_missing_companions_of_the_twin_are_planned_and_added(folder: Path, tmp_path: Path) -> None:
    for name in NAMES:
        record = read(folder / f"all/{name}.dinac")
        assert record.flipped is not None
        target = tmp_path / f"{name}.dinac"
        target.parent.mkdir(exist_ok=True)
        twin = record.flipped._replace(class_token=None)
        target.write_bytes(pack_encoded(record.header, get_upright(record), None, twin))
    lack = "the record holds no class token of the mirrored image"
    planned = plan("photos", tmp_path, *ALL, cwd=folder)
    assert [file["reason"] for file in planned.objects[:-1]] == [lack, lack]
    without = plan("photos", tmp_path, "--flip", "--posterior", "--no-features", cwd=folder)
    assert [file["state"] for file in without.objects[:-1]] == ["done", "done"]
    done = encode("photos", tmp_path, *ALL, cwd=folder)
    assert done.code == 0
    said = [f"dinac: photos/{name}: redone: {lack}" for name in NAMES]
    assert sorted(done.err.splitlines()) == said
    assert read_files(tmp_path) == read_files(folder / "all")
    again = plan("photos", tmp_path, *ALL, cwd=folder)
    assert [file["state"] for file in again.objects[:-1]] == ["done", "done"]


def test_plan_doubles_the_estimate_for_twins(folder: Path, tmp_path: Path) -> None:
    plain = plan("photos", tmp_path, *ALL[1:], cwd=folder).objects[-1]
    twins = plan("photos", tmp_path, *ALL, cwd=folder).objects[-1]
    assert twins["bytes_estimated"] == pytest.approx(2 * plain["bytes_estimated"], abs=2)


def test_info_counts_tensors_of_both_images(folder: Path) -> None:
    one, many, as_json = run_together(
        ("info", str(folder / "all/a.png.dinac")),
        ("info", str(folder / "all"), str(folder / "of-mirrored")),
        ("info", str(folder / "all"), str(folder / "of-mirrored"), "--json"),
    )
    assert "twin           latents, class token, posterior of the mirrored image\n" in one.out
    assert "twin             in 2\nits class token  in 2\nits posterior    in 2\n" in many.out
    *records, summary = as_json.objects
    assert [entry["flipped"] for entry in records] == [True, True, False, False]
    assert (records[0]["flipped_posterior"], records[0]["flipped_class_token"]) == (True, 64)
    assert "flipped_class_token" not in records[-1]
    counts = ("flipped", "flipped_class_tokens", "flipped_posteriors")
    assert [summary[name] for name in counts] == [2, 2, 2]


def test_verify_reads_and_compares_both_images(folder: Path, tmp_path: Path) -> None:
    done = run(
        "verify", "all", "--source", "photos", "--reencode", "100%", "--model", TINY,
        "--device", "cpu", cwd=folder,
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert "2 re-encoded, largest |Δ| 0 " in done.out
    record = read(folder / "all/a.png.dinac")
    assert record.flipped is not None
    assert record.flipped.class_token is not None
    good = pack_encoded(record.header, get_upright(record), None, record.flipped)
    stored = record.flipped.class_token.tobytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dinac_cli.container.tensors._check_finite", lambda *values: None)
        spoilt = np.frombuffer(stored, np.float32).copy()
        spoilt[3] = np.nan
        twin = record.flipped._replace(class_token=spoilt)
        bad = pack_encoded(record.header, get_upright(record), None, twin)
    assert good != bad
    (tmp_path / "bad.dinac").write_bytes(bad)
    done = run("verify", tmp_path)
    assert done.code == 3
    assert done.err == (
        f"dinac: {tmp_path / 'bad.dinac'}: tensor flipped.class_token holds NaN or infinity; "
        "re-encode\n"
    )


def test_export_and_datasets_hold_all_tensors(folder: Path, tmp_path: Path) -> None:
    forms = ("safetensors", "npz", "webdataset")
    runs = [("export", str(folder / "all"), str(tmp_path / form), "--to", form) for form in forms]
    assert [done.code for done in run_together(*runs)] == [0, 0, 0]
    arrays = list_arrays(read(folder / "all/a.png.dinac"))
    assert list(arrays) == list(TITLES)
    plain = load_file(tmp_path / "safetensors/a.png.safetensors")
    with np.load(tmp_path / "npz/a.png.npz") as file:
        packed = {name: file[name] for name in file.files if name != "header"}
    assert plain.keys() == packed.keys() == arrays.keys()
    item = LatentFolder(folder / "all")[0]
    with tarfile.open(tmp_path / "webdataset/000000.tar") as tar:
        assert tar.getnames()[:7] == [f"00000000.{end}" for end in (*TITLES.values(), "json")]
        for name, end in TITLES.items():
            member = tar.extractfile(f"00000000.{end}")
            assert member is not None
            tarred = np.load(io.BytesIO(member.read()))
            for values in (plain[name], packed[name], tarred, item[name].numpy()):
                np.testing.assert_array_equal(values, arrays[name], strict=True)


def test_features_and_decode_read_only_the_tensors_they_need(folder: Path, tmp_path: Path) -> None:
    taken = run("features", folder / "all", tmp_path / "taken.safetensors")
    assert (taken.code, taken.err) == (0, "")
    tokens = load_file(tmp_path / "taken.safetensors")["class_tokens"]
    for name, token in zip(NAMES, tokens, strict=True):
        np.testing.assert_array_equal(token, read(folder / f"all/{name}.dinac").class_token)
    decode = ("--model", TINY, "--device", "cpu", "--dtype", "f32")
    flipped = run("decode", folder / "all", tmp_path / "flipped", "--flipped", *decode)
    plain = run("decode", folder / "of-mirrored", tmp_path / "plain", *decode)
    assert (flipped.code, plain.code) == (0, 0)
    for name in NAMES:
        with (
            Image.open(tmp_path / "flipped" / name) as ours,
            Image.open(tmp_path / "plain" / name) as alone,
        ):
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(alone))
