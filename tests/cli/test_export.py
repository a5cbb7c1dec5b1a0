"""`dinac export`: other libraries read the latents back from each format."""

from __future__ import annotations

import gc
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from dinac_cli import read_latents
from dinac_cli.commands.export import EXPORT_FORMATS, EXPORT_KEYS
from dinac_cli.jobs.export import FORMATS, WEBDATASET
from dinac_cli.jobs.export_forms import FORMS

from .conftest import SIZES, list_files, read_files
from .processes import run, run_noting_imports

SEPARATE_FORMATS = (*FORMS, WEBDATASET)  # those that take any records


def test_option_and_job_list_the_same_formats() -> None:
    assert EXPORT_FORMATS == FORMATS


def test_safetensors(work: Path, tmp_path: Path) -> None:
    arguments = ("export", str(work / "latents"), str(tmp_path / "out"))
    done, imported = run_noting_imports(tmp_path / "imports", ("torch", "PIL"), *arguments)
    assert (done.code, done.err, imported) == (0, "", "")
    assert done.summary == "4 exported; SIZES in TIME\n"
    assert list_files(tmp_path / "out") == sorted(f"{name}.safetensors" for name in SIZES)
    for name, (width, height) in SIZES.items():
        expected, header = read_latents(work / f"latents/{name}.dinac")
        with safe_open(tmp_path / f"out/{name}.safetensors", "np") as file:
            np.testing.assert_array_equal(file.get_tensor("latents"), expected)
            metadata = file.metadata()
        assert (metadata["width"], metadata["height"]) == (str(width), str(height))
        assert metadata["latent_space"] == header.latent_space


def test_npz(work: Path, tmp_path: Path) -> None:
    assert run("export", work / "latents", tmp_path / "out", "--to", "npz").code == 0
    expected, _ = read_latents(work / "latents/a.jpg.dinac")
    with np.load(tmp_path / "out/a.jpg.npz") as file:  # pickle is refused by default
        np.testing.assert_array_equal(file["latents"], expected)
        header = json.loads(str(file["header"]))
    assert (header["name"], header["width"], header["shape"]) == ("a.jpg", 50, [128, 3, 4])


def test_webdataset(work: Path, tmp_path: Path) -> None:
    assert run("export", work / "latents", tmp_path / "out", "--to", "webdataset").code == 0
    assert list_files(tmp_path / "out") == ["000000.tar"]
    with tarfile.open(tmp_path / "out/000000.tar") as tar:
        names = tar.getnames()
        assert names == [f"{i:08}.{suffix}" for i in range(4) for suffix in ("npy", "json")]
        headers = [json.loads(_extract(tar, name)) for name in names[1::2]]
        assert [header["name"] for header in headers] == list(SIZES)
        assert [(header["width"], header["height"]) for header in headers] == list(SIZES.values())
        assert headers[0]["shape"] == [128, 3, 4]
        array = np.load(io.BytesIO(_extract(tar, names[0])))
    np.testing.assert_array_equal(array, read_latents(work / "latents/a.jpg.dinac")[0])


