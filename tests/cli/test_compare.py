"""`dinac compare`: its tables, its page, and what stays in OUT, also after a kill or a change."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from dinac_cli.bench.contenders import draw_network
from dinac_cli.compare.figures import Speed
from dinac_cli.compare.throughput import Task
from dinac_cli.compare.variants import ComparedModel
from dinac_cli.images.stamp import read_stamp
from dinac_cli.models.dinac.checkpoint import save_checkpoint
from dinac_cli.models.dinac.config import DinacAEConfig

from .conftest import list_files, read_files, save
from .processes import DEADLINE_SECONDS, Finished, run, start

TINY = Path(__file__).parents[1] / "golden/tiny"
NAMES = ["a.png", "b.png", "sub/c.jpg", "sub/d.png", "sub/e.png"]
SMALL = DinacAEConfig(
    patch_size=8,
    model_dim=64,
    encoder_depth=1,
    decoder_depth=3,
    decoder_start_blocks=1,
    decoder_end_blocks=1,
    bottleneck_dim=4,
    class_head_feature_dim=None,
    class_head_model_dim=None,
    class_head_head_dim=None,
    class_head_mlp_ratio=None,
    class_head_register_token_count=None,
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images of sizes that no patch divides; one has an MS-SSIM."""
    for number, name in enumerate(NAMES):
        sides = (170, 165) if number == 1 else (50 + number, 37)
        save(tmp_path / "images" / name, *sides, number)
    return tmp_path / "images"


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights, another patch and another number of channels."""
    network = draw_network(SMALL, torch.device("cpu"), torch.float32)
    folder = tmp_path_factory.mktemp("models") / "other"
    save_checkpoint(network.state_dict(), SMALL, folder)
    return folder


def compare(images: Path, *options: str | Path, out: str = "out") -> Finished:
    """Runs `dinac compare` beside the images, without speeds."""
    speed = [] if "--speed" in options else ["--no-speed"]
    arguments = ("compare", images.name, out, "--dtype", "f32", *speed, *options)
    return run(*arguments, cwd=images.parent)


def read_figures(images: Path, out: str = "out") -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((images.parent / out / "compare.json").read_bytes())
    return figures


def read_tables(markdown: str) -> list[list[list[str]]]:
    """Returns the cells of each table. Every row must have as many cells as the headings."""
    tables: list[list[list[str]]] = []
    for block in re.findall(r"(?:^\|.*\|$\n?)+", markdown, re.MULTILINE):
        rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in block.splitlines()
        ]
        assert {len(row) for row in rows} == {len(rows[0])}
        assert all(re.fullmatch(r"---:?", cell) for cell in rows[1])
        tables.append([rows[0], *rows[2:]])
    return tables


def test_tables_equal_those_of_the_commands(images: Path, other_model: Path) -> None:
    """Encode, decode, psnr, scikit-image and the sizes of files give the same figures."""
    options = ("--precision", "bf16,q6", "--steps", "1,2", "--shown", "2")
    done = compare(images, "--model", TINY, "--model", other_model, *options)
    assert (done.code, done.err) == (0, "")
    variants = read_figures(images)["variants"]
    assert [(v["model"], v["precision"], v["steps"]) for v in variants] == [
        (model, precision, steps)
        for model in ("tiny", "other")
        for precision in ("bf16", "q6")
        for steps in (1, 2)
    ]
    for variant in (variants[0], variants[3], variants[7]):
        model = TINY if variant["model"] == "tiny" else other_model
        expected = measure_by_commands(images, model, variant["precision"], variant["steps"])
        assert {key: variant["psnr_db"][key] for key in expected["psnr_db"]} == pytest.approx(
            expected["psnr_db"], rel=1e-12
        )
        assert variant["bits_per_pixel"] == pytest.approx(expected["bits_per_pixel"], rel=1e-12)
        assert variant["ssim"] == pytest.approx(expected["ssim"], abs=1e-5)
        assert variant["ms_ssim_images"] == 1
    check_card(images, variants)


def measure_by_commands(images: Path, model: Path, precision: str, steps: int) -> dict[str, Any]:
    folder = images.parent
    for name in ("latents", "decoded"):
        shutil.rmtree(folder / name, ignore_errors=True)
    device = ("--model", model, "--dtype", "f32")
    encoded = run("encode", "images", "latents", *device, "--precision", precision, cwd=folder)
    decoded = run("decode", "latents", "decoded", *device, "--steps", str(steps), cwd=folder)
    assert (encoded.code, decoded.code) == (0, 0)
    psnr = json.loads(run("psnr", "images", "decoded", "--json", cwd=folder).out)
    values = [file["psnr"] for file in psnr["files"]]
    size = sum((folder / "latents" / f"{name}.dinac").stat().st_size for name in NAMES)
    pairs = [
        (read_pixels(images / name), read_pixels(find_decoded(folder, name))) for name in NAMES
    ]
    return {
        "psnr_db": {
            "mean": np.mean(values),
            "std": np.std(values),
            "median": np.median(values),
            "p5": np.percentile(values, 5),
            "p95": np.percentile(values, 95),
        },
        "bits_per_pixel": 8 * size / sum(first.size // 3 for first, _ in pairs),
        "ssim": np.mean([measure_reference_ssim(*pair) for pair in pairs]),
    }


def find_decoded(folder: Path, name: str) -> Path:
    return folder / "decoded" / (name if name.endswith(".png") else f"{name}.png")


def read_pixels(path: Path) -> Any:
    with Image.open(path) as opened:
        return np.array(opened.convert("RGB"))


def measure_reference_ssim(first: Any, second: Any) -> float:
    """The mean of scikit-image's map, over the positions where the whole window is inside."""
    measure: Any = structural_similarity
    _, similarity = measure(
        first.astype(np.float64),
        second.astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2,
        full=True,
    )
    return float(similarity[5:-5, 5:-5].mean())


