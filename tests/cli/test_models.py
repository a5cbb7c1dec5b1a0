"""`dinac models`: the list, the description of a model, its download and its removal."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from dinac_cli.models.registry import DOWNLOAD_BYTES

from .processes import run, run_noting_imports, run_on_terminal

GOLDEN = Path(__file__).parent.parent / "golden"
SEMDIS, SEMDIS_REPOSITORY = "semdisdiffae", "data-archetype/semdisdiffae"
REPOSITORY = "data-archetype/dinac_ae_d2"
FLUX2 = "black-forest-labs/FLUX.2-small-decoder"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLD_COMMIT = "0123456fedcba9876543210fedcba9876543210f"

needs_links = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


def fill_cache(home: Path, checkpoint: Path) -> Path:
    """Writes a cache of the Hub's client that holds `checkpoint` as d2; returns its folder."""
    folder = home / "hub" / ("models--" + REPOSITORY.replace("/", "--"))
    snapshot = folder / "snapshots" / COMMIT
    shutil.copytree(checkpoint, snapshot)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(COMMIT)
    return snapshot


def add_old_revision(snapshot: Path) -> Path:
    """Adds a revision with the tag v1 that shares its weights with `snapshot`; returns its folder.

    As in a cache that the Hub's client filled, both revisions link to the same blobs.
    """
    folder = snapshot.parent.parent
    (folder / "blobs").mkdir()
    old = snapshot.parent / OLD_COMMIT
    old.mkdir()
    for path in list(snapshot.iterdir()):
        blob = folder / "blobs" / path.name
        path.rename(blob)
        for link in (path, old / path.name):
            link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "blobs/old-card").write_text("x" * 1500)
    (old / "README.md").unlink(missing_ok=True)
    (old / "README.md").symlink_to("../../blobs/old-card")
    (folder / "refs/v1").write_text(OLD_COMMIT)
    return old


def test_list_imports_no_torch(tmp_path: Path) -> None:
    done, imported = run_noting_imports(tmp_path / "imports", ("torch",), "models", "list")
    assert (done.code, done.err, imported) == (0, "", "")
    assert done.out.splitlines()[1:] == [
        f"{'nano':16} {'-':38} embedded          4  10.4 MB  5,001,984",
        f"{'d2':16} {REPOSITORY:38} not cached        - 617.0 MB          -",
        f"{'dinac-ae':16} {'data-archetype/dinac_ae':38} not cached        -        -          -",
        f"{'flux2':16} {FLUX2} not cached        - 249.0 MB          -",
        f"{SEMDIS:16} {SEMDIS_REPOSITORY:38} not cached        - 355.0 MB          -",
        f"{SEMDIS}-p32 {f'{SEMDIS_REPOSITORY}_p32_v2':38} not cached        - 627.0 MB          -",
    ]


FLUX2_PARAMETERS = 62_373_091
"""Those of FLUX.2's encoder and small decoder; tests/models/flux2 counts them."""


def test_downloads_have_the_sizes_of_their_tensors() -> None:
    files = {"d2": "dinac_ae_d2", SEMDIS: SEMDIS, f"{SEMDIS}-p32": f"{SEMDIS}_p32_v2"}
    counts = {"flux2": FLUX2_PARAMETERS}
    for name, file in files.items():
        manifest = json.loads((GOLDEN / f"{file}.manifest.json").read_text("utf-8"))
        counts[name] = manifest["parameters"]["total"]
    assert {name: round(4 * count, -6) for name, count in counts.items()} == DOWNLOAD_BYTES
    [_, d2, other, flux2, *_] = run("models", "list", "--json").objects
    assert d2["download_bytes"] == DOWNLOAD_BYTES["d2"]
    assert flux2["download_bytes"] == DOWNLOAD_BYTES["flux2"]
    assert "size_bytes" not in d2
    assert "download_bytes" not in other


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


def test_damaged_model_is_listed_with_the_reason(tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path, GOLDEN / "tiny")
    (snapshot / "model.safetensors").write_bytes(b"half a download")
    done = run("models", "list", "--json", environment={"HF_HOME": str(tmp_path)})
    assert done.code == 0
    assert done.objects[1]["state"] == "refused"
    reason = done.objects[1]["reason"]
    assert "not a complete safetensors file" in reason
    table = run("models", "list", environment={"HF_HOME": str(tmp_path)})
    assert (table.code, table.err) == (0, f"dinac: d2: {reason}\n")
    assert table.out.splitlines()[2].split()[2] == "refused"


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
        (
            "what",
            "what: neither an alias (d2, dinac-ae, flux2, semdisdiffae, semdisdiffae-p32) "
            "nor a Hub repository (owner/name, or owner/name/folder)",
        ),
    ):
        done = run("models", "pull", name)
        assert (done.code, done.out, done.err) == (2, "", f"dinac: {reason}\n")
        reason = reason.replace("nothing to download", "cannot be removed")
        done = run("models", "rm", name, "--yes")
        assert (done.code, done.out, done.err) == (2, "", f"dinac: {reason}\n")
    assert json.loads(run("models", "show", "nano", "--json").out)["label"] == "nano"


