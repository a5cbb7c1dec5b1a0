"""The commands on a folder of shards, as a user sees them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dinac_cli.container.record import read_header

from .conftest import read_files
from .processes import run, run_noting_imports

TAR = "000/000000.tar"


@pytest.fixture(scope="module")
def shards(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs of `work` and a broken one, encoded into shards of 2."""
    folder = tmp_path_factory.mktemp("shards")
    photos = Path(shutil.copytree(work / "photos", folder / "photos"))
    (photos / "broken.png").write_bytes(b"no image")
    assert run("encode", "photos", "out", "--shard-size", "2", cwd=folder).code == 3
    return folder


@pytest.mark.usefixtures("forks")
def test_decode_in_processes_and_psnr(work: Path, shards: Path, tmp_path: Path) -> None:
    done = run("decode", "out", str(tmp_path / "dec"), "--processes", "2", cwd=shards)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("4 decoded; ")
    assert read_files(tmp_path / "dec") == read_files(work / "decoded")
    tar = shutil.make_archive(str(tmp_path / "photos"), "tar", work / "photos")
    packed, loose = (
        run("psnr", tar, tmp_path / "dec"),
        run("psnr", work / "photos", tmp_path / "dec"),
    )
    assert (packed.code, packed.err, packed.out) == (0, "", loose.out)


def test_info_of_shards(shards: Path) -> None:
    done = run("info", "out", cwd=shards)
    assert (done.code, done.err) == (0, "")
    shown = done.out.splitlines()
    assert shown[0] == "folder        out"
    assert shown[1].startswith("shards        3, ")
    assert shown[2] == "encoded with  --precision bf16 --shard-size 2"
    assert "not encoded   1 image that failed; encode --retry-failed tries again" in shown
    assert any(line.startswith("  photos/broken.png: not an image") for line in shown)
    assert "records    4" in shown
    assert "shards" not in run("info", f"out/{TAR}", cwd=shards).out
    facts = run("info", "out", "--json", cwd=shards).objects[-1]
    [place] = facts["shards"]
    assert (place["place"], place["shards"], facts["records"]) == ("out", 3, 4)
    assert [failure["key"] for failure in place["failures"]] == ["broken%2Epng"]


def test_verify_names_what_is_wrong(shards: Path, tmp_path: Path) -> None:
    assert run("verify", "out", cwd=shards).out.startswith("4 verified in ")
    shutil.copytree(shards / "out", tmp_path / "out")
    (tmp_path / "out/index.json").unlink()
    with (tmp_path / "out" / TAR).open("r+b") as file:
        file.truncate(3000)
    done = run("verify", "out", cwd=tmp_path)
    assert done.code == 3
    first, second = done.err.splitlines()
    assert first.startswith(f"dinac: out/{TAR}: cut off after ")
    assert second == ("dinac: out/index.json: no such index of shards; run dinac encode to its end")


def test_one_line_says_why_shards_are_refused(shards: Path, work: Path) -> None:
    for arguments, line in {
        ("decode", "out", "s3://bucket/x"): "s3://bucket/x: this command writes to local "
        "folders only; name one",
        ("decode", str(work / "latents"), "out"): "out: holds shards of latents; choose another "
        "OUT",
        ("encode", "out", "x"): "no images found in out, only latent files; name the images, or "
        "use dinac decode",
        ("psnr", "photos", "out"): "out holds latent files; name the folder that decode wrote",
        ("verify", "out/000"): "no latent files found in out/000 (3 other files); name the tars "
        f"in it, such as out/{TAR}",
    }.items():
        done = run(*arguments, cwd=shards)
        assert (done.code, done.err) == (2, f"dinac: {line}\n")


def test_a_log_holds_no_secrets(tmp_path: Path) -> None:
    url = "ftp://me:geheim@host/x.tar"
    done = run("verify", url, "--log", "run.log", cwd=tmp_path)
    assert done.code != 0
    text = (tmp_path / "run.log").read_text()
    assert "geheim" not in text + done.err
    assert "start: dinac verify ftp://host/x.tar --log run.log" in text


def test_local_records_need_no_fsspec(shards: Path, work: Path, tmp_path: Path) -> None:
    record = str(work / "latents/a.jpg.dinac")
    assert read_header(Path(record).read_bytes()).name == "a.jpg"
    for number, place in enumerate((record, str(shards / "out"))):
        done, imported = run_noting_imports(
            tmp_path / str(number), ("fsspec", "s3fs", "pyarrow", "ray", "torch"), "info", place
        )
        assert (done.code, imported) == (0, "")
    assert json.loads((shards / "out/index.json").read_bytes())["shardlist"]
