"""`dinac report`: the page of real folders, and its behaviour in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinac_cli.container.record import pack_encoded, read_header
from dinac_cli.container.tensors import Encoded

from .conftest import SIZES, list_files, read_files
from .processes import DEADLINE_SECONDS, run, run_noting_imports

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# Runs in the page: uses it as a person would, and puts its observations into the title.
VISIT = """
<script>
(() => {
const seen = {}, wait = (ms) => new Promise((done) => setTimeout(done, ms));
const key = (name) =>
  viewer.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
const order = () => [...document.querySelectorAll(".card .name")].map((node) => node.textContent);
const use = (id, value) => { const node = document.getElementById(id); node.value = value;
  node.dispatchEvent(new Event("input", { bubbles: true })); };
(async () => {
  await wait(200);
  seen.worst = order();
  const shown = (name) => [...document.querySelectorAll(".card ." + name)];
  const isThere = (image) => image.src && image.complete;
  const isFilled = (image) => isThere(image) || image.style.visibility === "hidden";
  const isReady = () => shown("original").every(isThere) && shown("difference").every(isFilled);
  for (let tries = 0; tries < 100 && !isReady(); tries += 1) await wait(50);
  const heights = () => ["original", "difference"].map((name) => shown(name)[0].offsetHeight > 0);
  seen.small = shown("difference").map((image) => [image.naturalWidth, image.alt]);
  seen.both = heights();
  use("show", "original"); seen.originals = heights();
  use("show", "difference"); seen.differences = heights(); use("show", "both");
  use("sort", "0-"); seen.best = order();
  use("sort", "name"); seen.named = order();
  use("name", "deep"); seen.filtered = order(); use("name", "");
  use("low", "1000"); seen.none = order(); use("low", "");
  document.querySelector(".card").click(); await wait(200);
  seen.open = [viewer.open, document.activeElement.id];
  const rows = [];  // rows of the last buttons, as the space before them grows
  for (let width = 0; width < innerWidth; width += 40) {
    document.getElementById("title").style.minWidth = width + "px";
    const tops = ["previous", "next", "close"].map((id) => document.getElementById(id).offsetTop);
    rows.push(new Set(tops).size);
  }
  document.getElementById("title").style.minWidth = "";
  seen.rows = Math.max(...rows);
  const box = document.getElementById("frame").getBoundingClientRect();
  const divider = document.getElementById("divider");
  divider.setPointerCapture = () => {};
  divider.dispatchEvent(new PointerEvent("pointerdown", { pointerId: 1, bubbles: true }));
  divider.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width / 4 }));
  divider.dispatchEvent(new PointerEvent("pointerup", { pointerId: 1 }));
  seen.divider = divider.getAttribute("aria-valuenow");
  seen.clip = document.getElementById("above").style.clipPath;
  seen.alts = [above.alt, below.alt];
  seen.halves = ["left", "right"].map((id) => document.getElementById(id).textContent);
  const halves = () => ["left", "right"].map((id) => document.getElementById(id).textContent);
  const pictures = () => [above.alt, below.alt].map((alt) => alt.split(", ")[1]);
  seen.sides = [[...halves(), document.getElementById("sides").hidden]];
  key("r"); seen.sides.push([...halves(), ...pictures()]);
  key("l"); seen.sides.push([...halves(), ...pictures()]);
  use("left-side", "-1"); seen.sides.push([...halves(), divider.getAttribute("aria-label")]);
  use("right-side", "0"); use("left-side", "-1"); seen.sides.push([...halves()]);
  key("d"); use("gain", "20"); seen.filter = document.getElementById("frame").style.filter;
  const before = document.getElementById("frame").offsetWidth;
  key("+"); seen.grows = document.getElementById("frame").offsetWidth > before;
  key("p"); await wait(100); seen.latents = [below.naturalWidth, below.naturalHeight];
  const view = document.querySelector("#views button:last-of-type");
  view.focus(); view.click(); seen.focus = document.activeElement.textContent;
  key("1"); viewer.close(); use("sort", "0-"); use("sort", "0+");
  document.querySelector(".card").click();
  const pressed = () => document.querySelector("#views [aria-pressed=true]").textContent;
  seen.pressed = pressed();
  use("sort", "name"); viewer.close(); document.querySelector(".card").click();
  key("ArrowRight"); seen.title = document.getElementById("title").textContent;
  const broken = (image) => image.src && image.complete && !image.naturalWidth;
  seen.broken = [...document.images].filter(broken).length;
  document.title = JSON.stringify(seen);
})().catch((error) => { document.title = "failed: " + error; });
})();
</script>
"""


def browse(page: Path, width: int = 1200) -> tuple[dict[str, Any], str]:
    """Returns the observations of VISIT in a page, and the browser's console."""
    assert CHROMIUM is not None
    visited = page.with_name("visited.html")
    visited.write_text(page.read_text(encoding="utf-8").replace("</body>", VISIT + "</body>"))
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--run-all-compositor-stages-before-draw", "--enable-logging=stderr",
         f"--user-data-dir={page.parent / 'profile'}",
         f"--window-size={width},900", "--virtual-time-budget=8000", "--dump-dom",
         visited.as_uri()],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS,
    )  # fmt: skip
    title = re.findall(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[0]
    console = "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE" in line)
    assert title.startswith("{"), (title, console)
    import html

    return json.loads(html.unescape(title)), console


