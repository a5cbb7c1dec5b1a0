"""`dinac features`: golden class tokens from records, their file, and similar images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dinac_cli.codec.handle import DeviceChoice, ModelHandle
from dinac_cli.codec.records import Source, build_record
from dinac_cli.container.tensors import Encoded
from dinac_cli.jobs import feature_set
from dinac_cli.jobs.feature_set import ImageFeatures, is_feature_file, pack_features
from dinac_cli.models.dinac.model import DinacModel

from .processes import Finished, run, run_together

GOLDEN = Path(__file__).parent.parent / "golden"
TINY, PAIR = GOLDEN / "tiny", GOLDEN / "pair"
SMALL, LARGE, NEAR = "a.jpg.dinac", "sub/b.png.dinac", "sub/near.png.dinac"


def make_record(folder: Path, name: str, latents: npt.NDArray[np.float32]) -> bytes:
    """Packs a golden model's latents [C, h, w] as a float32 record."""
    model = ModelHandle(DinacModel(folder, folder.name), "decoder", DeviceChoice())
    _, rows, columns = latents.shape
    patch = model.traits.patch
    source = Source(name, 1, "0" * 64, "", rows * patch, columns * patch)
    return build_record(source, Encoded(latents), model, "cpu/f32", "f32")


@pytest.fixture(scope="module")
def cases() -> dict[str, npt.NDArray[np.float32]]:
    return load_file(TINY / "cases.safetensors")


@pytest.fixture(scope="module")
def latents(
    tmp_path_factory: pytest.TempPathFactory, cases: dict[str, npt.NDArray[np.float32]]
) -> Path:
    """Three records of the tiny model, for reading only; `near.png` is almost `b.png`."""
    folder = tmp_path_factory.mktemp("features") / "latents"
    (folder / "sub").mkdir(parents=True)
    large = cases["latents.0"][0]
    near = large + 0.01 * np.random.default_rng(0).standard_normal(large.shape, np.float32)
    for name, values in ((SMALL, cases["latents.1"][0]), (LARGE, large), (NEAR, near)):
        (folder / name).write_bytes(make_record(TINY, name.removesuffix(".dinac"), values))
    return folder


def run_features(*arguments: str | Path, stdin: bytes = b"") -> Finished:
    return run(
        "features", *arguments, "--model", TINY, "--device", "cpu", "--dtype", "f32", stdin=stdin
    )


def read_metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        metadata: dict[str, str] = file.metadata()
    return metadata


def test_tokens_match_the_golden_ones_in_input_order(
    latents: Path, tmp_path: Path, cases: dict[str, npt.NDArray[np.float32]]
) -> None:
    out = tmp_path / "new/out.safetensors"
    done = run_features(latents, out, "--spatial")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"3 class tokens of 64 values in {out} (")
    tensors, metadata = load_file(out), read_metadata(out)
    assert json.loads(metadata["names"]) == ["a.jpg", "sub/b.png", "sub/near.png"]
    assert (metadata["model"], metadata["compute"]) == ("tiny", "cpu/f32")
    assert tensors["class_tokens"].dtype == np.float32
    assert tensors["grids"].tolist() == [[1, 1], [2, 3], [2, 3]]
    for row, case in ((0, 1), (1, 0)):
        for ours, exact in (
            (tensors["class_tokens"][row], cases[f"class_token.{case}"][0]),
            (tensors[f"spatial_tokens.{row}"], cases[f"spatial_tokens.{case}"][0]),
        ):
            np.testing.assert_allclose(ours, exact, atol=1e-4)
    assert tensors["spatial_tokens.2"].shape == (6, 64)


def test_a_stream_of_records_without_spatial_tokens(latents: Path, tmp_path: Path) -> None:
    stream = b"".join((latents / name).read_bytes() for name in (SMALL, LARGE))
    out = tmp_path / "out.safetensors"
    done = run_features("-", out, "--json", stdin=stream)
    assert (done.code, done.err) == (0, "")
    *files, summary = done.objects
    assert [entry["name"] for entry in files] == ["a.jpg", "sub/b.png"]
    assert summary == {
        "summary": True,
        "records": 2,
        "failed": 0,
        "not_inputs": 0,
        "output": str(out),
        "bytes": out.stat().st_size,
    }
    assert list(load_file(out)) == ["class_tokens"]


