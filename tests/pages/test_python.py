"""The Python examples of the pages run."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import pack_encoded
from dinac_cli.container.tensors import Encoded
from dinac_cli.storage.shard_layout import INDEX_NAME, IndexEntry, ShardIndex
from dinac_cli.storage.tars import TarWriter

from .pages import PAGES, Block

ALPHA = "getchannel"  # of the example that saves alpha channels
EXAMPLES = [(page.name, block) for page in PAGES for block in page.list_blocks("python")]


@pytest.fixture
def record_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The latents of the records that examples read in the working folder."""
    latents = np.random.default_rng(0).standard_normal((128, 2, 3)).astype(np.float32)
    header = RecordHeader(
        shape=(128, 2, 3),
        height=32,
        width=48,
        patch=16,
        latent_space="0" * 16,
        weights="0" * 16,
        precision="bf16",
        name="trip/a.jpg",
    )
    mask = np.array([[0, 255, 255], [0, 128, 255]], np.uint8)
    encoded = Encoded(latents, logsnr=5 + latents, mask=mask)
    record = pack_encoded(header, encoded, flipped=encoded)
    for folder in ("latents/trip", "sampled", "classes/cat", "captioned", "masked"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.jpg.dinac").write_bytes(record)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.txt").write_text("a leaf")
    (tmp_path / "a.dinac").write_bytes(record)
    write_shard(tmp_path / "shards", record)
    monkeypatch.chdir(tmp_path)
    return latents


def write_shard(out: Path, record: bytes) -> None:
    """Writes an OUT of one shard with eight records, a batch of the examples."""
    buffer = io.BytesIO()
    tar = TarWriter(buffer.write)
    for key in "abcdefgh":
        tar.add(f"trip/{key}.dinac", record)
    tar.finish()
    data = buffer.getvalue()
    entry = IndexEntry("00000.tar", 8, len(data), sha256(data).hexdigest())
    out.mkdir()
    (out / "00000.tar").write_bytes(data)
    (out / INDEX_NAME).write_bytes(ShardIndex((entry,)).to_bytes())


def is_of_folders(block: Block) -> bool:
    """True if the example reads images, not the records of the fixture."""
    return "_files(" in block.text or ALPHA in block.text


@pytest.mark.parametrize(
    "block",
    [block for _, block in EXAMPLES if not is_of_folders(block)],
    ids=[f"{name}: {block.section}" for name, block in EXAMPLES if not is_of_folders(block)],
)
def test_example_runs(block: Block, record_files: np.ndarray) -> None:
    names: dict[str, object] = {}
    exec(compile(block.text, "page", "exec"), names)
    latents = names["latents"]
    if isinstance(latents, np.ndarray):  # read from a file; others are of a random image
        np.testing.assert_allclose(latents, record_files, rtol=2**-8)


def test_examples_of_whole_folders_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos/trip").mkdir(parents=True)
    Image.new("RGB", (80, 70), (200, 90, 10)).save(tmp_path / "photos/trip/a.png")
    monkeypatch.chdir(tmp_path)
    for _, block in EXAMPLES:
        if "_files(" in block.text:
            exec(compile(block.text, "page", "exec"), {})
    first, encoded, decoded = capsys.readouterr().out.splitlines()
    assert first == "trip/a.png written"
    assert encoded == "trip/a.png written latents/trip/a.png.dinac"
    assert decoded == "trip/a.png.dinac written None"
    assert (tmp_path / "decoded/trip/a.png").is_file()


def test_the_example_of_mask_files_saves_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    clear = Image.new("RGBA", (4, 3), (200, 90, 10, 60))
    for name in ("a.png", "b.png"):
        clear.save(tmp_path / "photos" / name)
    clear.convert("RGB").save(tmp_path / "photos/opaque.png")
    (tmp_path / "masks/b.png").write_bytes(b"painted")
    monkeypatch.chdir(tmp_path)
    [block] = [block for _, block in EXAMPLES if ALPHA in block.text]
    exec(compile(block.text, "page", "exec"), {})
    assert sorted(path.name for path in Path("masks").iterdir()) == ["a.png", "b.png"]
    with Image.open("masks/a.png") as saved:
        assert (saved.mode, saved.getextrema()) == ("L", (60, 60))
    assert Path("masks/b.png").read_bytes() == b"painted"