def check_card(images: Path, variants: list[dict[str, Any]]) -> None:
    """The card and the page show the figures, rounded in the same way."""
    card = (images.parent / "out/card.md").read_text("utf-8")
    [[heads, *rows]] = read_tables(card)
    assert heads[:4] == ["Model", "Precision", "Steps", "Mean PSNR (dB)"]
    names = ("mean", "std", "median", "p5", "p95")
    for row, variant in zip(rows, variants, strict=True):
        assert row == [
            variant["model"],
            variant["precision"],
            str(variant["steps"]),
            *(f"{variant['psnr_db'][name]:.2f}" for name in names),
            f"{variant['ssim']:.4f}",
            f"{variant['ms_ssim']:.4f}",
            f"{variant['bits_per_pixel']:.2f}",
        ]
    page = (images.parent / "out/index.html").read_text("utf-8")
    for row in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in row[2:])
        assert f'<td class="text">{row[0]}</td><td class="text">{row[1]}</td>{cells}' in page
    assert "MS-SSIM: 1 of 5 images; the others have a side below 161 pixels." in card
    assert "dinac compare images out --dtype f32 --no-speed" in card


def test_the_screen_shows_the_table_and_says_where_the_page_is(images: Path) -> None:
    done = compare(images, "--model", TINY, "--limit", "2", "--steps", "3")
    heads, row, last = done.out.splitlines()
    expected = read_figures(images)["variants"][0]
    assert heads.split() == [
        "model",
        "precision",
        "steps",
        "PSNR",
        "std",
        "median",
        "P5",
        "P95",
        "SSIM",
        "MS-SSIM",
        "bits/pixel",
    ]
    assert row.split()[:4] == ["tiny", "bf16", "3", f"{expected['psnr_db']['mean']:.2f}"]
    assert max(len(heads), len(row)) <= 80
    assert last == "2 images; out/index.html shows them, card.md has the tables for a model card"


def test_json_is_the_content_of_compare_json(images: Path) -> None:
    done = compare(images, "--model", TINY, "--json")
    assert json.loads(done.out) == read_figures(images) | {"failed": 0, "changed": True}


def test_a_second_run_does_nothing_and_says_so(images: Path) -> None:
    compare(images, "--model", TINY, "--shown", "3")
    before = take_snapshot(images.parent / "out")
    done = compare(images, "--model", TINY, "--shown", "3")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("5 images; nothing to do: out is up to date\n")
    assert take_snapshot(images.parent / "out") == before


