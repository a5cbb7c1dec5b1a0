"""Tampered checkpoints load, or are refused by a one-line ModelError in little memory.

To test more mutants: `DINAC_FUZZ=20000 pytest tests/models/test_hostile_checkpoints.py`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.errors import ModelError
from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.model import DinacModel

from .conftest import GOLDEN, Golden, read_json

TINY = GOLDEN / "tiny"
MUTANTS = int(os.environ.get("DINAC_FUZZ", "120"))

DEEP: Any = json.loads("[" * 500 + "]" * 500)
HOSTILE_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 10**9, 2**47, 2**63, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "gelu", "F32\n\x1b[31m", "\ud800", "../../etc/passwd"),
    *([], [1], {}, {"a": {"b": 1}}, DEEP),
)
HOSTILE_NAMES = ("", "a\nb", "\x1b[2J", "encoder.blocks.0.qkv.weight", "x" * 5000, "__metadata__")
HOSTILE_TEXTS = (
    *(b"", b"{", b"null", b"[]", b"\xff\xfe{}", b"[" * 100_000, b'{"a": ' * 50_000),
    *(b"9" * 5000, b"NaN", b'{"model_dim": 1e999}', b"__import__('os')", bytes(100)),
)


@dataclass
class Draft:
    """A checkpoint to be written: the header and size of its weights, and its configuration."""

    header: dict[str, Any]
    data_bytes: int
    config: dict[str, Any]
    header_text: bytes | None = None
    header_length: int | None = None
    config_text: bytes | None = None

    def write(self, folder: Path) -> None:
        """Writes the checkpoint; its tensors are zeros in a sparse file."""
        text = json.dumps(self.header).encode() if self.header_text is None else self.header_text
        length = len(text) if self.header_length is None else self.header_length
        with (folder / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", length) + text)
            file.truncate(8 + len(text) + self.data_bytes)
        config = json.dumps(self.config).encode() if self.config_text is None else self.config_text
        (folder / "config.json").write_bytes(config)


@pytest.fixture(scope="module")
def genuine() -> Draft:
    data = (TINY / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    return Draft(header, len(data) - 8 - length, read_json(TINY / "config.json"))


Mutation = Callable[[Draft, random.Random], None]


def pick_tensor(draft: Draft, rng: random.Random) -> str:
    return rng.choice([name for name in draft.header if name != "__metadata__"])


def change_type(draft: Draft, rng: random.Random) -> None:
    types = ("F16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "BF16", "f32", *HOSTILE_VALUES)
    draft.header[pick_tensor(draft, rng)]["dtype"] = rng.choice(types)


def change_shape(draft: Draft, rng: random.Random) -> None:
    shape = draft.header[pick_tensor(draft, rng)]["shape"]
    kind = rng.randrange(4)
    if kind == 0:
        shape[:] = [rng.choice(HOSTILE_VALUES)] * rng.randrange(10)
    elif kind == 1:
        shape.reverse()
    elif kind == 2:
        shape.insert(rng.randrange(len(shape) + 1), rng.choice((0, 1, 2, 2**40, *HOSTILE_VALUES)))
    else:
        shape[rng.randrange(len(shape))] = rng.choice(HOSTILE_VALUES)


def change_offsets(draft: Draft, rng: random.Random) -> None:
    first, second = (draft.header[pick_tensor(draft, rng)] for _ in range(2))
    kind = rng.randrange(4)
    if kind == 0:
        first["data_offsets"], second["data_offsets"] = (
            second["data_offsets"],
            first["data_offsets"],
        )
    elif kind == 1:
        first["data_offsets"] = second["data_offsets"]
    elif kind == 2:
        first["data_offsets"] = [rng.choice(HOSTILE_VALUES) for _ in range(rng.randrange(4))]
    else:
        first["data_offsets"][rng.randrange(2)] += rng.choice((-4, -1, 1, 4, 2**40))


def change_name(draft: Draft, rng: random.Random) -> None:
    old = pick_tensor(draft, rng)
    draft.header[rng.choice((*HOSTILE_NAMES, old[:-1], old + ".0"))] = draft.header.pop(old)


def change_entry(draft: Draft, rng: random.Random) -> None:
    name = rng.choice((pick_tensor(draft, rng), "__metadata__"))
    if rng.random() < 0.3:
        draft.header.pop(name, None)
    else:
        draft.header[name] = rng.choice(HOSTILE_VALUES)


def add_entry(draft: Draft, rng: random.Random) -> None:
    twin = copy.deepcopy(draft.header[pick_tensor(draft, rng)])
    twin["data_offsets"] = [draft.data_bytes, draft.data_bytes + rng.choice((0, 4, 2**40))]
    draft.header[rng.choice(HOSTILE_NAMES)] = twin


def damage_header(draft: Draft, rng: random.Random) -> None:
    text = bytearray(json.dumps(draft.header).encode())
    for _ in range(rng.randrange(1, 4)):
        text[rng.randrange(len(text))] = rng.randrange(256)
    draft.header_text = rng.choice((bytes(text), bytes(text), rng.choice(HOSTILE_TEXTS)))


def change_length(draft: Draft, rng: random.Random) -> None:
    lengths = (0, 1, 2, 7, 100, 2**20, 10**8, 10**8 + 1, 2**32, 2**63, 2**64 - 1)
    draft.header_length = rng.choice(lengths)


def change_size(draft: Draft, rng: random.Random) -> None:
    draft.data_bytes = rng.choice((0, 1, draft.data_bytes - 1, draft.data_bytes + 1, 2**33))


def change_config(draft: Draft, rng: random.Random) -> None:
    key = rng.choice([*draft.config, "latent_sensitivity", "auto_map", "unknown"])
    draft.config[key] = rng.choice(HOSTILE_VALUES)


def drop_from_config(draft: Draft, rng: random.Random) -> None:
    del draft.config[rng.choice(list(draft.config))]


def replace_config(draft: Draft, rng: random.Random) -> None:
    draft.config_text = rng.choice(HOSTILE_TEXTS)


MUTATIONS: tuple[Mutation, ...] = (
    *(change_type, change_shape, change_offsets, change_name, change_entry, add_entry),
    *(damage_header, change_length, change_size),
    *(change_config, change_config, drop_from_config, replace_config),
)


def open_checkpoint(path: Path) -> None:
    """Does everything that a command does with a checkpoint before the first image."""
    ModelHandle(
        DinacModel(path, "model"), "decoder", DeviceChoice(device="cpu", dtype="f32")
    ).check("q6")
    DinacAE.from_pretrained(path)


def is_refused(path: Path) -> bool:
    """Whether a checkpoint is refused; asserts that the message is one printable line."""
    try:
        open_checkpoint(path)
    except ModelError as exc:
        message = str(exc)
    else:
        return False
    assert message.isprintable(), ascii(message)
    assert len(message) < 2000
    return True


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_mutants_load_or_are_refused_in_one_line(kind: str, genuine: Draft, tmp_path: Path) -> None:
    """For a file, sizes come from config.json if it describes such a network, else from tensors."""
    path = tmp_path if kind == "folder" else tmp_path / "model.safetensors"
    genuine.write(tmp_path)
    assert not is_refused(path)
    refused = 0
    for seed in range(MUTANTS // 2):
        rng = random.Random(f"{kind} {seed}")
        mutant = copy.deepcopy(genuine)
        for mutate in rng.choices(MUTATIONS, k=rng.choice((1, 1, 2))):
            with contextlib.suppress(KeyError, TypeError, AttributeError, IndexError, ValueError):
                mutate(mutant, rng)  # the first mutation may have removed the second one's target
        mutant.write(tmp_path)
        refused += is_refused(path)
    assert MUTANTS // 4 < refused < MUTANTS // 2


def test_hostile_values_of_each_configuration_key(genuine: Draft, tmp_path: Path) -> None:
    """For every key, a value is accepted only if it is the network's, or null."""
    genuine.write(tmp_path)
    for key in genuine.config:
        for value in HOSTILE_VALUES:
            text = json.dumps({**genuine.config, key: value})
            (tmp_path / "config.json").write_text(text)
            with contextlib.suppress(ModelError):
                ModelHandle(DinacModel(tmp_path, "m"), "decoder", DeviceChoice()).check()
                taken = DinacModel(tmp_path, "m").read_config()
                assert value is None or getattr(taken, key, value) == value


