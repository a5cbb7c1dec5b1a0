"""A folder of latents as a PyTorch dataset."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dinac_cli import DinacAE, LatentFolder, read_latents
from dinac_cli.container.record import pack_encoded, pack_record
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import DinacError, UsageError
from dinac_cli.models.dinac.config import DinacAEConfig

from .container.hand_made import make_header, make_latents
from .shard_files import make_tar

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
    assert dataset.names == ["a/c.jpg", "b.png", "z.png"]
    assert len(dataset) == 3
    item = dataset[1]
    expected, header = read_latents(folder / "b.png.dinac")
    assert torch.equal(item["latents"], torch.from_numpy(expected))
    assert (item["name"], item["height"], item["width"]) == ("b.png", 31, 79)
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
    assert type(batch) is dict
    assert batch["name"] == ["a/c.jpg", "b.png", "z.png"]
    alone = [read_latents(folder / f"{name}.dinac")[0] for name in batch["name"]]
    np.testing.assert_array_equal(batch["latents"].numpy(), np.stack(alone))


def test_error_names_the_bad_file(folder: Path) -> None:
    (folder / "b.png.dinac").write_bytes(b"not a record")
    with pytest.raises(DinacError, match=r"b\.png\.dinac: not a latent record"):
        LatentFolder(folder)[1]


def test_folder_without_latents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no latent files found"):
        LatentFolder(tmp_path)
    with pytest.raises(UsageError, match=r"nowhere: no such folder; check the path$"):
        LatentFolder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            "a.jpg.dinac",
            "holds shards without index.json; read the whole output of dinac encode wi",
        ),
        ("00000000.npy", "holds tars without records; read tars of dinac export with webdataset"),
    ],
)
def test_tars_are_named_with_what_reads_them(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / "000").mkdir()
    (tmp_path / "000/000000.tar").write_bytes(make_tar({file: b""}))
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path} {message}")):
        LatentFolder(tmp_path)


def test_exported_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg.npz").touch()
    with pytest.raises(UsageError, match=r"holds \.npz files, .*; open the folder of dinac encode"):
        LatentFolder(tmp_path)


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


@pytest.fixture
def mirrored(folder: Path) -> Path:
    """The folder, in which b.png and z.png also hold the mirrored image."""
    for name in ("b.png", "z.png"):
        images = [
            Encoded(make_latents(SHAPE, seed), make_latents(SHAPE, seed + 2)) for seed in (5, 6)
        ]
        data = pack_encoded(make_header(SHAPE, "f32"), images[0], flipped=images[1])
        (folder / f"{name}.dinac").write_bytes(data)
    return folder


def test_item_has_both_images_by_default(mirrored: Path) -> None:
    item = LatentFolder(mirrored)[1]
    assert torch.equal(item["latents"], torch.from_numpy(make_latents(SHAPE, 5)))
    assert torch.equal(item["flipped"], torch.from_numpy(make_latents(SHAPE, 6)))
    assert torch.equal(item["flipped_logsnr"], torch.from_numpy(make_latents(SHAPE, 8)))
    assert "is_flipped" not in item


def test_mirrored_image_can_be_left_out(mirrored: Path) -> None:
    item = LatentFolder(mirrored, flip="never")[1]
    assert item.keys() == {"latents", "logsnr", "name", "height", "width"}
    assert torch.equal(item["latents"], torch.from_numpy(make_latents(SHAPE, 5)))


def test_random_flip_picks_one_image_with_its_companions(mirrored: Path) -> None:
    torch.manual_seed(0)
    dataset = LatentFolder(mirrored, flip="random")
    items = [dataset[1] for _ in range(64)]
    for item in items:
        assert item.keys() == {"latents", "logsnr", "name", "height", "width", "is_flipped"}
        seed = 6 if item["is_flipped"] else 5
        assert torch.equal(item["latents"], torch.from_numpy(make_latents(SHAPE, seed)))
        assert torch.equal(item["logsnr"], torch.from_numpy(make_latents(SHAPE, seed + 2)))
    assert 16 < sum(item["is_flipped"] for item in items) < 48
    torch.manual_seed(0)
    assert [dataset[1]["is_flipped"] for _ in range(64)] == [item["is_flipped"] for item in items]


def test_random_flip_keeps_an_image_without_a_mirrored_one(mirrored: Path) -> None:
    dataset = LatentFolder(mirrored, flip="random")
    assert not any(dataset[0]["is_flipped"] for _ in range(8))
    [batch] = DataLoader(dataset, batch_size=2, sampler=[1, 2])
    assert batch["is_flipped"].dtype == torch.bool


def test_random_flip_needs_mirrored_images(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"flip is 'random', .*; encode with --flip, or leave"):
        LatentFolder(folder, flip="random")
    (folder / "b.png.dinac").write_bytes(b"no record")
    with pytest.raises(DinacError, match=r"b\.png\.dinac: not a latent record"):
        LatentFolder(folder, flip="random")[1]


MASK = np.arange(10, dtype=np.uint8).reshape(2, 5) * 28


@pytest.fixture
def masked(folder: Path) -> Path:
    """The folder, in which b.png and z.png hold two images; b.png has masks, z.png needs none."""
    for name, masks in (("b.png", (MASK, MASK[:, ::-1])), ("z.png", (None, None))):
        upright, flipped = (
            Encoded(make_latents(SHAPE, seed), mask=mask)
            for seed, mask in zip((5, 6), masks, strict=True)
        )
        header = make_header(SHAPE, "f32", image="alpha=none;mask=none")
        data = pack_encoded(header, upright, flipped=flipped)
        (folder / f"{name}.dinac").write_bytes(data)
    return folder


def test_masks_are_read_on_request(masked: Path) -> None:
    assert "mask" not in LatentFolder(masked)[1]
    dataset = pickle.loads(pickle.dumps(LatentFolder(masked, masks=True)))
    item = dataset[1]
    assert (item["mask"].shape, item["mask"].dtype) == ((1, 2, 5), torch.float32)
    np.testing.assert_array_equal(item["mask"][0], MASK.astype(np.float32) / 255)
    np.testing.assert_array_equal(item["flipped_mask"], np.flip(item["mask"].numpy(), -1))
    assert item["mask"].max() == 252 / 255
    [batch] = DataLoader(dataset, batch_size=2, sampler=[1, 2])
    assert batch["mask"].shape == (2, 1, 2, 5)
    assert torch.equal(batch["mask"][1], torch.ones(1, 2, 5))
    assert torch.equal(batch["flipped_mask"][1], torch.ones(1, 2, 5))


@pytest.mark.parametrize("image", ["", "alpha=none;frame=1/1"])
@pytest.mark.parametrize("flip", ["both", "never"])
def test_masks_of_images_encoded_without_masks_are_unknown(
    masked: Path, image: str, flip: Any
) -> None:
    """Ones would let a training count what a mask was to leave out."""
    data = pack_record(make_header(SHAPE, image=image), make_latents(SHAPE))
    path = masked / "c.png.dinac"
    path.write_bytes(data)
    dataset = LatentFolder(masked, flip=flip, masks=True)
    message = (
        "was encoded without masks; encode it again with --mask or --masks, or remove it with "
        "--prune=all if its image is gone"
    )
    number = dataset.names.index("c.png")
    with pytest.raises(DinacError, match=f"^{re.escape(str(path))}: {message}$"):
        dataset[number]
    assert "mask" not in LatentFolder(masked, flip=flip)[number]
    for value in ("none", "alpha", f"file-{'0' * 64}", "file"):
        header = make_header(SHAPE, image=f"alpha=none;mask={value}")
        (masked / "c.png.dinac").write_bytes(pack_record(header, make_latents(SHAPE)))
        assert torch.equal(dataset[number]["mask"], torch.ones(1, 2, 5))


def test_a_mask_without_a_description_is_given(masked: Path) -> None:
    header, upright = make_header(SHAPE, image=""), Encoded(make_latents(SHAPE), mask=MASK)
    (masked / "c.png.dinac").write_bytes(pack_encoded(header, upright))
    dataset = LatentFolder(masked, masks=True)
    assert dataset[dataset.names.index("c.png")]["mask"].max() == 252 / 255


def test_mask_is_that_of_the_picked_image(masked: Path) -> None:
    torch.manual_seed(0)
    dataset = LatentFolder(masked, flip="random", masks=True)
    items = [dataset[1] for _ in range(16)]
    assert len({item["is_flipped"] for item in items}) == 2
    for item in items:
        assert "flipped_mask" not in item
        expected = MASK[:, ::-1] if item["is_flipped"] else MASK
        np.testing.assert_array_equal(item["mask"][0], expected.astype(np.float32) / 255)


def test_unknown_flip_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"^flip is True; it must be one of both, random, never$"):
        LatentFolder(folder, flip=True)  # type: ignore[arg-type]


def test_batch_of_two_sizes_names_both_files(folder: Path) -> None:
    wide = (3, 2, 6)
    header = replace(make_header(wide), width=96)
    (folder / "z.png.dinac").write_bytes(pack_record(header, make_latents(wide)))
    with pytest.raises(DinacError) as caught:
        list(DataLoader(LatentFolder(folder), batch_size=3))
    assert str(caught.value) == (
        "a/c.jpg (79x31) and z.png (96x31) cannot be in one batch: latents [3, 2, 5] and "
        "[3, 2, 6]; encode with --resize and --crop, use a BucketSampler with a LatentFolder, or "
        "use batch_size=1"
    )
    assert len(list(DataLoader(LatentFolder(folder), batch_size=1))) == 3
    own: list[Any] = list(DataLoader(LatentFolder(folder), batch_size=3, collate_fn=list))
    assert [len(items) for items in own] == [3]


def test_transform_can_make_one_size(folder: Path) -> None:
    wide = (3, 2, 6)
    header = replace(make_header(wide), width=96)
    (folder / "z.png.dinac").write_bytes(pack_record(header, make_latents(wide)))
    [batch] = DataLoader(LatentFolder(folder, transform=_cut), batch_size=3)
    assert batch["latents"].shape == (3, 3, 2, 4)


def _cut(item: dict[str, Any]) -> dict[str, Any]:
    item["latents"] = item["latents"][..., :4]
    return item


def test_batch_of_different_tensors_names_both_files(folder: Path) -> None:
    encoded = Encoded(make_latents(SHAPE), make_latents(SHAPE, 7))
    (folder / "b.png.dinac").write_bytes(pack_encoded(make_header(SHAPE), encoded))
    for order, message in (([0, 1], "a/c.jpg (79x31)"), ([1, 2], "z.png (79x31)")):
        with pytest.raises(DinacError) as caught:
            list(DataLoader(LatentFolder(folder), batch_size=2, sampler=order))
        assert str(caught.value) == (
            f"{message} has no logsnr, but b.png (79x31) has; encode the folder again with the "
            "same options, or use batch_size=1"
        )


def test_training_loop_draws_other_latents_in_each_epoch(mirrored: Path) -> None:
    """The loop of the documentation: random flips, and samples of the posterior."""
    (mirrored / "a/c.jpg.dinac").unlink()
    dataset = LatentFolder(mirrored, flip="random")
    noise = torch.Generator().manual_seed(0)
    loader = DataLoader(dataset, batch_size=2, shuffle=True, drop_last=True, generator=noise)
    whitening = DinacAE(DinacAEConfig(bottleneck_dim=SHAPE[0]), parts=())
    epochs = []
    for _ in range(2):
        for batch in loader:
            epochs.append(whitening.sample_latents(batch["latents"], batch["logsnr"]))
            assert sorted(batch["name"]) == ["b.png", "z.png"]
    assert [tuple(latents.shape) for latents in epochs] == [(2, *SHAPE)] * 2
    assert not torch.equal(*epochs)


def test_captions_of_the_images(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    photos = tmp_path_factory.mktemp("photos")
    (photos / "a").mkdir()
    for name in ("a/c", "b", "z"):
        (photos / f"{name}.txt").write_text(f"caption of {name}")
    dataset = pickle.loads(pickle.dumps(LatentFolder(folder, captions=photos)))
    [batch] = DataLoader(dataset, batch_size=3)
    assert batch["txt"] == ["caption of a/c", "caption of b", "caption of z"]
    (photos / "b.txt").unlink()
    with pytest.raises(DinacError, match="its caption is gone"):
        dataset[1]
    with pytest.raises(UsageError, match=r"1 image has no caption, such as b\.png of .*b\.txt\);"):
        LatentFolder(folder, captions=photos)


def test_labels_are_the_first_folders(tmp_path: Path) -> None:
    for name in ("dog/b.png", "cat/x/a.png", "cat/c.png"):
        path = tmp_path / f"{name}.dinac"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pack_record(make_header(SHAPE), make_latents(SHAPE, 0)))
    dataset = LatentFolder(tmp_path, labels="folders")
    assert dataset.classes == ("cat", "dog")
    [batch] = DataLoader(dataset, batch_size=3)
    assert batch["label"].tolist() == [0, 0, 1]
    assert batch["label"].dtype == torch.int64
    (tmp_path / "e.png.dinac").write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match=r"e\.png is in none"):
        LatentFolder(tmp_path, labels="folders")
    with pytest.raises(UsageError, match="'folders' or None"):
        LatentFolder(tmp_path, labels="names")  # type: ignore[arg-type]
