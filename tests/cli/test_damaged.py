"""`--damaged`: all commands that read images agree on damaged JPEGs."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinac_cli import encode_files
from dinac_cli.container.record import read_record
from dinac_cli.images import damage, fast_jpeg
from dinac_cli.jobs.results import Status

from .conftest import list_files
from .processes import run

pytest.importorskip("simplejpeg")

HELD = (
    "latents/cut.jpg.dinac holds latents of a damaged image; "
    "restore the image, or add --damaged warn"
)
LINE = (
    "damaged JPEG file (premature end of data segment); "
    "copy or download it again, or read the rest with --damaged warn"
)
WARNING = (
    "dinac: warning: photos/cut.jpg: damaged JPEG file: premature end of data segment; "
    "a part of the picture may be wrong\n"
)


def make_jpeg() -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder `photos` of two whole JPEGs, a damaged one, and one without end marker."""
    photos, whole = tmp_path / "photos", make_jpeg()
    photos.mkdir()
    (photos / "a.jpg").write_bytes(whole)
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    (photos / "endless.jpg").write_bytes(whole[:-2])
    (photos / "z.jpg").write_bytes(whole)
    return tmp_path


@pytest.fixture
def no_simplejpeg(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], AbstractContextManager[None]]:
    """A context in which simplejpeg is not installed."""

    @contextmanager
    def hide() -> Iterator[None]:
        caches = (fast_jpeg.find_decoder, damage._find_check)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "simplejpeg", None)
            for cache in caches:
                cache.cache_clear()
            yield
        for cache in caches:
            cache.cache_clear()

    return hide


def test_damaged_jpeg_fails_and_the_rest_is_encoded(work: Path) -> None:
    done = run("encode", "photos", "latents", cwd=work)
    assert done.code == 3
    assert f"photos/cut.jpg: {LINE}\n" in done.err
    assert "photos/endless.jpg: the JPEG lacks its end marker; the picture is complete" in done.err
    names = ["a.jpg.dinac", "endless.jpg.dinac", "z.jpg.dinac"]
    assert list_files(work / "latents") == names
    whole, endless = (read_record(work / "latents" / name).latents for name in names[:2])
    np.testing.assert_array_equal(whole, endless)


def test_record_says_damaged_and_later_runs_respect_it(work: Path) -> None:
    done = run("encode", "photos", "latents", "--damaged", "warn", cwd=work)
    assert (done.code, WARNING in done.err) == (0, True)
    header = read_record(work / "latents/cut.jpg.dinac").header
    assert header.image == "orientation=none;color=srgb;alpha=none;frame=1/1;damaged=corrupt"

    again = run("encode", "photos", "latents", "--damaged", "warn", cwd=work)
    assert (again.code, again.out) == (0, "0 encoded with nano, 4 already done\n")
    for options in ((), ("--damaged", "fail")):
        strict = run("encode", "photos", "latents", *options, cwd=work)
        assert (strict.code, strict.err) == (3, f"dinac: photos/cut.jpg: {HELD}\n")
        assert strict.out == "0 encoded with nano, 3 already done, 1 failed\n"
        planned = run("plan", "photos", "latents", "--json", *options, cwd=work)
        states = {entry["file"]: entry["state"] for entry in planned.objects[:-1]}
        assert states == {
            "photos/a.jpg": "done",
            "photos/cut.jpg": "failed",
            "photos/endless.jpg": "done",
            "photos/z.jpg": "done",
        }
        assert planned.code == 3


def test_restored_image_is_encoded_again(work: Path) -> None:
    run("encode", "photos", "latents", "--damaged", "warn", cwd=work)
    shutil.copy(work / "photos/a.jpg", work / "photos/cut.jpg")
    done = run("encode", "photos", "latents", cwd=work)
    assert (done.code, done.summary) == (
        0,
        "1 encoded with nano, 1 of them again, 3 already done; SIZES in TIME\n",
    )
    assert "damaged" not in read_record(work / "latents/cut.jpg.dinac").header.image


def test_run_follows_the_first_record_if_its_image_is_damaged(work: Path) -> None:
    (work / "photos/a.jpg").unlink()
    run("encode", "photos", "latents", "--damaged", "warn", cwd=work)
    followed = run("encode", "photos", "latents", cwd=work)
    assert (followed.code, followed.out) == (0, "0 encoded with nano, 3 already done\n")
    assert followed.err == "dinac: following latents/cut.jpg.dinac: --damaged warn\n"
    strict = run("encode", "photos", "latents", "--damaged", "fail", cwd=work)
    assert (strict.code, strict.err) == (3, f"dinac: photos/cut.jpg: {HELD}\n")


def test_verify_reads_the_source_as_encode_did(work: Path) -> None:
    run("encode", "photos", "latents", "--damaged", "warn", cwd=work)
    done = run("verify", "latents", "--source", "photos", "--reencode", "100", cwd=work)
    assert (done.code, done.err) == (0, "")


def test_verify_finds_latents_of_damage_that_was_not_recognised(
    work: Path, no_simplejpeg: Callable[[], AbstractContextManager[None]]
) -> None:
    (work / "photos/endless.jpg").unlink()
    with no_simplejpeg():
        assert run("encode", "photos", "latents", cwd=work).code == 0
    done = run("verify", "latents", "--source", "photos", "--reencode", "100", cwd=work)
    assert (done.code, done.err) == (
        3,
        "dinac: latents/cut.jpg.dinac: its source photos/cut.jpg: damaged JPEG file "
        "(premature end of data segment); restore the image, then encode it again\n",
    )


def test_psnr_and_report_take_the_option(work: Path) -> None:
    run("encode", "photos", "latents", "--damaged", "warn", cwd=work)
    run("decode", "latents", "decoded", cwd=work)
    strict = run("psnr", "photos", "decoded", "--json", cwd=work)
    assert strict.code == 3
    assert (json.loads(strict.out)["failed"], f"photos/cut.jpg: {LINE}" in strict.err) == (1, True)
    lenient = run("psnr", "photos", "decoded", "--damaged", "warn", "--json", cwd=work)
    assert (lenient.code, json.loads(lenient.out)["count"]) == (0, 4)
    assert WARNING in lenient.err
    report = ("report", "photos", "decoded", "page.html")
    assert f"photos/cut.jpg: {LINE}" in run(*report, cwd=work).err
    page = run(*report, "--damaged", "warn", "--overwrite", cwd=work)
    assert (page.code, WARNING in page.err) == (0, True)


def test_without_simplejpeg_a_run_says_once_that_damage_is_not_recognised(
    work: Path, no_simplejpeg: Callable[[], AbstractContextManager[None]]
) -> None:
    (work / "photos/endless.jpg").unlink()
    with no_simplejpeg():
        done = run("encode", "photos", "latents", cwd=work)
        again = run("encode", "photos", "latents", cwd=work)
    assert (done.code, done.err) == (
        0,
        "dinac: damaged JPEGs were not recognised: simplejpeg is not installed; "
        "pip install 'dinac-cli[fast]'\n",
    )
    assert (again.code, again.err) == (0, "")


def test_python_interface_has_the_option(work: Path) -> None:
    results = encode_files(work / "photos", work / "latents", damaged="warn")
    assert {result.status for result in results} == {Status.WRITTEN}


def test_unknown_mode_is_refused(work: Path) -> None:
    done = run("encode", "photos", "latents", "--damaged", "skip", cwd=work)
    assert (done.code, "--damaged skip: choose one of fail, warn" in done.err) == (2, True)
