"""What a node of a cluster must have: the OUT, the inputs and the weights of the run."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from pathlib import Path

import pytest

from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.errors import InputError, ModelError, OutputError
from dinac_cli.jobs.shards import node_check
from dinac_cli.jobs.shards.node_check import NodeCheck, relocate, show_nonce
from dinac_cli.models.registry import resolve_model
from dinac_cli.storage.local import LocalStore

from ..hand_made import GOLDEN


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "tiny", tmp_path / "model"))


@pytest.fixture
def sent(folder: Path) -> bytes:
    """The model as the run sends it to the nodes, with the identity that the run knows."""
    model = ModelHandle(resolve_model(str(folder)), "encoder", DeviceChoice())
    model.check()
    return pickle.dumps(model)


def test_a_model_is_used_where_it_lies(sent: bytes, folder: Path) -> None:
    assert relocate(pickle.loads(sent)).resolved.path == folder


def test_other_weights_at_the_same_path_are_refused(sent: bytes, folder: Path) -> None:
    """Otherwise records would name the weights of the run, and hold latents of others."""
    for weights in folder.glob("*.safetensors"):
        data = bytearray(weights.read_bytes())
        data[-3:] = bytes(byte ^ 0x55 for byte in data[-3:])
        weights.write_bytes(data)
    with pytest.raises(ModelError, match="has other weights on this node; copy those of the run"):
        relocate(pickle.loads(sent))


def test_a_model_elsewhere_is_found_by_its_identity(
    sent: bytes, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match="is not on this node; put it at"):
        relocate(pickle.loads(sent))
    found = resolve_model(str(tmp_path / "moved"))
    monkeypatch.setattr(node_check, "find_model", lambda latent_space: found)
    assert relocate(pickle.loads(sent)).resolved == found


def test_a_node_that_does_not_see_a_place_is_named(sent: bytes, tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "out"))
    image = tmp_path / "a.png"
    image.write_bytes(b"x")
    with show_nonce(store) as nonce:
        check = NodeCheck(store, nonce, pickle.loads(sent), str(image))
        assert check() == {"the weights": pickle.loads(sent).identity.weights}
        with pytest.raises(InputError, match="masks: this node does not see this input"):
            dataclasses.replace(check, masks=str(tmp_path / "masks"))()
        image.unlink()
        with pytest.raises(InputError, match="this node does not see this input"):
            check()
    with pytest.raises(OutputError, match="this node does not see the OUT of the run"):
        check()