def test_page_with_a_missing_reconstruction(own: Path) -> None:
    (own / "decoded/sub/deep/c.webp.png").unlink()
    before = read_files(own)
    arguments = ("photos", "decoded", "out/page.html", "--latents", "latents")
    done = run("report", *arguments, cwd=own)
    assert done.code == 3
    assert done.err == "dinac: photos/sub/deep/c.webp: has no counterpart in decoded\n"
    assert re.fullmatch(r"4 images in out/page\.html \([\d.]+ kB\)\n", done.out)
    after = read_files(own)
    assert {name for name in after if name not in before} == {"out/page.html"}
    assert before.items() <= after.items()
    again = run("report", *arguments, cwd=own)
    assert (again.code, read_files(own)) == (3, after)  # its own page is replaced


def test_damaged_and_missing_latents_are_not_shown(own: Path) -> None:
    record = own / "latents/b.png.dinac"
    record.write_bytes(record.read_bytes()[:-9])
    (own / "latents/sub/b.png.dinac").unlink()
    arguments = ("photos", "decoded", "page.html", "--latents")
    done = run("report", *arguments, "latents", cwd=own)
    assert done.code == 0
    said, *others = done.err.splitlines()
    assert said.startswith("dinac: warning: photos/b.png: its latents are not shown: latents/b.png")
    assert said.endswith("is cut short; copy it again or re-encode")
    assert others == []
    # A damaged record counts neither with its content nor with its size, in any folder.
    again = run("report", *arguments, "latents", "--latents", "latents", cwd=own)
    assert again.code == 2
    for path in (own / "latents").rglob("*.dinac"):
        path.write_bytes(path.read_bytes()[:500])
    spoilt = run("report", *arguments, "latents", cwd=own)
    assert (spoilt.code, len(spoilt.err.splitlines())) == (0, 3)
    assert "PSNR against bits per pixel" not in (own / "page.html").read_text()
    (own / "other").mkdir()
    none = run("report", *arguments, "other", "--overwrite", cwd=own)
    assert (none.code, none.out) == (2, "")
    assert none.err == (
        "dinac: --latents other: holds no record of an image in photos; "
        "name the folder that encode wrote\n"
    )


def test_latents_with_other_channels_are_not_shown(own: Path) -> None:
    path = own / "latents/b.png.dinac"
    header = replace(read_header(path.read_bytes()), shape=(16, 3, 4))
    path.write_bytes(pack_encoded(header, Encoded(np.zeros((16, 3, 4), np.float32))))
    done = run("report", "photos", "decoded", "page.html", "--latents", "latents", cwd=own)
    assert (done.code, done.err) == (
        0,
        "dinac: warning: photos/b.png: its latents are not shown: latents/b.png.dinac: "
        "the number of channels differs from the first record\n"
        "dinac: warning: decoded: 1 image was not decoded from the records in latents; "
        "decode again, or name their folder with --latents\n",
    )
    assert (own / "page.html").read_text().count('"latents": "data:') == 3


def test_unreadable_original_is_named_once(own: Path) -> None:
    (own / "photos/a.jpg").write_bytes(b"")
    done = run("report", "photos", "decoded", "page.html", cwd=own)
    assert (done.code, done.err) == (
        3,
        "dinac: photos/a.jpg: empty file (0 bytes); copy or download it again\n",
    )
    assert re.fullmatch(r"3 images in page\.html \([\d.]+ kB\), 1 failed\n", done.out)
    assert " each. 1 more could not be shown. " in (own / "page.html").read_text()


def read_table(page: Path) -> list[list[str]]:
    """Returns the cells of each row of the table of a page, without the headings."""
    body = re.findall("<tbody>(.*?)</tbody>", page.read_text(), re.DOTALL)[0]
    rows = re.findall("<tr>(.*?)</tr>", body, re.DOTALL)
    return [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in rows]