def _extract(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
@pytest.mark.parametrize("keys", EXPORT_KEYS)
def test_read_by_webdataset_itself(work: Path, tmp_path: Path, keys: str) -> None:
    webdataset = pytest.importorskip("webdataset")
    for shard in ("0/2", "1/2"):
        arguments = ("--to", "webdataset", "--keys", keys, "--shard", shard)
        assert run("export", work / "latents", tmp_path / "out", *arguments).code == 0
    tars = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    gc.collect()  # webdataset closes its files only when they are collected
    assert sorted(sample["json"]["name"] for sample in samples) == sorted(SIZES)
    assert len({sample["__key__"] for sample in samples}) == len(SIZES)
    for sample in samples:
        expected, _ = read_latents(work / f"latents/{sample['json']['name']}.dinac")
        np.testing.assert_array_equal(sample["npy"], expected)


@pytest.mark.parametrize("form", SEPARATE_FORMATS)
def test_export_is_deterministic_and_replaces_no_foreign_file(own: Path, form: str) -> None:
    arguments = ("--to", form, *(("--force",) if form == "comfyui" else ()))
    for out in ("one", "two", "one"):
        assert run("export", "latents", out, *arguments, cwd=own).code == 0
    assert read_files(own / "one") == read_files(own / "two")
    name = list_files(own / "one")[0]
    (own / "one" / name).write_text("somebody's")
    refused = run("export", "latents", "one", *arguments, cwd=own)
    assert refused.code in (1, 3)
    assert "was not written by " in refused.err
    assert (own / "one" / name).read_text() == "somebody's"
    assert run("export", "latents", "one", *arguments, "--overwrite", cwd=own).code == 0
    assert read_files(own / "one") == read_files(own / "two")


def test_comfyui_takes_latents_of_d2_only(own: Path, tmp_path: Path) -> None:
    refused = run("export", "latents", "out", "--to", "comfyui", cwd=own)
    assert refused.code == 3
    assert refused.err.count("\n") == len(SIZES)
    assert refused.err.startswith(
        "dinac: latents/a.jpg.dinac: encoded with model nano (latent space "
    )
    assert "ComfyUI reads latents of DINAC-AE-D2: encode with --model d2, or add --force" in (
        refused.err
    )
    assert list_files(own / "out") == []
    wrong = run("export", "latents", "out", "--force", cwd=own)
    assert (wrong.code, wrong.err) == (2, "dinac: --force needs --to comfyui\n")


def test_training_sets_end_with_one_line_if_something_lacks(own: Path) -> None:
    arguments = ("export", "latents", "out", "--to", "lightningdit")
    unlabelled = run(*arguments, cwd=own)
    assert (unlabelled.code, unlabelled.err.count("\n")) == (2, 1)
    assert unlabelled.err.startswith("dinac: --to lightningdit: LightningDiT needs a class for")
    without_twins = run(*arguments, "--labels", "folders", cwd=own)
    assert without_twins.code == 2
    assert without_twins.err == (
        "dinac: latents/a.jpg.dinac: holds no mirrored image, which LightningDiT needs; "
        "encode with --flip\n"
    )
    assert not (own / "out").exists()


def test_what_was_left_out_is_counted_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / "photos" / name)
    assert run("encode", "photos", "latents", "--flip", cwd=tmp_path).code == 0
    done = run("export", "latents", "out.zip", "--to", "edm2", cwd=tmp_path)
    assert (done.code, done.err) == (
        0,
        "dinac: left out the mirrored images of 2 records: this format has no place for them\n"
        "dinac: 2 records hold no posterior, so their deviations are 0; "
        "encode --posterior stores it\n",
    )
    assert done.summary == "2 exported; SIZES in TIME\n"
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    again = run("export", "latents", "out.zip", "--to", "edm2", "--json", cwd=tmp_path)
    summary = json.loads(again.out.splitlines()[-1])
    assert (summary["done"], summary["twins_left_out"]) == (2, 2)
    assert summary["without_deviation"] == 2
    whole = run("export", "latents", "npz", "--to", "npz", "--json", cwd=tmp_path)
    assert "twins_left_out" not in whole.out


def test_classes_with_other_numbers_are_named_in_one_line(tmp_path: Path) -> None:
    for name in ("bat", "bee", "cat", "dog", "eel"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "photos" / name / "a.png")
    assert run("encode", "photos", "latents", "--posterior", cwd=tmp_path).code == 0
    arguments = ("--to", "edm2", "--labels", "folders", "--overwrite")
    without = ("--exclude", "bat/")
    assert run("export", "latents", "out", *arguments, *without, cwd=tmp_path).err == ""
    done = run("export", "latents", "out", *arguments, cwd=tmp_path)
    assert (done.code, done.err) == (
        0,
        "dinac: the classes have other numbers now: 0 was bee and is bat, 1 was cat and is bee, "
        "2 was dog and is cat, and 1 more\n",
    )


def test_bad_records_fail_alone(own: Path) -> None:
    (own / "latents/b.png.dinac").write_bytes(b"damaged")
    done = run("export", "latents", "out", cwd=own)
    assert done.code == 3
    assert done.err.startswith("dinac: latents/b.png.dinac: ")
    assert len(list_files(own / "out")) == 3


def test_unknown_format_and_standard_output_are_refused(own: Path) -> None:
    done = run("export", "latents", "out", "--to", "pickle", cwd=own)
    line = f"dinac: --to pickle: choose one of {', '.join(EXPORT_FORMATS)}\n"
    assert (done.code, done.err) == (2, line)
    assert run("export", "latents", "-", cwd=own).code == 2