def take_snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Returns inode and time of each file, which also tell of a file with the same content."""
    states = {name: (folder / name).stat() for name in list_files(folder)}
    return {name: (state.st_ino, state.st_mtime_ns) for name, state in states.items()}


def test_only_the_shown_images_leave_pictures(images: Path) -> None:
    options = ("--model", TINY, "--precision", "bf16,q6", "--steps", "1,2")
    compare(images, *options, "--shown", "2")
    kept = [name for name in list_files(images.parent / "out") if name.startswith("shown/")]
    assert len(kept) == 2 + 2 * 4 + 2 * 2  # originals, reconstructions, records
    assert read_figures(images)["shown"] == ["b.png", "sub/d.png"]
    others = sorted(set(list_files(images.parent / "out")) - set(kept))
    results = [name for name in others if name.startswith("results/")]
    assert len(results) == 4
    assert others == sorted(["card.md", "compare.json", "index.html", *results])
    for name in kept:
        path = images.parent / "out" / name
        assert path.suffix == ".dinac" or read_stamp(path) is not None
    compare(images, *options, "--shown", "1")  # the pictures of the others go
    kept = [name for name in list_files(images.parent / "out") if name.startswith("shown/")]
    assert {Path(name).name for name in kept} == {"c.jpg.png", "c.jpg.dinac"}
    assert len(kept) == 1 + 4 + 2
    compare(images, *options, "--shown", "0")
    assert not [name for name in list_files(images.parent / "out") if name.startswith("shown/")]
    assert "None are shown." in (images.parent / "out" / "index.html").read_text("utf-8")


def test_pictures_are_those_of_decode(images: Path) -> None:
    compare(images, "--model", TINY, "--precision", "q6", "--steps", "2", "--shown", "5")
    measure_by_commands(images, TINY, "q6", 2)
    [folder] = (images.parent / "out/shown").glob("tiny-q6-2-*")
    decoded = {name: find_decoded(images.parent, name).read_bytes() for name in NAMES}
    assert read_files(folder) == {f"{name}.png": data for name, data in decoded.items()}
    [folder] = (images.parent / "out/shown").glob("tiny-q6-latents-*")
    assert read_files(folder) == read_files(images.parent / "latents")


def test_a_bad_image_is_named_once_and_left_out_of_all_tables(
    images: Path, other_model: Path
) -> None:
    (images / "bad.png").write_bytes(b"text")
    done = compare(images, "--model", TINY, "--model", other_model, "--shown", "6")
    assert done.code == 3
    assert done.err.count("bad.png") == 1
    figures = read_figures(images)
    assert (figures["images"], figures["left_out"], figures["shown"]) == (5, 1, NAMES)
    assert {variant["psnr_db"]["count"] for variant in figures["variants"]} == {5}
    assert "5 images (1 failed and left out)" in done.out
    again = compare(images, "--model", TINY, "--model", other_model, "--shown", "6")
    assert again.code == 3
    assert "bad.png" in again.err
    assert "nothing to do" in again.out


def test_only_bad_images_give_no_tables(images: Path) -> None:
    shutil.rmtree(images)
    images.mkdir()
    (images / "bad.png").write_bytes(b"text")
    done = compare(images, "--model", TINY)
    assert done.code == 3
    assert "no image was measured in all variants; out has no tables" in done.err
    assert not (images.parent / "out/compare.json").exists()


def test_what_is_new_is_added_and_nothing_else_is_measured(images: Path, other_model: Path) -> None:
    compare(images, "--model", TINY)
    [first] = (images.parent / "out/results").iterdir()
    before = first.read_bytes()
    compare(images, "--model", TINY, "--model", other_model, "--steps", "1,2")
    assert first.read_bytes() == before
    assert len(list((images.parent / "out/results").iterdir())) == 4
    save(images / "new.png", 40, 40, 9)
    compare(images, "--model", TINY, "--model", other_model, "--steps", "1,2")
    lines = first.read_bytes().removeprefix(before).splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["new.png"]
    assert read_figures(images)["images"] == 6


def check_fresh(images: Path, *options: str | Path) -> None:
    """OUT has the tables and pictures of a comparison that starts from nothing."""
    folder = images.parent
    (folder / "out").rename(folder / "old")
    compare(images, *options)
    assert read_outputs(folder / "old") == read_outputs(folder / "out")


def read_outputs(folder: Path) -> dict[str, Any]:
    """Returns the content of the files, and for each file of results the last line per image."""
    found: dict[str, Any] = dict(read_files(folder))
    for name in filter(lambda name: name.startswith("results/"), found):
        lines = map(json.loads, found[name].splitlines())
        found[name] = {line.get("name"): line for line in lines}
    return found


def test_a_changed_image_is_measured_again(images: Path) -> None:
    compare(images, "--model", TINY)
    [results] = (images.parent / "out/results").iterdir()
    before = results.read_bytes()
    save(images / "a.png", 50, 37, 99)
    done = compare(images, "--model", TINY)
    lines = results.read_bytes().removeprefix(before).splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["a.png"]
    assert "index.html shows them" in done.out
    check_fresh(images, "--model", TINY)


def test_an_image_whose_times_alone_changed_is_not_measured_again(images: Path) -> None:
    compare(images, "--model", TINY)
    before = take_snapshot(images.parent / "out")
    (images / "a.png").touch()
    done = compare(images, "--model", TINY)
    assert "nothing to do" in done.out
    assert take_snapshot(images.parent / "out") == before


def test_a_picture_that_was_removed_or_edited_is_made_again(images: Path) -> None:
    compare(images, "--model", TINY, "--shown", "2")
    before = read_outputs(images.parent / "out")
    [folder] = (images.parent / "out/shown").glob("tiny-bf16-1-*")
    (folder / "b.png.png").unlink()
    with Image.open(folder / "sub/d.png.png") as opened:
        opened.copy().save(folder / "sub/d.png.png")  # without the stamp, as an editor does
    done = compare(images, "--model", TINY, "--shown", "2")
    assert done.code == 3
    assert "sub/d.png.png: exists and was not written by dinac" in done.err
    (folder / "sub/d.png.png").unlink()
    assert compare(images, "--model", TINY, "--shown", "2").code == 0
    assert read_outputs(images.parent / "out") == before


def test_a_killed_run_is_resumed(images: Path) -> None:
    """Killed when some results are there, the run ends like one that was not killed."""
    for number in range(12):
        save(images / f"more/{number:02}.png", 48, 40, number)
    folder = images.parent
    options = ("--model", str(TINY), "--steps", "9", "--shown", "4", "--dtype", "f32")
    arguments = ("compare", "images", "out", *options, "--no-speed", "--workers", "1")
    process = start(*arguments, cwd=folder)
    try:
        wait_for_results(folder / "out/results", 6)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (folder / "out/compare.json").exists()
    for name in ("resumed", "whole"):
        process = start(*arguments, cwd=folder)
        assert (process.communicate()[1], process.returncode) == (b"", 0)
        (folder / "out").rename(folder / name)
    assert read_outputs(folder / "resumed") == read_outputs(folder / "whole")


def wait_for_results(folder: Path, count: int) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end:
        lines = sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))
        if lines >= count:
            return
        time.sleep(0.01)
    raise AssertionError("no results appeared")


def test_geometry_is_that_of_encode(images: Path) -> None:
    compare(images, "--model", TINY, "--resize", "40", "--crop", "32", "--shown", "1")
    [results] = (images.parent / "out/results").iterdir()
    lines = [json.loads(line) for line in results.read_text("ascii").splitlines()[1:]]
    assert {(line["width"], line["height"]) for line in lines} == {(32, 32)}
    assert read_figures(images)["settings"]["geometry"] == "resize=40;crop=32x32"
    [original] = (images.parent / "out/shown/originals").rglob("*.png")
    assert read_pixels(original).shape == (32, 32, 3)


def test_images_smaller_than_the_crop_are_skipped_on_request(images: Path) -> None:
    done = compare(images, "--model", TINY, "--crop", "100", "--skip-small")
    assert (done.code, done.err) == (0, "")
    figures = read_figures(images)
    assert (figures["images"], figures["left_out"]) == (1, 0)
    assert compare(images, "--model", TINY, "--crop", "100", out="strict").code == 3


def test_speeds_are_measured_once_and_compared_with_the_baseline(
    images: Path, other_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinac_cli.compare.throughput._SECONDS", 0.0)
    monkeypatch.setattr("dinac_cli.compare.throughput.SIDES", (32,))
    asked: list[tuple[str, tuple[str, ...]]] = []

    def measure_peak(command: str, source: Path, out: Path, options: list[str]) -> float:
        asked.append((command, tuple(options)))
        if command == "encode":
            out.mkdir()
        return 200.0 if str(TINY) in options else 400.0

    monkeypatch.setattr("dinac_cli.bench.processes.measure_peak", measure_peak)
    options = ("--model", TINY, "--model", other_model, "--steps", "2")
    done = run("compare", "images", "out", "--dtype", "f32", *options, cwd=images.parent)
    assert done.code == 0
    speeds = read_figures(images)["speeds"]
    assert [(s["model"], s["task"], s["steps"]) for s in speeds] == [
        (model, task, steps)
        for model in ("tiny", "other")
        for task, steps in (("encode", 0), ("decode", 2))
    ]
    for speed in speeds:
        [rival] = [
            s
            for s in speeds
            if s["model"] == "other"
            and all(s[key] == speed[key] for key in ("task", "steps", "side"))
        ]
        assert speed["speedup"] == pytest.approx(rival["ms_per_batch"] / speed["ms_per_batch"])
        assert speed["memory_reduction"] == (0.5 if speed["model"] == "tiny" else 0.0)
        assert speed["images_per_second"] == pytest.approx(1000 / speed["ms_per_batch"])
    check_speed_tables(images, speeds)
    check_second_run_and_third(images, options, monkeypatch)


def check_second_run_and_third(
    images: Path, options: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run times nothing, and `--speed` times everything again."""
    found = read_figures(images)["speeds"]
    timed: list[str] = []

    def measure_speed(model: ComparedModel, task: Task) -> Speed:
        timed.append(task.name)
        return Speed(
            model=model.label,
            task=task.name,
            steps=task.steps,
            side=task.side,
            batch=1,
            ms_per_batch=5.0,
            peak_mib=None,
        )

    monkeypatch.setattr("dinac_cli.compare.comparison.measure_speed", measure_speed)
    again = run("compare", "images", "out", "--dtype", "f32", *options, cwd=images.parent)
    assert "nothing to do" in again.out
    assert timed == []
    run("compare", "images", "out", "--dtype", "f32", *options, "--speed", cwd=images.parent)
    assert timed == ["encode", "decode"] * 2
    speeds = read_figures(images)["speeds"]
    assert (
        {speed["ms_per_batch"] for speed in speeds} == {5.0} != {s["ms_per_batch"] for s in found}
    )