def test_table_names_the_settings_of_each_folder(own: Path) -> None:
    settings = ("--steps", "4", "--sampler", "dpmpp_2m", "--guidance", "1.5")
    assert run("decode", "latents", "four", *settings, cwd=own).code == 0
    (own / "four/b.png").unlink()
    arguments = ("photos", "decoded", "four", "page.html")
    assert run("report", *arguments, "--latents", "latents", cwd=own).code == 3
    one, four = read_table(own / "page.html")
    assert one[:5] == ["decoded", "nano", "bf16", "1", "ddim"]
    assert four[:5] == ["four", "nano", "bf16", "4", "dpmpp_2m, guidance 1.5"]
    paths = [own / f"latents/{name}.dinac" for name in SIZES]
    pixels = sum(width * height for width, height in SIZES.values())
    assert one[5] == f"{8 * sum(path.stat().st_size for path in paths) / pixels:.2f}"
    assert re.fullmatch(r"[\d.]+", four[5])  # one --latents is enough for both
    assert run("report", *arguments, "--overwrite", cwd=own).code == 3
    [weights] = {row[1] for row in read_table(own / "page.html")}
    assert re.fullmatch("weights [0-9a-f]{16}", weights)
    assert [row[2] for row in read_table(own / "page.html")] == ["-", "-"]


def test_records_are_found_by_hash_in_any_order(own: Path) -> None:
    assert run("encode", "photos", "small", "--precision", "q4", cwd=own).code == 0
    assert run("decode", "small", "coarse", cwd=own).code == 0
    latents = ("--latents", "small", "--latents", "latents")
    done = run("report", "photos", "decoded", "coarse", "page.html", *latents, cwd=own)
    assert (done.code, done.err) == (0, "")
    assert [row[2] for row in read_table(own / "page.html")] == ["bf16", "q4"]


def test_images_of_other_records_are_reported_in_one_line(own: Path) -> None:
    assert run("encode", "photos", "small", "--precision", "q4", cwd=own).code == 0
    done = run("report", "photos", "decoded", "page.html", "--latents", "small", cwd=own)
    assert (done.code, done.err) == (
        0,
        "dinac: warning: decoded: 4 images were not decoded from the records in small; "
        "decode again, or name their folder with --latents\n",
    )
    assert read_table(own / "page.html")[0][5] == "-"


def test_an_image_without_a_stamp_belongs_to_the_record_at_its_place(own: Path) -> None:
    for path in (own / "decoded").rglob("*.png"):
        with Image.open(path) as image:
            Image.fromarray(np.asarray(image)).save(path)
    done = run("report", "photos", "decoded", "page.html", "--latents", "latents", cwd=own)
    assert (done.code, done.err) == (0, "")
    [row] = read_table(own / "page.html")
    assert row[1:5] == ["nano", "bf16", "-", "-"]
    assert row[5] != "-"


def test_a_page_of_other_folders_or_options_is_not_replaced(own: Path) -> None:
    assert run("decode", "latents", "four", "-n", "4", cwd=own).code == 0
    assert run("report", "photos", "decoded", "four", "page.html", cwd=own).code == 0
    before = (own / "page.html").read_bytes()
    refused = run("report", "photos", "decoded", "page.html", cwd=own)
    assert (refused.code, refused.out, refused.err) == (
        2,
        "",
        "dinac: page.html compares photos with decoded and four; choose another name, or add "
        "--overwrite to replace it\n",
    )
    for options in (("--latents", "latents"), ("--background", "black"), ("--crop", "8")):
        other = run("report", "photos", "decoded", "four", "page.html", *options, cwd=own)
        assert (other.code, other.err) == (
            2,
            "dinac: page.html is a page of other folders or options; choose another name, or add "
            "--overwrite to replace it\n",
        )
    assert (own / "page.html").read_bytes() == before
    titled = run("report", "photos", "decoded", "four", "page.html", "--title", "T", cwd=own)
    assert (titled.code, titled.err) == (0, "")
    assert run("report", "photos", "decoded", "page.html", "--overwrite", cwd=own).code == 0
    assert len(read_table(own / "page.html")) == 1


def test_a_page_does_not_name_the_place_of_its_folders(own: Path) -> None:
    assert run("report", str(own / "photos"), "decoded", "page.html", cwd=own).code == 0
    assert str(own) not in (own / "page.html").read_text()
    assert run("report", "photos", "decoded/", "page.html", cwd=own).code == 0


