"""`--features` and `--posterior`: from encode through every command that reads their tensors."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from dinac_cli import LatentFolder
from dinac_cli.container import tensors
from dinac_cli.container.record import Record, pack_encoded, read_record, unpack_record
from dinac_cli.container.stream import read_records
from dinac_cli.container.tensors import COMPANIONS, Encoded

from .conftest import save
from .processes import (
    DEADLINE_SECONDS,
    Finished,
    get_client,
    make_environment,
    run,
    run_noting_imports,
    run_together,
)

TINY = Path(__file__).parent.parent / "golden/tiny"
NAMES = ("a.png", "sub/b.png")
BOTH = ("--features", "--posterior")


def encode(*arguments: str | Path, cwd: Path) -> Finished:
    return run("encode", *arguments, "--model", TINY, "--device", "cpu", "--dtype", "f32", cwd=cwd)


def read(folder: Path) -> list[Record]:
    return [read_record(folder / f"{name}.dinac", COMPANIONS) for name in NAMES]


def read_tokens(folder: Path) -> npt.NDArray[np.float32]:
    """Returns the class tokens [N, D] of the `full` records."""
    tokens = [record.class_token for record in read(folder / "full")]
    return np.stack([token for token in tokens if token is not None])


def read_metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        metadata: dict[str, str] = file.metadata()
    return metadata


def reasons(done: Finished) -> dict[str, str | None]:
    return {
        entry["file"]: entry.get("reason", entry.get("status", entry.get("state")))
        for entry in done.objects[:-1]
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos` with their `plain` and `full` latents in float32, for reading only."""
    folder = tmp_path_factory.mktemp("companions")
    for seed, name in enumerate(NAMES):
        save(folder / "photos" / name, 40 + seed, 30, seed)
    for out, options in (("plain", ()), ("full", BOTH)):
        done = encode("photos", out, "--precision", "f32", *options, cwd=folder)
        assert (done.code, done.err) == (0, "")
    return folder


def test_companions_leave_the_latents_unchanged(folder: Path) -> None:
    for plain, full in zip(read(folder / "plain"), read(folder / "full"), strict=True):
        assert (plain.logsnr, plain.class_token) == (None, None)
        assert full.header == plain.header
        assert full.latents.tobytes() == plain.latents.tobytes()
        assert full.logsnr is not None
        assert full.logsnr.shape == full.latents.shape
        assert full.class_token is not None
        assert full.class_token.shape == (64,)


