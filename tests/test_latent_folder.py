"""A folder of latents as a PyTorch dataset."""

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
    (tmp_path / "notes.txt").write_text("not a record")
    return tmp_path


def test_items_hold_latents_name_and_size(folder: Path) -> None:
    dataset = LatentFolder(folder)
    assert dataset.names == ["a/c.jpg.dinac", "b.png.dinac", "z.png.dinac"]
    assert len(dataset) == 3
    item = dataset[1]
    expected, header = read_latents(folder / "b.png.dinac")
    assert torch.equal(item["latents"], torch.from_numpy(expected))
    assert (item["name"], item["height"], item["width"]) == ("b.png.dinac", 31, 79)
    assert header.height == 31


def test_dataset_can_be_pickled_and_transforms(folder: Path) -> None:
    dataset = pickle.loads(pickle.dumps(LatentFolder(str(folder), transform=_take_mean)))
    assert dataset[0] == pytest.approx(read_latents(folder / "a/c.jpg.dinac")[0].mean())


def _take_mean(item: dict[str, torch.Tensor]) -> float:
    return float(item["latents"].mean())


def test_data_loader_batches_a_pickled_dataset(folder: Path) -> None:
    """A worker process receives the dataset pickled; starting one would take a second."""
    [batch] = DataLoader(pickle.loads(pickle.dumps(LatentFolder(folder))), batch_size=3)
    assert batch["latents"].shape == (3, *SHAPE)
    alone = [read_latents(folder / name)[0] for name in LatentFolder(folder).names]
    np.testing.assert_array_equal(batch["latents"].numpy(), np.stack(alone))


def test_error_names_the_bad_file(folder: Path) -> None:
    (folder / "b.png.dinac").write_bytes(b"not a record")
    with pytest.raises(DinacError, match=r"b\.png\.dinac: not a latent record"):
        LatentFolder(folder)[1]


def test_folder_without_latents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no latent files found"):
        LatentFolder(tmp_path)
    with pytest.raises(UsageError, match=r"nowhere: no such folder$"):
        LatentFolder(tmp_path / "nowhere")


def test_repr_has_folder_and_number_of_files(folder: Path) -> None:
    assert repr(LatentFolder(folder)) == f"LatentFolder({str(folder)!r}): 3 latent files"


def test_companions_of_the_latents_are_in_the_item(folder: Path) -> None:
    logsnr, token = make_latents(SHAPE, 7), np.arange(4, dtype=np.float32)
    encoded = Encoded(make_latents(SHAPE), logsnr, token)
    (folder / "b.png.dinac").write_bytes(pack_encoded(make_header(SHAPE), encoded))
    without, item, _ = (LatentFolder(folder)[index] for index in range(3))
    assert without.keys() == {"latents", "name", "height", "width"}
    assert item.keys() == {*without.keys(), "logsnr", "class_token"}
    assert torch.equal(item["logsnr"], torch.from_numpy(logsnr))
    assert torch.equal(item["class_token"], torch.from_numpy(token))