def test_full_images_of_another_page_are_not_replaced(own: Path) -> None:
    assert run("decode", "latents", "four", "-n", "4", cwd=own).code == 0
    assert run("report", "photos", "decoded", "one.html", "--assets", "full", cwd=own).code == 0
    before = read_files(own)
    refused = run("report", "photos", "four", "two.html", "--assets", "full", cwd=own)
    assert (refused.code, refused.err) == (
        2,
        "dinac: full holds the images of another page; choose another folder, or add --overwrite "
        "to replace them\n",
    )
    assert read_files(own) == before
    (own / "full/000000-0.png").unlink()
    assert run("report", "photos", "decoded", "two.html", "--assets", "full", cwd=own).code == 0


def test_a_second_reconstruction_is_reported_once_for_its_folder(own: Path) -> None:
    assert run("decode", "latents", "decoded", "-f", "jpg", cwd=own).code == 0
    done = run("report", "photos", "decoded", "page.html", cwd=own)
    assert (done.code, done.err) == (
        3,
        "dinac: decoded: holds 4 reconstructions too many, such as a.jpg.png beside a.jpg; "
        "keep only one of each image\n",
    )
    assert re.fullmatch(r"4 images in page\.html \([\d.]+ kB\)\n", done.out)
    quiet = run("report", "photos", "decoded", "page.html", "-q", cwd=own)
    assert (quiet.code, quiet.err) == (3, done.err)
    measured = run("psnr", "photos", "decoded", cwd=own)
    assert (measured.code, measured.err) == (3, done.err)
    for name in ("b.png.jpg", "sub/b.png.jpg", "sub/deep/c.webp.jpg"):
        (own / "decoded" / name).unlink()
    one = run("psnr", "photos", "decoded", cwd=own)
    assert (one.code, one.err) == (
        3,
        "dinac: decoded: holds a second reconstruction: a.jpg.png beside a.jpg; "
        "keep only one of each image\n",
    )


def test_report_does_not_import_torch(work: Path, tmp_path: Path) -> None:
    arguments = (str(work / "photos"), str(work / "decoded"), str(tmp_path / "page.html"))
    done, imported = run_noting_imports(tmp_path / "imports", ("torch",), "report", *arguments)
    assert (done.code, done.err, imported) == (0, "", "")


