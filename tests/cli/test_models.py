"""`dinac models`: the list, the description of a model, and its download."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .processes import run, run_noting_imports

GOLDEN = Path(__file__).parent.parent / "golden"
REPOSITORY = "data-archetype/dinac_ae_d2"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fill_cache(home: Path, checkpoint: Path) -> Path:
    """Writes a cache of the Hub's client that holds `checkpoint` as d2; returns its folder."""
    folder = home / "hub" / ("models--" + REPOSITORY.replace("/", "--"))
    snapshot = folder / "snapshots" / COMMIT
    shutil.copytree(checkpoint, snapshot)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(COMMIT)
    return snapshot


def test_list_imports_no_torch(tmp_path: Path) -> None:
    done, imported = run_noting_imports(tmp_path / "imports", ("torch",), "models", "list")
    assert (done.code, done.err, imported) == (0, "", "")
    assert done.out.splitlines()[1:] == [
        "nano     -                          embedded          4 10.4 MB  5,001,984",
        f"d2       {REPOSITORY} not cached        -       -          -",
        "dinac-ae data-archetype/dinac_ae    not cached        -       -          -",
    ]


def test_cached_model_is_listed_shown_and_pulled(tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path, GOLDEN / "tiny")
    environment = {"HF_HOME": str(tmp_path)}
    listed = run("models", "list", "--json", environment=environment)
    assert (listed.code, listed.err) == (0, "")
    entry = listed.objects[1]
    assert (entry["name"], entry["state"], entry["revision"]) == ("d2", "cached", COMMIT)
    shown = run("models", "show", "d2", "--json", environment=environment)
    assert (shown.code, shown.err) == (0, "")
    [summary] = shown.objects
    assert summary["path"] == str(snapshot)
    assert summary["weights"] == entry["weights"]
    pulled = run("models", "pull", "d2", environment=environment)
    assert pulled.code == 0  # offline, the cached model will do
    assert f"{REPOSITORY}, revision {COMMIT}: " in pulled.out


def test_damaged_model_is_listed_as_damaged(tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path, GOLDEN / "tiny")
    (snapshot / "model.safetensors").write_bytes(b"half a download")
    done = run("models", "list", "--json", environment={"HF_HOME": str(tmp_path)})
    assert done.code == 0
    assert done.objects[1]["state"] == "damaged"
    assert "not a complete safetensors file" in done.objects[1]["reason"]


def test_file_is_shown() -> None:
    done = run("models", "show", str(GOLDEN / "pair/model.bf16.safetensors"))
    assert (done.code, done.err) == (0, "")
    counts = "727,736 (encoder 225,688, decoder 370,496, class head 131,552)"
    assert f"parameters    {counts}\n" in done.out


def test_model_that_is_not_cached_is_not_shown() -> None:
    shown = run("models", "show", "d2")
    line = f"dinac: model {REPOSITORY} is not cached; run: dinac models pull d2\n"
    assert (shown.code, shown.out, shown.err) == (1, "", line)
    pulled = run("models", "pull", "d2")
    assert (pulled.code, pulled.out) == (1, "")
    assert "HF_HUB_OFFLINE is set; unset it once to download" in pulled.err
    assert len(pulled.err.splitlines()) == 1


def test_other_names_are_refused() -> None:
    for name, reason in (
        ("nano", "model nano is embedded: nothing to download"),
        ("what", "what: neither an alias (d2, dinac-ae) nor a Hub repository (owner/name)"),
    ):
        done = run("models", "pull", name)
        assert (done.code, done.out, done.err) == (2, "", f"dinac: {reason}\n")
    assert json.loads(run("models", "show", "nano", "--json").out)["label"] == "nano"