def check_speed_tables(images: Path, speeds: list[dict[str, Any]]) -> None:
    card = (images.parent / "out/card.md").read_text("utf-8")
    _, encode, decode = read_tables(card)
    assert encode[0] == [
        "Resolution",
        "Batch",
        "Model",
        "ms/batch",
        "ms/image",
        "Images/s",
        "Peak memory (MiB)",
        "Speedup vs other",
        "Memory reduction vs other",
    ]
    assert (len(encode), len(decode)) == (1 + 2, 1 + 2)
    first = speeds[0]
    assert encode[1] == [
        "32x32",
        "1",
        "tiny",
        f"{first['ms_per_batch']:.2f}",
        f"{first['ms_per_batch']:.3f}",
        f"{first['images_per_second']:.1f}",
        "200.0",
        f"{first['speedup']:.2f}x",
        "50.0%",
    ]


def test_the_page_needs_no_network_and_links_to_files_that_exist(images: Path) -> None:
    compare(images, "--model", TINY, "--precision", "bf16,q6", "--steps", "1,2", "--shown", "2")
    page = (images.parent / "out/index.html").read_text("utf-8")
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page
    links = re.findall(r'"(shown/[^"]+)"', page)
    assert len(links) == 2 * (1 + 4)
    assert all((images.parent / "out" / link).is_file() for link in links)
    assert page.count('role="img"') == 3  # rate, steps, histogram
    assert 'aria-label="Mean PSNR against bits per pixel"' in page
    assert "dB at 2 steps" in page
    assert "Measured on 5 images. 2 of them are shown below, spread over the set." in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--precision", "bf16,x"),
            "--precision x: choose from f32, bf16, q8, q7, q6, q5, q4, q3",
        ),
        (("--precision", "q6,q6"), "--precision: q6 is named twice; name each once"),
        (("--steps", "1,0"), "--steps 0: expected 1 or more"),
        (("--steps", "1,"), "--steps 1,: expected one or more numbers, such as 1,4"),
        (("--steps", "2,2"), "--steps 2,2: a number is named twice; name each number once"),
        (
            ("--model", "nano", "--model", "nano"),
            "--model nano: the same weights as --model nano; name each model once",
        ),
        (
            ("--model", "nano", "--baseline", "d2"),
            "--baseline d2: not among the compared models; choose one of nano",
        ),
        (("--skip-small",), "--skip-small skips images smaller than the crop; add --crop WxH"),
        (
            ("-o", "s3://bucket/out"),
            "s3://bucket/out: OUT must be a local folder; name one",
        ),
    ],
)
def test_wrong_use_is_one_line(images: Path, arguments: tuple[str, ...], message: str) -> None:
    out = () if "-o" in arguments else ("out",)
    done = run("compare", "images", *out, *arguments, cwd=images.parent)
    assert (done.code, done.out, done.err) == (2, "", f"dinac: {message}\n")
    assert not (images.parent / "out").exists()


