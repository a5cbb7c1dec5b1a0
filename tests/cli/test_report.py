"""`dinac report`: the page from real folders, and what it does in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinac_cli.cli import run as run_here
from dinac_cli.commands import comparing

from .conftest import SIZES, list_files, read_files
from .processes import run, run_noting_imports

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# Runs in the page: uses it as a person would, and leaves what it saw in the title.
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
  seen.open = viewer.open;
  const rows = [];  // of the last buttons, as the space before them grows
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
  key("d"); use("gain", "20"); seen.filter = document.getElementById("frame").style.filter;
  const before = document.getElementById("frame").offsetWidth;
  key("+"); seen.grows = document.getElementById("frame").offsetWidth > before;
  key("p"); await wait(100); seen.latents = [below.naturalWidth, below.naturalHeight];
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
    """What VISIT saw in a page, and what the browser's console said."""
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
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    title = re.findall(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[0]
    console = "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE" in line)
    assert title.startswith("{"), (title, console)
    import html

    return json.loads(html.unescape(title)), console


def test_the_page_and_what_is_missing(own: Path) -> None:
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
    assert (again.code, read_files(own)) == (3, after)  # its own page it may replace


def test_latents_that_are_not_shown(own: Path) -> None:
    record = own / "latents/b.png.dinac"
    record.write_bytes(record.read_bytes()[:-9])
    (own / "latents/sub/b.png.dinac").unlink()
    arguments = ("photos", "decoded", "page.html", "--latents")
    done = run("report", *arguments, "latents", cwd=own)
    assert done.code == 0
    said, *others = done.err.splitlines()
    assert said.startswith("dinac: warning: photos/b.png: its latents are not shown: latents/b.png")
    assert said.endswith("is cut short: copy it again or re-encode")
    assert others == []
    # Neither what is left of a record nor its size counts, whichever folder it is of.
    again = run("report", *arguments, "latents", "--latents", "latents", cwd=own)
    assert again.code == 2
    for path in (own / "latents").rglob("*.dinac"):
        path.write_bytes(path.read_bytes()[:500])
    spoilt = run("report", *arguments, "latents", cwd=own)
    assert (spoilt.code, len(spoilt.err.splitlines())) == (0, 3)
    assert "PSNR against bits a pixel" not in (own / "page.html").read_text()
    (own / "other").mkdir()
    none = run("report", *arguments, "other", cwd=own)
    assert (none.code, none.out) == (2, "")
    assert none.err == "dinac: --latents other: holds no record of an image in photos\n"


def test_an_original_that_cannot_be_read_is_named_once(own: Path) -> None:
    (own / "photos/a.jpg").write_bytes(b"")
    done = run("report", "photos", "decoded", "page.html", cwd=own)
    assert (done.code, done.err) == (3, "dinac: photos/a.jpg: empty file (0 bytes)\n")
    assert re.fullmatch(r"3 images in page\.html \([\d.]+ kB\), 1 failed\n", done.out)
    assert " each. 1 more could not be shown. " in (own / "page.html").read_text()