def declare(shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    """Returns a header with one tensor of this shape and the matching size."""
    size = 4
    for length in shape:
        size *= length
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    return {"encoder.patchify.proj.weight": entry}


def draft_bombs(genuine: Draft) -> dict[str, Draft]:
    """Returns checkpoints of a few bytes on disk that declare huge sizes."""
    sizes = {"model_dim": 8192, "encoder_depth": 8, "decoder_depth": 8, "mlp_ratio": 64}
    whole = declare([1 << 16, 1 << 10])
    return {
        "shape beyond the file": Draft(declare([1 << 40, 4]), 64, genuine.config),
        "product beyond 64 bits": Draft(declare([1 << 47] * 8), 64, genuine.config),
        "256 MiB that exist": Draft(whole, 1 << 28, genuine.config),
        "configuration far too large": Draft(
            genuine.header, genuine.data_bytes, {**genuine.config, **sizes}
        ),
        "configuration of a million million": Draft(
            genuine.header, genuine.data_bytes, {**genuine.config, "model_dim": 10**12}
        ),
        "header length beyond the file": Draft(
            genuine.header, genuine.data_bytes, genuine.config, header_length=1 << 40
        ),
        "many brackets": Draft(
            genuine.header, 0, genuine.config, header_text=b"[" * (4 << 20), config_text=b"{}"
        ),
    }


def write_bombs(genuine: Draft, folder: Path) -> list[Path]:
    paths = []
    for name, draft in draft_bombs(genuine).items():
        paths.append(folder / name.replace(" ", "-"))
        paths[-1].mkdir()
        draft.write(paths[-1])
    large = folder / "configuration-of-a-gigabyte"
    large.mkdir()
    genuine.write(large)
    os.truncate(large / "config.json", 1 << 30)
    return [*paths, large]


def test_declared_sizes_are_not_allocated(genuine: Draft, tmp_path: Path) -> None:
    open_checkpoint(TINY)  # imports everything, which would be traced
    for path in write_bombs(genuine, tmp_path):
        tracemalloc.start()
        try:
            assert is_refused(path), path.name
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 48 << 20, path.name


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited through /proc")
def test_refusal_needs_little_memory_of_the_process(genuine: Draft, tmp_path: Path) -> None:
    """Torch's allocations are not traced, so a separate process runs under a memory limit."""
    paths = write_bombs(genuine, tmp_path)
    program = """
import pathlib, resource, sys
from dinac_cli.errors import ModelError
from dinac_cli.models.dinac.autoencoder import DinacAE
DinacAE.from_pretrained(sys.argv[1])  # allocates what every checkpoint needs
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20),) * 2)
for path in sys.argv[2:]:
    try:
        DinacAE.from_pretrained(pathlib.Path(path))
    except ModelError:
        print("refused")
"""
    command = [sys.executable, "-c", program, str(TINY), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "refused\n" * len(paths)


class Planted:
    """Pickles to a call that creates a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.ckpt", "model.safetensors"])
def test_pickle_is_never_loaded(name: str, genuine: Draft, tmp_path: Path) -> None:
    folder, trap = tmp_path / "model", tmp_path / "trap"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(genuine.config))
    (folder / name).write_bytes(pickle.dumps(Planted(trap)))
    assert is_refused(folder)
    assert is_refused(folder / name)
    assert not trap.exists()
    pickle.loads((folder / name).read_bytes())
    assert trap.exists()  # the trap works


def test_code_beside_a_checkpoint_is_never_run(genuine: Draft, tmp_path: Path) -> None:
    folder, trap = tmp_path / "model", tmp_path / "trap"
    shutil.copytree(TINY, folder)
    code = f"import os; os.mkdir({str(trap)!r})"
    for name in ("modeling_dinac.py", "__init__.py", "configuration.py", "sitecustomize.py"):
        (folder / name).write_text(code)
    mapped = {"auto_map": {"AutoModel": "modeling_dinac.DinacAE"}, "trust_remote_code": True}
    (folder / "config.json").write_text(json.dumps({**genuine.config, **mapped}))
    open_checkpoint(folder)
    assert not trap.exists()


def test_links_to_anything_but_a_checkpoint_are_refused(tiny: Golden, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("config.json", "model.safetensors"):
        (linked / name).symlink_to(tiny.folder / name)  # as in the Hub's cache
    open_checkpoint(linked)
    for target in ("/etc/passwd", "/dev/zero", "model.safetensors", "nowhere", str(tmp_path)):
        (linked / "model.safetensors").unlink()
        (linked / "model.safetensors").symlink_to(target)
        assert is_refused(linked), target
        assert is_refused(linked / "model.safetensors"), target


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_is_refused_without_blocking(genuine: Draft, tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        folder = tmp_path / name
        folder.mkdir()
        genuine.write(folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
    assert is_refused(tmp_path / "model.safetensors")
    assert is_refused(tmp_path / "model.safetensors/model.safetensors")
    open_checkpoint(tmp_path / "config.json")  # a pipe does not count as a configuration
