"""Formats, samplers and seeds of decoding."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from dinac_cli.images.formats import OUTPUT_FORMATS

from .conftest import SIZES, list_files, read_files
from .processes import Finished, run, run_together

FOUR_STEPS = ("--steps", "4", "--schedule", "cosine", "--guidance", "2", "--seed", "11")
FORMATS = {name: output.pillow for name, output in OUTPUT_FORMATS.items()}


def test_all_formats_are_done_the_next_time(work: Path, tmp_path: Path) -> None:
    lines = [("decode", work / "latents", tmp_path / name, "--format", name) for name in FORMATS]
    for done in run_together(*lines):
        assert (done.code, done.err) == (0, "")
    for name, kind in FORMATS.items():
        sizes = {}
        for file in list_files(tmp_path / name):
            with Image.open(tmp_path / name / file) as image:
                assert image.format == kind
                sizes[file] = image.size
        suffix = f".{name}"
        assert sizes == {n if n.endswith(suffix) else n + suffix: s for n, s in SIZES.items()}
    again = [("decode", work / "latents", tmp_path / n, "-f", n.upper()) for n in FORMATS]
    measured = [("psnr", work / "photos", tmp_path / name) for name in FORMATS]
    for done in run_together(*again):
        assert done == Finished(0, "0 decoded, 4 already done\n", "")
    for done in run_together(*measured):
        assert (done.code, done.err) == (0, "")


def test_the_same_seed_gives_the_same_bytes(work: Path, tmp_path: Path) -> None:
    latents = work / "latents"
    one, two = tmp_path / "one", tmp_path / "two"
    runs = run_together(
        ("decode", latents, one, *FOUR_STEPS, "--sampler", "dpmpp-2m"),
        ("decode", latents, two, *FOUR_STEPS, "--sampler", "dpmpp_2m"),
    )
    assert [(done.code, done.err) for done in runs] == [(0, "")] * 2
    first, second = read_files(one), read_files(two)
    assert first == second
    again = run("decode", latents, one, *FOUR_STEPS, "--sampler", "dpmpp_2m")
    assert (again.code, again.out) == (0, "0 decoded, 4 already done\n")
    for name, other in read_files(work / "decoded").items():  # decoded with seed 0 and one step
        assert first[name] != other


def test_another_quality_is_a_conflict_and_the_default_is_not(work: Path, tmp_path: Path) -> None:
    latent, out = work / "latents/a.jpg.dinac", tmp_path / "out"
    arguments = ("decode", latent, f"{out}/", "--format", "jpg")
    assert run(*arguments).code == 0
    first = (out / "a.jpg").read_bytes()
    assert run(*arguments, "--quality", "95").out == "0 decoded, 1 already done\n"
    other = run(*arguments, "--quality", "60")
    assert (other.code, other.out) == (2, "")
    assert other.err == (
        f"dinac: {out}/ holds images decoded with --quality default; you asked for --quality 60 "
        f"({out}/a.jpg); choose another OUT, or add --overwrite to decode everything again\n"
    )
    assert run(*arguments, "--quality", "60", "--overwrite").code == 0
    assert len((out / "a.jpg").read_bytes()) < len(first)
    assert run(*arguments, "--quality", "60").out == "0 decoded, 1 already done\n"
    followed = run(*arguments)
    assert (followed.code, followed.out) == (0, "0 decoded, 1 already done\n")
    assert followed.err == f"dinac: following {out}/a.jpg: --quality 60\n"
    back = run(*arguments, "--quality", "default")
    assert back.code == 2
    assert "decoded with --quality 60; you asked for --quality default (" in back.err


def test_quality_makes_webp_lossy(work: Path, tmp_path: Path) -> None:
    latent, lossless, lossy = work / "latents/b.png.dinac", tmp_path / "1.webp", tmp_path / "2.webp"
    assert run("decode", latent, lossless).code == 0
    assert run("decode", latent, lossy, "--quality", "80").code == 0
    assert b"VP8L" in lossless.read_bytes()
    assert b"VP8L" not in lossy.read_bytes()
    assert b"VP8 " in lossy.read_bytes()


def test_quality_of_a_lossless_format_is_refused(work: Path, tmp_path: Path) -> None:
    done = run("decode", work / "latents", tmp_path / "out", "--quality", "80")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "dinac: --quality 80: png is lossless; leave out --quality, or choose one of "
        "jpg, webp, avif with --format\n"
    )
    assert not (tmp_path / "out").exists()