def test_without_torch(work: Path, tmp_path: Path) -> None:
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
        (("photos", "page.html"), 2, "name a folder of originals, one or more of reconstructions"),
        (("photos", "decoded", "page"), 2, "page: OUT, the last argument, is the page to write"),
        (("photos", "nowhere", "page.html"), 2, "nowhere: no such folder"),
        (("empty", "decoded", "page.html"), 2, "no images found in empty"),
        (("photos", "decoded", "empty", "page.html"), 2, "no image in photos has a counterpart "),
        (
            ("photos", "latents", "page.html"),
            2,
            "latents holds latent files: name the folder that ",
        ),
        (("photos", "decoded", "mine.html"), 1, "mine.html: exists and is no report of dinac"),
    ],
)
def test_what_is_refused(own: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    (own / "mine.html").write_text("<html>")
    done = run("report", *arguments, cwd=own)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("dinac: ")
    assert message in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_in_a_browser(own: Path) -> None:
    arguments = ("photos", "decoded", "page.html", "--latents", "latents")
    assert run("report", *arguments, cwd=own).code == 0
    measured = json.loads(run("psnr", "photos", "decoded", "--json", cwd=own).out)
    value = {Path(f["file"]).relative_to("photos").as_posix(): f["psnr"] for f in measured["files"]}
    worst = sorted(value, key=lambda name: value[name])
    seen, console = browse(own / "page.html")
    assert console == ""
    assert seen["worst"] == worst
    assert seen["best"] == worst[::-1]
    assert [alt for _, alt in seen["small"]] == [f"{name}, where decoded differs" for name in worst]
    assert min(width for width, _ in seen["small"]) > 0
    assert (seen["both"], seen["originals"], seen["differences"]) == (
        [True, True],
        [True, False],
        [False, True],
    )
    assert seen["named"] == list(SIZES)
    assert seen["filtered"] == ["sub/deep/c.webp"]
    assert seen["none"] == []
    assert seen["open"] is True
    assert seen["rows"] == 1
    assert seen["divider"] == "25"
    assert seen["clip"] == "inset(0px 75% 0px 0px)"
    assert seen["alts"] == [
        "a.jpg, original",
        f"a.jpg, reconstruction decoded, {value['a.jpg']:.2f} dB",
    ]
    assert seen["pressed"] == "decoded"
    assert seen["halves"] == ["original", "decoded"]
    assert seen["filter"] == "brightness(20)"
    assert seen["grows"] is True
    assert seen["latents"] == [4, 3]
    assert str(seen["title"]).startswith("b.png: decoded ")
    assert seen["broken"] == 0


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_what_is_missing_comes_last(own: Path) -> None:
    assert run("decode", "latents", "four", "-n", "4", cwd=own).code == 0
    (own / "decoded/b.png").unlink()
    assert run("report", "photos", "decoded", "four", "page.html", cwd=own).code == 3
    seen, console = browse(own / "page.html")
    assert console == ""
    assert seen["worst"][-1] == seen["best"][-1] == "b.png"
    assert sorted(seen["worst"]) == sorted(SIZES)
    assert [width > 0 for width, _ in seen["small"]] == [True, True, True, False]


def test_a_mirrored_reconstruction_is_shown_beside_the_original(own: Path) -> None:
    assert run("encode", "photos/b.png", "twins", "--flip", cwd=own).code == 0
    assert run("decode", "twins", "mirrored", "--flipped", cwd=own).code == 0
    (own / "one").mkdir()
    shutil.copy(own / "photos/b.png", own / "one")
    done = run("report", "one", "mirrored", "page.html", "--assets", "full", cwd=own)
    assert (done.code, done.err) == (0, "")
    original, shown = (read_pixels(own / f"full/000000-{k}.png") for k in range(2))
    assert np.abs(original - shown).mean() < np.abs(original - shown[:, ::-1]).mean() / 2


def test_a_page_without_images_takes_no_other_ones_place(own: Path) -> None:
    assert run("report", "photos", "decoded", "page.html", cwd=own).code == 0
    before = (own / "page.html").read_bytes()
    done = run("report", "photos", "decoded", "page.html", "--max-pixels", "1", cwd=own)
    assert (done.code, done.out) == (3, "")
    assert done.err.endswith("\ndinac: no image could be shown; page.html was not written\n")
    assert (own / "page.html").read_bytes() == before


def test_a_page_that_would_not_open_asks_for_a_folder(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(own)
    arguments = ["report", "photos", "decoded", "page.html"]
    monkeypatch.setattr(comparing, "_LARGE_PAGE_BYTES", 1000)
    assert run_here(arguments) == 0
    hint = "dinac: a large page; --assets DIR keeps the full images beside it\n"
    assert capsys.readouterr().err == hint
    (own / "page.html").unlink()
    monkeypatch.setattr(comparing, "MAX_PAGE_BYTES", 1000)
    assert run_here(arguments) == 2
    assert capsys.readouterr().err.endswith("name a folder for them with --assets DIR\n")
    assert not (own / "page.html").exists()
    assert run_here([*arguments, "--assets", "full"]) == 0
    assert capsys.readouterr().err == ""


def read_pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(float)