def test_full_images_beside_the_page(own: Path) -> None:
    done = run("report", "photos", "decoded", "page.html", "--assets", "out/full", cwd=own)
    assert (done.code, done.err) == (0, "")
    text = (own / "page.html").read_text()
    assert "<p>4 images, 1 reconstruction each. Below" in text
    assert list_files(own / "out/full") == [f"{i:06}-{k}.png" for i in range(4) for k in (0, 1)]
    assert '"original": "out/full/000000-0.png"' in text
    assert "data:image/png" not in text
    assert (
        run("report", "photos", "decoded", "page.html", "--assets", "out/full", cwd=own).code == 0
    )
    (own / "out/full/000000-0.png").write_bytes(b"somebody's")
    refused = run("report", "photos", "decoded", "page.html", "--assets", "out/full", cwd=own)
    assert refused.code == 3
    assert "exists and was not written by dinac" in refused.err
    assert (own / "out/full/000000-0.png").read_bytes() == b"somebody's"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("photos", "page.html"),
            2,
            "missing B...; usage: dinac report A B... OUT.html, e.g. dinac report ",
        ),
        (("photos", "decoded", "page"), 2, "page: OUT, the last argument, is the page to write"),
        (("photos", "nowhere", "page.html"), 2, "nowhere: no such folder; check the path"),
        (("empty", "decoded", "page.html"), 2, "no images found in empty"),
        (("photos", "decoded", "empty", "page.html"), 2, "no image in photos has a counterpart "),
        (
            ("photos", "latents", "page.html"),
            2,
            "latents holds latent files; name the folder that ",
        ),
        (("photos", "decoded", "mine.html"), 1, "mine.html: exists and is not a dinac report"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    own: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (own / "mine.html").write_text("<html>")
    done = run("report", *arguments, cwd=own)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("dinac: ")
    assert message in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_page_in_a_browser(own: Path) -> None:
    arguments = ("photos", "decoded", "page.html", "--latents", "latents")
    assert run("report", *arguments, cwd=own).code == 0
    measured = json.loads(run("psnr", "photos", "decoded", "--json", cwd=own).out)
    value = {Path(f["file"]).relative_to("photos").as_posix(): f["psnr"] for f in measured["files"]}
    worst = sorted(value, key=lambda name: value[name])
    seen, console = browse(own / "page.html")
    assert console == ""
    assert seen["worst"] == worst
    assert seen["best"] == worst[::-1]
    assert [alt for _, alt in seen["small"]] == [f"{name}, difference of decoded" for name in worst]
    assert min(width for width, _ in seen["small"]) > 0
    assert (seen["both"], seen["originals"], seen["differences"]) == (
        [True, True],
        [True, False],
        [False, True],
    )
    assert seen["named"] == list(SIZES)
    assert seen["filtered"] == ["sub/deep/c.webp"]
    assert seen["none"] == []
    assert seen["open"] == [True, "stage"]  # the focus is where the arrow keys change the image
    assert seen["rows"] == 1
    assert seen["divider"] == "25"
    assert seen["clip"] == "inset(0px 75% 0px 0px)"
    assert seen["alts"] == [
        "a.jpg, original",
        f"a.jpg, reconstruction decoded, {value['a.jpg']:.2f} dB",
    ]
    assert seen["focus"] == "latents"
    assert seen["pressed"] == "decoded"
    assert seen["halves"] == ["original", "decoded"]
    assert seen["sides"][0] == ["original", "decoded", True]  # one pair needs no choice
    assert seen["filter"] == "brightness(20)"
    assert seen["grows"] is True
    assert seen["latents"] == [4, 3]
    assert str(seen["title"]).startswith("b.png: decoded ")
    assert seen["broken"] == 0


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_missing_reconstructions_come_last_in_a_browser(own: Path) -> None:
    assert run("decode", "latents", "four", "-n", "4", cwd=own).code == 0
    (own / "decoded/b.png").unlink()
    assert run("report", "photos", "decoded", "four", "page.html", cwd=own).code == 3
    seen, console = browse(own / "page.html")
    assert console == ""
    assert seen["worst"][-1] == seen["best"][-1] == "b.png"
    assert sorted(seen["worst"]) == sorted(SIZES)
    assert [width > 0 for width, _ in seen["small"]] == [True, True, True, False]
    assert seen["sides"] == [
        ["original", "decoded", False],
        ["original", "four", "original", "reconstruction four"],
        ["decoded", "four", "reconstruction decoded", "reconstruction four"],
        ["original", "four", "Divider between original and four"],
        ["original", "decoded"],
    ]


def test_mirrored_reconstruction_is_shown_unmirrored(own: Path) -> None:
    assert run("encode", "photos/b.png", "twins", "--flip", cwd=own).code == 0
    assert run("decode", "twins", "mirrored", "--flipped", cwd=own).code == 0
    (own / "one").mkdir()
    shutil.copy(own / "photos/b.png", own / "one")
    done = run("report", "one", "mirrored", "page.html", "--assets", "full", cwd=own)
    assert (done.code, done.err) == (0, "")
    original, shown = (read_pixels(own / f"full/000000-{k}.png") for k in range(2))
    assert np.abs(original - shown).mean() < np.abs(original - shown[:, ::-1]).mean() / 2


def test_empty_page_does_not_replace_an_old_one(own: Path) -> None:
    assert run("report", "photos", "decoded", "page.html", cwd=own).code == 0
    before = (own / "page.html").read_bytes()
    done = run("report", "photos", "decoded", "page.html", "--max-pixels", "1", cwd=own)
    assert (done.code, done.out) == (3, "")
    assert done.err.endswith("\ndinac: no image could be shown; page.html was not written\n")
    assert (own / "page.html").read_bytes() == before


def test_large_page_suggests_or_requires_assets(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("report", "photos", "decoded", "page.html")
    monkeypatch.setattr("dinac_cli.commands.report._LARGE_PAGE_BYTES", 1000)
    large = run(*arguments, cwd=own)
    assert large.code == 0
    assert re.fullmatch(
        r"dinac: page\.html is [\d.]+ kB; --assets DIR keeps the full images beside the page\n",
        large.err,
    )
    (own / "page.html").unlink()
    monkeypatch.setattr("dinac_cli.report.report.MAX_PAGE_BYTES", 1000)
    refused = run(*arguments, cwd=own)
    assert refused.code == 2
    assert refused.err.endswith("; keep its images in a folder: --assets DIR\n")
    assert not (own / "page.html").exists()
    done = run(*arguments, "--assets", "full", cwd=own)
    assert (done.code, done.err) == (0, "")


def test_too_many_images_require_assets(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("report", "photos", "decoded", "page.html")
    monkeypatch.setattr("dinac_cli.report.report.IMAGES_IN_A_PAGE", 3)
    refused = run(*arguments, cwd=own)
    line = "4 images are too many for one page; keep them in a folder: --assets DIR"
    assert (refused.code, refused.err) == (2, f"dinac: {line}\n")
    assert run(*arguments, "--assets", "full", cwd=own).code == 0


def read_pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(float)