def test_similar_images_come_nearest_first_without_the_query(latents: Path, tmp_path: Path) -> None:
    shown = run_features(latents, "--similar", latents / LARGE)
    assert (shown.code, shown.err) == (0, "")
    head, blank, *table = shown.out.splitlines()
    assert (head, blank) == ("3 class tokens of 64 values", "")
    assert table[0].split() == ["rank", "similarity", "name"]
    assert [line.split()[::2] for line in table[1:]] == [["1", "sub/near.png"], ["2", "a.jpg"]]
    out = tmp_path / "out.safetensors"
    done = run_features(latents, out, "--similar", latents / LARGE, "--top", "1", "--json")
    [nearest] = done.objects[-1]["similar"]
    assert (nearest["rank"], nearest["name"]) == (1, "sub/near.png")
    assert nearest["file"] == str(latents / NEAR)
    tokens = load_file(out)["class_tokens"].astype(np.float64)
    cosine = tokens[1] @ tokens[2] / np.linalg.norm(tokens[1]) / np.linalg.norm(tokens[2])
    assert nearest["similarity"] == pytest.approx(cosine, abs=1e-6)


def test_bad_records_fail_alone(latents: Path, tmp_path: Path) -> None:
    folder = tmp_path / "latents"
    folder.mkdir()
    pair = load_file(PAIR / "cases.safetensors")["latents.0"][0]
    (folder / "damaged.dinac").write_bytes((latents / LARGE).read_bytes()[:-9])
    (folder / "good.dinac").write_bytes((latents / SMALL).read_bytes())
    (folder / "other.dinac").write_bytes(make_record(PAIR, "other", pair))
    out = tmp_path / "out.safetensors"
    done = run_features(folder, out)
    assert done.code == 3
    assert [line.split(": ")[1] for line in done.err.splitlines()] == [
        str(folder / "damaged.dinac"),
        str(folder / "other.dinac"),
    ]
    assert json.loads(read_metadata(out)["names"]) == ["good"]
    out.unlink()
    (folder / "good.dinac").unlink()
    (folder / "other.dinac").unlink()
    none = run_features(folder, out)
    assert (none.code, none.out, out.exists()) == (3, "0 class tokens, 1 failed\n", False)


def test_impossible_requests_are_refused_in_one_line(
    work: Path, latents: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "out.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": np.zeros(1)}, foreign)
    record = str(latents / SMALL)
    lines = [
        ("features", str(work / "latents"), out),
        ("features", record, out, "--model", "nano"),
        ("features", record, out),
        ("features", record, str(foreign)),
        ("features", record, str(tmp_path / "out.npz")),
        ("features", record, out, "--top", "3"),
        ("features", record, out, "--similar", str(foreign)),
        ("features",),
    ]
    ends = [
        (2, "model nano has no class head (the part that predicts features); encode"),
        (2, "model nano has no class head"),
        (1, "neither embedded nor cached; name it with --model"),
        (1, "exists and is no feature file of dinac; add --overwrite"),
        (2, "OUT must end in .safetensors"),
        (2, "--top needs --similar FILE"),
        (2, "name a .dinac file of one record"),
        (2, "missing OUT.safetensors; usage: dinac features LATENTS... [OUT.safetensors]"),
    ]
    for done, (code, text) in zip(run_together(*lines), ends, strict=True):
        assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), done
        assert text in done.err
    assert not Path(out).exists()


def test_foreign_files_are_replaced_only_with_overwrite(latents: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    save_file({"x": np.zeros(1)}, out)
    assert run_features(latents / SMALL, out).code == 1
    assert list(load_file(out)) == ["x"]
    assert run_features(latents / SMALL, out, "--overwrite").code == 0
    assert run_features("-o", out, latents).code == 0
    assert load_file(out)["class_tokens"].shape == (3, 64)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_many_names_are_stored_as_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_set, "NAMES_AT_MOST", 10)
    path = tmp_path / "many.safetensors"
    rows = [ImageFeatures(name, None, (1, 1), np.ones(4, np.float32)) for name in ("a/ä", "b c")]
    path.write_bytes(pack_features(rows, {"model": "some"}))
    assert bytes(load_file(path)["names"]).decode().split("\n") == ["a/ä", "b c"]
    assert read_metadata(path) == {"dinac": "features", "model": "some"}
    assert is_feature_file(str(path))


@pytest.mark.parametrize(
    "content", [b"", b"x" * 40, b"\2\0\0\0\0\0\0\0[]", b"\2" + bytes(7) + b"{}"]
)
def test_other_files_are_not_feature_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert not is_feature_file(str(path))
