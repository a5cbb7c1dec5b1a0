"""A folder of latents is a dataset like any other."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dinac_cli import LatentFolder, read_latents
from dinac_cli.container.record import pack_encoded, pack_record
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import DinacError, UsageError

from .container.hand_made import make_header, make_latents

SHAPE = (3, 2, 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("b.png", "a/c.jpg", "a/.hidden/x.png", "z.png")):
        path = tmp_path / f"{name}.dinac"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pack_record(make_header(SHAPE), make_latents(SHAPE, seed)))
    (tmp_path / "notes.txt").write_text("no record")
    return tmp_path


def test_items(folder: Path) -> None:
    dataset = LatentFolder(folder)
    assert dataset.names == ["a/c.jpg.dinac", "b.png.dinac", "z.png.dinac"]
    assert len(dataset) == 3
    item = dataset[1]
    expected, header = read_latents(folder / "b.png.dinac")
    assert torch.equal(item["latents"], torch.from_numpy(expected))
    assert (item["name"], item["height"], item["width"]) == ("b.png.dinac", 31, 79)
    assert header.height == 31


def test_it_can_be_pickled_and_transforms(folder: Path) -> None:
    dataset = pickle.loads(pickle.dumps(LatentFolder(str(folder), transform=_take_mean)))
    assert dataset[0] == pytest.approx(read_latents(folder / "a/c.jpg.dinac")[0].mean())


def _take_mean(item: dict[str, torch.Tensor]) -> float:
    return float(item["latents"].mean())


def test_workers_of_a_data_loader(folder: Path) -> None:
    loader = DataLoader(
        LatentFolder(folder), batch_size=3, num_workers=2, multiprocessing_context="spawn"
    )
    [batch] = list(loader)
    assert batch["latents"].shape == (3, *SHAPE)
    alone = [read_latents(folder / name)[0] for name in LatentFolder(folder).names]
    np.testing.assert_array_equal(batch["latents"].numpy(), np.stack(alone))


def test_a_bad_file_is_named(folder: Path) -> None:
    (folder / "b.png.dinac").write_bytes(b"no record")
    with pytest.raises(DinacError, match=r"b\.png\.dinac: not a latent record"):
        LatentFolder(folder)[1]


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no latent files found"):
        LatentFolder(tmp_path)
    with pytest.raises(UsageError, match=r"nowhere: no such folder$"):
        LatentFolder(tmp_path / "nowhere")


def test_it_says_what_it_is(folder: Path) -> None:
    assert repr(LatentFolder(folder)) == f"LatentFolder({str(folder)!r}): 3 latent files"


def test_what_stands_beside_the_latents(folder: Path) -> None:
    logsnr, token = make_latents(SHAPE, 7), np.arange(4, dtype=np.float32)
    encoded = Encoded(make_latents(SHAPE), logsnr, token)
    (folder / "b.png.dinac").write_bytes(pack_encoded(make_header(SHAPE), encoded))
    without, item, _ = (LatentFolder(folder)[index] for index in range(3))
    assert without.keys() == {"latents", "name", "height", "width"}
    assert item.keys() == {*without.keys(), "logsnr", "class_token"}
    assert torch.equal(item["logsnr"], torch.from_numpy(logsnr))
    assert torch.equal(item["class_token"], torch.from_numpy(token))