def test_a_folder_with_other_files_is_refused(images: Path) -> None:
    (images.parent / "out").mkdir()
    (images.parent / "out/letter.txt").write_text("dear")
    done = compare(images, "--model", TINY)
    assert (done.code, done.err) == (
        2,
        "dinac: out holds other files and no comparison; name a new folder\n",
    )
    assert list_files(images.parent / "out") == ["letter.txt"]


@pytest.mark.parametrize("name", ["index.html", "card.md", "compare.json"])
def test_a_file_that_somebody_changed_is_not_replaced(images: Path, name: str) -> None:
    path = images.parent / "out" / name
    path.parent.mkdir()
    path.write_text("mine")
    done = compare(images, "--model", TINY)
    assert (done.code, done.err) == (
        2,
        "dinac: out holds other files and no comparison; name a new folder\n",
    )
    path.unlink()
    assert compare(images, "--model", TINY).code == 0
    path.write_text("mine")
    done = compare(images, "--model", TINY)
    assert done.code == 1
    assert f"out/{name}: exists and was not written by dinac" in done.err
    assert path.read_text() == "mine"
    assert compare(images, "--model", TINY, "--overwrite").code == 0
    assert path.read_text() != "mine"


def test_pictures_of_images_whose_names_are_alike_do_not_mix(images: Path) -> None:
    shutil.copy(images / "b.png", images / "a")  # an image, as its content shows
    shutil.copy(images / "sub/d.png", images / "a.png.png")
    done = compare(images, "--model", TINY, "--shown", "9")
    assert (done.code, done.err) == (0, "")
    originals = images.parent / "out/shown/originals"
    for name in ("a", "a.png", "a.png.png"):
        assert np.array_equal(read_pixels(originals / f"{name}.png"), read_pixels(images / name))
    assert "nothing to do" in compare(images, "--model", TINY, "--shown", "9").out


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that are not UTF-8")
def test_names_that_are_not_utf_8_are_shown(images: Path) -> None:
    shutil.copy(images / "b.png", images / "b\udcff <i>.png")
    done = compare(images, "--model", TINY, "--shown", "9")
    assert (done.code, done.err) == (0, "")
    assert "b\udcff <i>.png" in read_figures(images)["shown"]
    page = (images.parent / "out/index.html").read_text("utf-8")
    assert "b%FF%20%3Ci%3E.png.png" in page
    assert "<i>" not in page


def test_two_images_of_one_name_are_refused(images: Path, tmp_path: Path) -> None:
    save(tmp_path / "more/a.png")
    done = run("compare", "images", "more", "out", "--model", TINY, cwd=tmp_path)
    assert (done.code, done.err) == (
        2,
        "dinac: images/a.png and more/a.png have the same name; "
        "name one folder of both, or rename one\n",
    )