def test_a_model_without_class_head_is_refused_before_any_work(
    folder: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    photos = str(folder / "photos")
    lines = [(command, photos, out, "--features", "--model", "nano", *more)
             for command, *more in (("encode",), ("plan",), ("encode", "--dry-run"))]  # fmt: skip
    for done in run_together(*lines):
        assert (done.code, done.out) == (2, "")
        assert done.err == (
            "dinac: --features: model nano has no class head (the part that predicts them); "
            "name a model that has one, such as --model d2, or leave out --features\n"
        )
    assert not Path(out).exists()


def test_missing_companions_are_planned_and_added_and_extra_ones_accepted(
    folder: Path, tmp_path: Path
) -> None:
    options = ("--model", TINY, "--precision", "f32", *BOTH)
    out = tmp_path / "out"
    photos = folder / "photos"
    assert encode(photos, out, "--precision", "f32", "--posterior", cwd=folder).code == 0
    lack = "the record holds no class token"
    planned, imported = run_noting_imports(
        tmp_path / "imports", ("torch",), "plan", str(photos), str(out), "--json", "--quick",
        *map(str, options),
    )  # fmt: skip
    assert (planned.code, planned.err, imported) == (0, "", "")
    assert reasons(planned) == {str(photos / name): lack for name in NAMES}
    assert planned.objects[-1]["stale"] == 2
    assert encode(photos, out, "--precision", "f32", *BOTH, "--json", cwd=folder).code == 0
    for ours, full in zip(read(out), read(folder / "full"), strict=True):
        np.testing.assert_array_equal(ours.logsnr, full.logsnr)
        np.testing.assert_array_equal(ours.class_token, full.class_token)
    done = encode(photos, out, "--precision", "f32", "--json", cwd=folder)
    assert set(reasons(done).values()) == {"done"}


def test_plan_estimates_include_companions(folder: Path, tmp_path: Path) -> None:
    arguments = ("plan", str(folder / "photos"), str(tmp_path / "out"), "--json", "--model", TINY)
    plain, full = (run(*arguments, *more).objects[-1] for more in ((), BOTH))
    extra = full["pixels"] * 4.53 / 8 + 2 * 4 * 64
    assert full["bytes_estimated"] - plain["bytes_estimated"] == pytest.approx(extra, abs=2)


def test_streams_may_be_anonymous_and_coarse(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.dinac"
    line = [*get_client(), "encode", "photos", "-", *BOTH, "--anonymous", "--precision", "q3"]
    line += ["--model", str(TINY), "--device", "cpu", "--dtype", "f32"]
    piped = subprocess.run(
        line,
        cwd=folder,
        env=make_environment(),
        capture_output=True,
        check=True,
        timeout=DEADLINE_SECONDS,
    )
    out.write_bytes(piped.stdout)
    records = []
    for item in read_records(io.BytesIO(piped.stdout)):
        assert isinstance(item.record, bytes)
        records.append(unpack_record(item.record, COMPANIONS))
    for record, full in zip(records, read(folder / "full"), strict=True):
        assert (record.header.is_anonymous, record.header.precision) == (True, "q3")
        np.testing.assert_array_equal(record.logsnr, full.logsnr)
        np.testing.assert_array_equal(record.class_token, full.class_token)
    assert run("verify", out).code == 0


def test_verify_reads_companions_and_reencodes(folder: Path, tmp_path: Path) -> None:
    done = run(
        "verify", "full", "--source", "photos", "--reencode", "100%", "--model", TINY,
        "--device", "cpu", cwd=folder,
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert "largest |Δ| 0" in done.out
    full = read(folder / "full")[0]
    spoilt = Encoded(full.latents, full.logsnr, full.class_token)
    record = pack_encoded(full.header, spoilt._replace(class_token=np.zeros(1 << 16, np.float32)))
    (tmp_path / "wide.dinac").write_bytes(record)
    assert run("verify", tmp_path).code == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "_check_finite", lambda *values: None)
        infinite = spoilt._replace(logsnr=np.full(full.latents.shape, np.inf, np.float32))
        (tmp_path / "infinite.dinac").write_bytes(pack_encoded(full.header, infinite))
    done = run("verify", tmp_path)
    assert done.code == 3
    assert done.err == (
        f"dinac: {tmp_path / 'infinite.dinac'}: tensor posterior.logsnr holds NaN or infinity; "
        "re-encode\n"
    )


def test_stored_features_need_neither_model_nor_torch(folder: Path, tmp_path: Path) -> None:
    taken, predicted = tmp_path / "taken.safetensors", tmp_path / "predicted.safetensors"
    query = folder / "full/a.png.dinac"
    done, imported = run_noting_imports(
        tmp_path / "imports", ("torch",), "features", str(folder / "full"), str(taken),
        "--similar", str(query),
    )  # fmt: skip
    assert (done.code, done.err, imported) == (0, "", "")
    assert done.out.splitlines()[-1].split()[::2] == ["1", "sub/b.png"]
    arguments = ("features", folder / "plain", predicted, "--model", TINY, "--dtype", "f32")
    assert run(*arguments, "--device", "cpu").code == 0
    # In float32, predicting from stored latents loses nothing.
    assert read_metadata(taken) == read_metadata(predicted)
    for tokens in (load_file(taken), load_file(predicted)):
        np.testing.assert_array_equal(tokens["class_tokens"], read_tokens(folder))


def test_missing_features_are_predicted(folder: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "a.dinac").write_bytes((folder / "full/a.png.dinac").read_bytes())
    (mixed / "b.dinac").write_bytes((folder / "plain/sub/b.png.dinac").read_bytes())
    full = read(folder / "full")[1]
    token = np.zeros(8, np.float32)  # this model's have 64 values
    (mixed / "c.dinac").write_bytes(pack_encoded(full.header, Encoded(full.latents, None, token)))
    out = tmp_path / "out.safetensors"
    alone = run("features", mixed, out)
    assert alone.code == 3
    first, second = alone.err.splitlines()
    assert first.endswith("which is neither embedded nor cached; name it with --model")
    assert second.endswith("holds a class token of 8 values, but its model predicts 64; re-encode")
    arguments = ("--model", TINY, "--device", "cpu", "--dtype", "f32")
    done = run("features", mixed, out, *arguments)
    assert (done.code, len(done.err.splitlines())) == (3, 1)
    np.testing.assert_array_equal(load_file(out)["class_tokens"], read_tokens(folder))


def test_info_counts_companions(folder: Path) -> None:
    one, all_of_them, half = run_together(
        ("info", str(folder / "full/a.png.dinac")),
        ("info", str(folder / "full")),
        ("info", str(folder / "full"), str(folder / "plain"), "--json"),
    )
    assert "class token    64 values\n" in one.out
    assert "posterior      log-SNR of each latent\n" in one.out
    assert "class token  in all\n" in all_of_them.out
    *records, summary = half.objects
    assert (summary["class_tokens"], summary["posteriors"]) == (2, 2)
    assert [entry["class_token"] for entry in records] == [64, 64, 0, 0]
    assert [entry["posterior"] for entry in records] == [True, True, False, False]


def test_export_and_datasets_hold_companions(folder: Path, tmp_path: Path) -> None:
    record = read(folder / "full")[0]
    forms = ("safetensors", "npz", "webdataset")
    runs = [("export", str(folder / "full"), str(tmp_path / form), "--to", form) for form in forms]
    assert [done.code for done in run_together(*runs)] == [0, 0, 0]
    plain = load_file(tmp_path / "safetensors/a.png.safetensors")
    with np.load(tmp_path / "npz/a.png.npz") as file:
        packed = {name: file[name] for name in file.files if name != "header"}
    with tarfile.open(tmp_path / "webdataset/000000.tar") as tar:
        parts = {
            name: np.load(io.BytesIO(member.read()))
            for name in tar.getnames()
            if name.startswith("00000000.") and name.endswith(".npy")
            and (member := tar.extractfile(name)) is not None
        }  # fmt: skip
    titles = {
        "latents": "00000000.npy",
        "logsnr": "00000000.logsnr.npy",
        "class_token": "00000000.class_token.npy",
    }
    assert set(parts) == set(titles.values())
    item = LatentFolder(folder / "full")[0]
    for name, title in titles.items():
        for values in (plain[name], packed[name], parts[title], item[name].numpy()):
            np.testing.assert_array_equal(values, getattr(record, name))