def test_model_is_removed_from_the_cache(tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path, GOLDEN / "tiny")
    other = tmp_path / "hub/models--someone--else"
    shutil.copytree(snapshot.parent.parent, other)  # a fork: the same commit
    environment = {"HF_HOME": str(tmp_path)}
    size = sum(path.stat().st_size for path in snapshot.iterdir())
    what = f"{REPOSITORY}, revision {COMMIT[:12]} ({size / 1e6:.1f} MB)"
    refused = run("models", "rm", "d2", environment=environment)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == f"dinac: would remove {what}; to remove without a question, add --yes\n"
    assert snapshot.exists()
    done = run("models", "rm", "d2", "--yes", environment=environment)
    assert (done.code, done.out, done.err) == (0, f"removed {what}\n", "")
    assert not snapshot.parent.parent.exists()
    assert (other / "snapshots" / COMMIT / "config.json").is_file()
    again = run("models", "rm", REPOSITORY, "-y", environment=environment)
    absent = f"model {REPOSITORY} is not cached in {tmp_path}/hub; nothing to remove"
    assert (again.code, again.out, again.err) == (1, "", f"dinac: {absent}\n")


@needs_links
@pytest.mark.parametrize("revision", ["v1", OLD_COMMIT, OLD_COMMIT[:12]])
def test_one_revision_is_removed_and_shared_files_stay(tmp_path: Path, revision: str) -> None:
    snapshot = fill_cache(tmp_path, GOLDEN / "tiny")
    old = add_old_revision(snapshot)
    environment = {"HF_HOME": str(tmp_path)}
    done = run("models", "rm", "d2", "--revision", revision, "--yes", environment=environment)
    what = f"removed {REPOSITORY}, revision {OLD_COMMIT[:12]} (1.5 kB)\n"
    assert (done.code, done.out, done.err) == (0, what, "")
    assert not old.exists()
    assert run("models", "show", "d2", environment=environment).code == 0
    refs = snapshot.parent.parent / "refs"
    assert [path.name for path in refs.iterdir()] == ["main"]


@needs_links
def test_all_revisions_are_removed_together(tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path, GOLDEN / "tiny")
    add_old_revision(snapshot)
    done = run("models", "rm", "d2", "--yes", environment={"HF_HOME": str(tmp_path)})
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"removed {REPOSITORY}, all 2 revisions (")
    assert list((tmp_path / "hub").iterdir()) == []


@needs_links
def test_unknown_revision_removes_nothing(tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path, GOLDEN / "tiny")
    old = add_old_revision(snapshot)
    for revision, code, reason in (
        (COMMIT[:7], 2, "matches several cached commits; give more characters"),
        (COMMIT[:6], 1, f"cached: {COMMIT[:12]} (main), {OLD_COMMIT[:12]} (v1)"),
        ("v2", 1, f"cached: {COMMIT[:12]} (main), {OLD_COMMIT[:12]} (v1)"),
    ):
        command = ("models", "rm", "d2", "--revision", revision, "--yes")
        done = run(*command, environment={"HF_HOME": str(tmp_path)})
        assert (done.code, done.out, len(done.err.splitlines())) == (code, "", 1)
        assert reason in done.err
    assert snapshot.exists()
    assert old.exists()


@needs_links
def test_nothing_outside_the_cache_is_removed(tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path, GOLDEN / "tiny")
    old = add_old_revision(snapshot)
    own = tmp_path / "own.safetensors"
    own.write_bytes(b"mine")
    (old / "own.safetensors").symlink_to(own)
    environment = {"HF_HOME": str(tmp_path)}
    done = run("models", "rm", "d2", "--revision", "v1", "--yes", environment=environment)
    line = f"dinac: {own}: leads out of the Hub's cache {tmp_path}/hub; remove it by hand\n"
    assert (done.code, done.out, done.err) == (1, "", line)
    assert old.exists()
    whole = run("models", "rm", "d2", "--yes", environment=environment)
    assert whole.code == 0
    assert own.read_bytes() == b"mine"


@needs_links
def test_linked_repository_is_not_removed(tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path, GOLDEN / "tiny")
    folder, elsewhere = snapshot.parent.parent, tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere, target_is_directory=True)
    done = run("models", "rm", "d2", "--yes", environment={"HF_HOME": str(tmp_path)})
    line = f"dinac: {folder}: leads out of the Hub's cache {tmp_path}/hub; remove it by hand\n"
    assert (done.code, done.out, done.err) == (1, "", line)
    assert (elsewhere / "snapshots" / COMMIT / "config.json").is_file()


def test_interrupted_download_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / ("models--" + REPOSITORY.replace("/", "--"))
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs/half.incomplete").write_bytes(b"half")
    done = run("models", "rm", "d2", "--yes", environment={"HF_HOME": str(tmp_path)})
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert f"{folder} holds an interrupted download or damaged files" in done.err
    assert folder.exists()


def test_refused_removal_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill_cache(tmp_path, GOLDEN / "tiny").parent.parent

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    done = run("models", "rm", "d2", "--yes", environment={"HF_HOME": str(tmp_path)})
    line = f"dinac: {folder}: cannot be removed; check its permissions, then retry\n"
    assert (done.code, done.out, done.err) == (1, "", line)


@needs_links
def test_terminal_is_asked(tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path, GOLDEN / "tiny")
    environment = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    for typed, code, said in (
        (b"n\n", 1, "dinac: removed nothing"),
        (b"\n", 1, "dinac: removed nothing"),
        (b"\x04", 1, "dinac: removed nothing"),  # end of input
        (b"Y\n", 0, "removed data-archetype"),
    ):
        assert snapshot.exists()
        ended, screen = run_on_terminal("models", "rm", "d2", typed=typed, environment=environment)
        assert ended == code
        text = " ".join(screen.split())
        assert f"from {tmp_path}/hub? [y/N]" in text
        assert said in text
    assert not snapshot.exists()
