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


@pytest.mark.parametrize(
    "block",
    [block for _, block in EXAMPLES if "_files(" not in block.text],
    ids=[f"{name}: {block.section}" for name, block in EXAMPLES if "_files(" not in block.text],
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
