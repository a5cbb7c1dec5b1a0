"""`dinac preview`: sheets of latents, in files and in the terminal, and the fit of a map."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinac_cli.jobs.color_map import read_map
from dinac_cli.jobs.contact_sheet import LARGE_SIDE, SMALL_SIDE, Thumbnail, arrange_sheet, is_sheet

from .conftest import draw, save
from .processes import run, run_noting_imports, run_on_terminal, strip_escapes
from .test_info import make_record

GAP = 4
WIDTH, HEIGHT = LARGE_SIDE + GAP, LARGE_SIDE + GAP + 14


def read_cell(sheet: Image.Image, column: int, row: int) -> Image.Image:
    """Cuts out one thumbnail without its name."""
    left, top = GAP + column * WIDTH, GAP + row * HEIGHT
    return sheet.crop((left, top, left + LARGE_SIDE, top + LARGE_SIDE))


def write_map(path: Path, channels: int = 4, latent_space: str = "0123456789abcdef") -> Path:
    factors = np.zeros((channels, 3))
    factors[:3] = np.eye(3) / 3
    document = {
        "latent_rgb_factors": factors.tolist(),
        "latent_rgb_factors_bias": [0.0, 0.5, -0.5],
        "latent_space": latent_space,
    }
    path.write_text(json.dumps(document))
    return path


def test_sheet_shows_the_images_without_torch(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    done, imported = run_noting_imports(
        tmp_path / "imports", ("torch",), "preview", str(work / "latents"), str(out)
    )
    assert (done.code, done.err, imported) == (0, "", "")
    assert done.out.startswith(f"4 records in {out} (")
    assert is_sheet(str(out))
    with Image.open(out) as sheet:
        sheet.load()
    assert sheet.size == (2 * WIDTH + GAP, 2 * HEIGHT + GAP)
    # The second image, b.png, is 64x48: as wide as the cell, with bars above and below it.
    cell = read_cell(sheet, 1, 0)
    assert cell.getpixel((48, 2)) == (24, 24, 24)
    original = draw(64, 48, 1).resize((4, 3), Image.Resampling.BOX)
    shown = cell.crop((0, 12, 96, 84)).resize((4, 3), Image.Resampling.BOX)
    assert np.abs(np.asarray(shown, int) - np.asarray(original, int)).mean() < 16


def test_names_stand_below_the_pictures() -> None:
    black = np.zeros((2, 2, 3), np.uint8)
    names = ["a", "", "folder/" * 20 + "a.jpg", "名前"]
    sheet = arrange_sheet([Thumbnail(name, black) for name in names])
    texts = [
        sheet[top + LARGE_SIDE : top + HEIGHT - 1, left : left + WIDTH].max() > 150
        for top in (GAP, GAP + HEIGHT)
        for left in (GAP, GAP + WIDTH)
    ]
    assert texts == [True, False, True, True]
    assert (sheet[:, -GAP:] == 24).all()  # a long name ends before the margin


def test_many_pictures_are_smaller() -> None:
    sheet = arrange_sheet([Thumbnail("a", np.zeros((1, 1, 3), np.uint8))] * 257)
    assert sheet.shape[1] == 17 * (SMALL_SIDE + GAP) + GAP


def test_bad_records_and_other_latent_spaces_fail_alone(tmp_path: Path) -> None:
    folder = tmp_path / "latents"
    folder.mkdir()
    (folder / "a.dinac").write_bytes(make_record(0))
    (folder / "b.dinac").write_bytes(make_record(1)[:-1])
    (folder / "c.dinac").write_bytes(make_record(2, latent_space="fedcba9876543210"))
    map_file = write_map(tmp_path / "map.json")
    out = tmp_path / "sheet.png"
    done = run("preview", folder, out, "--map", map_file)
    assert done.code == 3
    assert done.out.startswith(f"1 record in {out} (")
    assert done.out.endswith("), 2 failed\n")
    first, second = done.err.splitlines()
    assert first.startswith(f"dinac: {folder}/b.dinac: ")
    assert second == (
        f"dinac: {folder}/c.dinac: no colour map for latent space fedcba9876543210 of model some "
        f"({map_file} is of another); make one: dinac preview --fit IMAGES --model some"
    )
    with Image.open(out) as sheet:
        assert sheet.size == (WIDTH + GAP, HEIGHT + GAP)


def test_sheet_is_limited_and_counts_are_json(tmp_path: Path) -> None:
    (tmp_path / "all.dinac").write_bytes(b"".join(make_record(n, name=str(n)) for n in range(5)))
    map_file, out = write_map(tmp_path / "map.json"), tmp_path / "sheet.png"
    arguments = ("preview", tmp_path / "all.dinac", out, "--map", map_file, "--limit", "3")
    assert run(*arguments).out.endswith("(the limit; --limit N changes it)\n")
    done = run(*arguments, "--json")
    *files, summary = done.objects
    assert [(one["name"], one["status"]) for one in files] == [
        (name, "read") for name in ("0", "1", "2")
    ]
    assert (summary["records"], summary["output"]) == (3, str(out))
    stream = (tmp_path / "all.dinac").read_bytes()
    piped = run("preview", "-", out, "--map", map_file, stdin=stream)
    assert (piped.code, piped.out[:9]) == (0, "5 records")


def test_many_records_keep_their_order(tmp_path: Path) -> None:
    names = [f"{number:02}.dinac" for number in range(40)]
    for name in names:
        content = b"x" if name in ("00.dinac", "20.dinac") else make_record(1, name=name)
        save_bytes(tmp_path / "latents" / name, content)
    map_file = write_map(tmp_path / "map.json")
    done = run("preview", tmp_path / "latents", tmp_path / "a.png", "--map", map_file, "--json")
    *files, summary = done.objects
    assert [one["name"] for one in files] == names
    assert [one["name"] for one in files if one["status"] == "failed"] == ["00.dinac", "20.dinac"]
    assert (done.code, summary["records"], summary["failed"]) == (3, 38, 2)


def save_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def test_nothing_readable_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.dinac").write_bytes(b"x")
    done = run("preview", tmp_path / "a.dinac", tmp_path / "sheet.png")
    assert (done.code, done.out) == (3, "0 records, 1 failed\n")
    assert not (tmp_path / "sheet.png").exists()


def test_wrong_usage_is_refused(work: Path, tmp_path: Path) -> None:
    latents, png = work / "latents", save(tmp_path / "photo.png")
    for arguments, code, message in (
        ((latents,), 2, "standard output is not a terminal; name a file to write, OUT.png"),
        ((latents, "--json"), 2, "--json leaves no room for pictures; name a file to write"),
        ((latents, png), 1, f"{png}: exists and dinac preview did not write it; add --overwrite"),
        ((latents, "a.jpg"), 2, "a.jpg: no such file; OUT, the last argument, must end in .png"),
        ((latents, "-o", "a.webp"), 2, "a.webp: OUT must end in .png"),
        ((latents, "a.png", "--limit", "10001"), 2, "--limit 10001: a sheet holds at most 10000"),
        ((latents, "a.png", "--model", "d2"), 2, "--model needs --fit; add it, or leave out"),
        ((latents, "a.png", "--map", png), 2, f"{png}: is no colour map; make one"),
        ((latents, "a.png", "--map", "b.json"), 2, "b.json: cannot read: "),
        ((latents, "--fit", "--map", "b.json"), 2, "--map and --fit exclude each other"),
        (("-", "--fit"), 2, "--fit reads no standard input; name a folder of images"),
    ):
        done = run("preview", *arguments, cwd=tmp_path)
        assert (done.code, done.out) == (code, ""), arguments
        assert done.err.startswith(f"dinac: {message}"), done.err
        assert done.err.count("\n") == 1
    assert run("preview", latents, png, "--overwrite").code == 0
    assert run("preview", latents, png).code == 0  # now it is a sheet


def test_fit_gives_a_map_that_preview_uses(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.json"
    fit = ("preview", "--fit", work / "photos")
    done = run(*fit, out)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("map of nano over 4 images: error ")
    found = read_map(out)
    assert (found.model, found.images, found.positions) == ("nano", 4, 12 + 12 + 1 + 18)
    assert found.r2 > 0.99
    first = out.read_bytes()
    assert run(*fit, "-o", out, "-j", "3").code == 0
    assert out.read_bytes() == first
    done = run("preview", work / "latents", tmp_path / "sheet.png", "--map", out)
    assert (done.code, done.err) == (0, "")


def test_fit_is_kept_in_the_cache_and_names_bad_images(tmp_path: Path) -> None:
    save(tmp_path / "photos/a.png", 64, 64)
    (tmp_path / "photos/b.png").write_bytes(b"x")
    own = {"DINAC_CACHE": str(tmp_path / "cache")}
    done = run("preview", "--fit", tmp_path / "photos", "--json", environment=own)
    assert done.code == 3
    summary = done.objects[-1]
    assert (summary["images"], summary["failed"]) == (1, 1)
    assert Path(summary["output"]).is_relative_to(tmp_path / "cache")
    assert summary["latent_space"] in Path(summary["output"]).name
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "photos/a.png").unlink()
    done = run("preview", "--fit", tmp_path / "photos", environment=own)
    assert (done.code, done.out) == (3, "no map, 1 failed\n")
    assert not (tmp_path / "cache/latent_rgb").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")
def test_terminal_shows_half_blocks_if_it_has_colours(work: Path) -> None:
    plain = {"TMUX": None, "STY": None, "TERM_PROGRAM": None}
    code, shown = run_on_terminal("preview", str(work / "latents"), environment=plain)
    assert code == 0
    lines = strip_escapes(shown).splitlines()
    assert lines[-10] == "4 records"
    assert lines[-9:-1] == [" ".join(["▀" * 16] * 4)] * 8
    assert lines[-1].split() == ["a.jpg", "b.png", "sub/b.png", "sub/deep/c.webp"]
    assert "\x1b[38;2;" in shown
    code, shown = run_on_terminal(
        "preview", str(work / "latents"), environment={**plain, "TERM": "dumb"}
    )
    assert (code, shown.strip()) == (
        2,
        "dinac: this terminal shows no colours; name a file to write, OUT.png",
    )


def test_shards_give_the_same_sheet(work: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    assert run("encode", work / "photos", shards, "--shard-size", "3").code == 0
    outs = tmp_path / "loose.png", tmp_path / "sharded.png"
    for latents, out in zip((work / "latents", shards), outs, strict=True):
        done = run("preview", latents, out, "--limit", "4")
        assert (done.code, done.err) == (0, "")
    with Image.open(outs[0]) as loose, Image.open(outs[1]) as sharded:
        assert loose.size == sharded.size
        for column, row in ((0, 0), (1, 0), (0, 1), (1, 1)):
            cells = (read_cell(sheet, column, row).tobytes() for sheet in (loose, sharded))
            assert len(set(cells)) == 1
