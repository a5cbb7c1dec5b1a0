"""`--model flux2` through every command, with random weights; what it lacks; without diffusers."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinac_cli.errors import MissingLibraryError
from dinac_cli.images.stamp import read_stamp
from dinac_cli.models.flux2.diffusers_library import demand_diffusers

from ..models.flux2.checkpoints import make_vae
from .processes import Finished, get_client, run, run_process

REPOSITORY = "black-forest-labs/FLUX.2-small-decoder"
COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
NAMES = ("a.png", "b.png", "sub/c.png")
HAS_DIFFUSERS = True
try:
    demand_diffusers("this test")
except MissingLibraryError:
    HAS_DIFFUSERS = False
needs_diffusers = pytest.mark.skipif(not HAS_DIFFUSERS, reason="the extra flux2 is not installed")

LACKING = "model vae needs the diffusers library; pip install 'dinac-cli[flux2]'"

# Runs the program as if diffusers were not installed.
WITHOUT_DIFFUSERS = """
import sys
class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "diffusers":
            raise ModuleNotFoundError(f"No module named {name!r}", name="diffusers")
sys.meta_path.insert(0, Refusal())
from dinac_cli.cli import main
main()
"""


def save_images(folder: Path) -> None:
    random = np.random.default_rng(0)
    for name, (width, height) in zip(NAMES, [(48, 32), (48, 32), (33, 20)], strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((width, height)).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and the checkpoint `vae`."""
    folder = tmp_path_factory.mktemp("flux2")
    save_images(folder / "photos")
    make_vae(folder / "vae")
    return folder


def encode(place: Path, out: str | Path, *options: str | Path, model: str = "vae") -> Finished:
    arguments = ("--model", model, "--device", "cpu", "--dtype", "f32", "--quiet")
    return run("encode", "photos", out, *arguments, *options, cwd=place)


@pytest.fixture(scope="module")
def latents(place: Path) -> Path:
    if not HAS_DIFFUSERS:
        pytest.skip("the extra flux2 is not installed")
    done = encode(place, "latents")
    assert (done.code, done.out, done.err) == (0, "", "")
    return place / "latents"


def fill_cache(
    home: Path, checkpoint: Path, repository: str = REPOSITORY, folder: str = ""
) -> Path:
    """Writes a cache of the Hub's client that holds `checkpoint`; returns the snapshot."""
    owned = home / "hub" / ("models--" + repository.replace("/", "--"))
    snapshot = owned / "snapshots" / COMMIT
    shutil.copytree(checkpoint, snapshot / folder)
    (snapshot / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (owned / "refs").mkdir()
    (owned / "refs/main").write_text(COMMIT)
    return snapshot


def read_files(folder: Path, suffix: str) -> dict[str, bytes]:
    paths = sorted(folder.rglob(f"*{suffix}"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def list_records(folder: Path) -> list[dict[str, Any]]:
    """Returns what `info` says about each record."""
    done = run("info", folder, "--json")
    assert (done.code, done.err) == (0, "")
    return [entry for entry in done.objects if "shape" in entry]


class TestEveryCommand:
    def test_from_images_to_a_report(self, place: Path, latents: Path, tmp_path: Path) -> None:
        decoded = tmp_path / "decoded"
        entries = list_records(latents)
        assert [entry["shape"] for entry in entries] == [[128, 2, 3], [128, 2, 3], [128, 2, 3]]
        assert {(entry["model"], entry["patch"]) for entry in entries} == {("vae", 16)}
        done = run("decode", latents, decoded, "--model", "vae", "--device", "cpu", cwd=place)
        assert (done.code, done.err) == (0, "")
        for name in NAMES:
            with Image.open(place / "photos" / name) as first, Image.open(decoded / name) as second:
                assert first.size == second.size
        stamp = read_stamp(decoded / "a.png")
        assert stamp is not None
        assert stamp["settings"] == "steps=none"
        compared = run("psnr", "photos", decoded, "--json", cwd=place)
        assert compared.code == 0
        assert compared.objects[0]["count"] == 3
        page = tmp_path / "page.html"
        reported = run("report", "photos", decoded, page, cwd=place)
        assert (reported.code, reported.err) == (0, "")
        assert page.stat().st_size > 10_000
        exported = run("export", latents, tmp_path / "arrays", "--to", "npz", cwd=place)
        assert exported.code == 0
        with np.load(next((tmp_path / "arrays").rglob("a.png*.npz"))) as arrays:
            assert arrays["latents"].shape == (128, 2, 3)

    def test_verify_encodes_again(self, place: Path, latents: Path) -> None:
        options = ("--reencode", "100", "--source", "photos", "--model", "vae", "--dtype", "f32")
        done = run("verify", latents, *options, "--max-delta", "0.02", "--device", "cpu", cwd=place)
        assert (done.code, done.err) == (0, "")

    def test_second_runs_find_everything_done(
        self, place: Path, latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Then the library is not needed either."""
        arguments = (latents, tmp_path, "--model", "vae", "--device", "cpu")
        assert run("decode", *arguments, cwd=place).code == 0
        monkeypatch.setitem(sys.modules, "diffusers", None)
        done = run("encode", "photos", latents, "--model", "vae", cwd=place)
        assert (done.code, done.summary) == (0, "0 encoded with vae, 3 already done\n")
        for options in ((), ("--steps", "1", "--seed", "0", "--guidance", "off")):
            done = run("decode", *arguments, *options, cwd=place)
            assert (done.code, done.summary, done.err) == (0, "0 decoded, 3 already done\n", "")

    def test_worker_processes_make_the_same_bytes(
        self, place: Path, latents: Path, tmp_path: Path
    ) -> None:
        options = ("--model", "vae", "--device", "cpu", "--threads", "1", "--quiet")
        for count in ("1", "2"):
            done = run_process(
                "encode",
                "photos",
                tmp_path / count,
                *options,
                "--processes",
                count,
                cwd=place,
                program=get_client(),
            )
            assert (done.code, done.out, done.err) == (0, "", "")
        records = read_files(tmp_path / "2", ".dinac")
        assert len(records) == 3
        assert records == read_files(tmp_path / "1", ".dinac")

    def test_bfloat16(self, place: Path, latents: Path, tmp_path: Path) -> None:
        done = encode(place, tmp_path / "half", "--dtype", "bf16")
        assert (done.code, done.err) == (0, "")
        assert {entry["compute"] for entry in list_records(tmp_path / "half")} == {"cpu/bf16"}
        assert {entry["compute"] for entry in list_records(latents)} == {"cpu/f32"}


class TestOtherModels:
    def test_records_never_mix(self, place: Path, latents: Path, tmp_path: Path) -> None:
        done = encode(place, latents, model="nano")
        assert (done.code, done.out) == (2, "")
        assert "holds latents of model vae" in done.err
        assert len(done.err.splitlines()) == 1
        done = run("decode", latents, tmp_path, "--model", "nano", cwd=place)
        assert done.code == 3
        assert done.err.count("encoded with model vae") == 3
        assert encode(place, tmp_path / "nano", model="nano").code == 0
        done = run("decode", tmp_path / "nano", tmp_path, "--model", "vae", cwd=place)
        assert done.code == 3
        assert done.err.count("encoded with model nano") == 3

    def test_model_of_records_is_found_in_the_cache(
        self, place: Path, latents: Path, tmp_path: Path
    ) -> None:
        """The cached decoder is the small one; the latent space is the same."""
        make_vae(tmp_path / "small", decoder_widths=(32, 32, 32, 32))
        fill_cache(tmp_path, tmp_path / "small")
        environment = {"HF_HOME": str(tmp_path)}
        listed = run("models", "list", "--json", environment=environment).objects[3]
        assert (listed["name"], listed["state"], listed["licence"]) == (
            "flux2",
            "cached",
            "apache-2.0",
        )
        done = run("decode", latents, tmp_path / "out", cwd=place, environment=environment)
        assert (done.code, done.err) == (0, "")
        stamp = read_stamp(tmp_path / "out/a.png")
        assert stamp is not None
        assert stamp["weights"] == listed["weights"]
        done = run(
            "encode",
            "photos",
            tmp_path / "named",
            "--model",
            "flux2",
            "--device",
            "cpu",
            cwd=place,
            environment=environment,
        )
        assert (done.code, done.err) == (0, "")
        first = list_records(tmp_path / "named")[0]
        assert (first["model"], first["revision"]) == (REPOSITORY, COMMIT)

    def test_records_of_two_models_in_one_run(
        self, place: Path, latents: Path, tmp_path: Path
    ) -> None:
        """Settings of the diffusion apply to one model; the other one has none."""
        fill_cache(tmp_path, place / "vae")
        environment = {"HF_HOME": str(tmp_path), "DINAC_DEVICE": "cpu"}
        shutil.copytree(latents, tmp_path / "both/vae")
        assert encode(place, tmp_path / "both/nano", model="nano").code == 0
        arguments = ("decode", "both", "out")
        done = run(*arguments, "--steps", "2", cwd=tmp_path, environment=environment)
        assert done.code == 3
        line = f"--steps 2: model {REPOSITORY} decodes without diffusion steps; leave it out"
        assert done.err.count(line) == 3
        done = run(*arguments, cwd=tmp_path, environment=environment)
        assert (done.code, done.summary) == (0, "3 decoded, 3 already done; SIZES in TIME\n")
        assert "following out/nano/a.png: --steps 2" in done.err
        settings = [
            (read_stamp(tmp_path / "out" / model / "a.png") or {})["settings"]
            for model in ("nano", "vae")
        ]
        assert settings[0].startswith("steps=2;")
        assert settings[1] == "steps=none"
        done = run(*arguments, cwd=tmp_path, environment=environment)
        assert (done.code, done.summary) == (0, "0 decoded, 6 already done\n")


class TestHubFolders:
    def test_folder_of_a_repository(self, place: Path, tmp_path: Path) -> None:
        snapshot = fill_cache(tmp_path, place / "vae", "owner/pipeline", "vae")
        environment = {"HF_HOME": str(tmp_path)}
        name = "owner/pipeline/vae"
        [shown] = run("models", "show", name, "--json", environment=environment).objects
        assert (shown["label"], shown["revision"]) == (name, COMMIT)
        assert shown["path"] == str(snapshot / "vae")
        transformer = snapshot / "transformer/model.safetensors"
        transformer.parent.mkdir()
        transformer.write_bytes(b"large")
        refused = run("models", "rm", name, "--yes", environment=environment)
        assert (refused.code, refused.out) == (2, "")
        assert refused.err == (
            "dinac: owner/pipeline: the cache also holds transformer/model.safetensors, which is "
            "not in vae; to remove the whole repository, name owner/pipeline\n"
        )
        assert transformer.exists()
        shutil.rmtree(transformer.parent)
        removed = run("models", "rm", name, "--yes", environment=environment)
        assert (removed.code, removed.err) == (0, "")
        assert not snapshot.exists()

    def test_absent_folder_is_not_cached(self, place: Path, tmp_path: Path) -> None:
        fill_cache(tmp_path, place / "vae", "owner/pipeline", "vae")
        done = run("models", "show", "owner/pipeline/tea", environment={"HF_HOME": str(tmp_path)})
        line = (
            "dinac: model owner/pipeline/tea is not cached; run: dinac models pull owner/pipeline/"
        )
        assert (done.code, done.out, done.err) == (1, "", f"{line}tea\n")


class TestWhatItLacks:
    """One line, before any work."""

    @pytest.mark.parametrize(
        ("options", "asked"),
        [
            (("--steps", "4"), "--steps 4"),
            (("--sampler", "dpmpp-2m"), "--sampler dpmpp-2m"),
            (("--schedule", "cosine"), "--schedule cosine"),
            (("--guidance", "2"), "--guidance 2"),
            (("--strength", "0.5"), "--strength 0.5"),
            (("--seed", "1"), "--seed 1"),
        ],
    )
    def test_settings_of_the_diffusion(
        self, place: Path, tmp_path: Path, options: tuple[str, ...], asked: str
    ) -> None:
        (tmp_path / "a.dinac").touch()
        arguments = ("decode", tmp_path, tmp_path / "out", "--model", "vae")
        done = run(*arguments, *options, cwd=place)
        line = f"{asked}: model vae decodes without diffusion steps; leave it out"
        assert (done.code, done.out, done.err) == (2, "", f"dinac: {line}\n")
        done = run(*arguments, "--steps", "9", "--seed", "7", cwd=place)
        line = "--steps 9 --seed 7: model vae decodes without diffusion steps; leave them out"
        assert (done.code, done.out, done.err) == (2, "", f"dinac: {line}\n")

    @pytest.mark.parametrize(
        ("command", "option", "reason"),
        [
            ("encode", "--compile", "--compile: model vae cannot be compiled; leave out --compile"),
            ("decode", "--compile", "--compile: model vae cannot be compiled; leave out --compile"),
            (
                "encode",
                "--posterior",
                "--posterior: the posterior of model vae has no log-SNR; use "
                "--no-posterior, or name another model",
            ),
            ("plan", "--posterior", "--posterior: the posterior of model vae has no log-SNR; use "),
            ("encode", "--features", "--features: model vae has no class head (the part that "),
            ("plan", "--features", "--features: model vae has no class head (the part that "),
        ],
    )
    def test_options(
        self, place: Path, tmp_path: Path, command: str, option: str, reason: str
    ) -> None:
        (tmp_path / "a.dinac").touch()
        source = tmp_path if command == "decode" else "photos"
        done = run(command, source, tmp_path / "out", "--model", "vae", option, cwd=place)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"dinac: {reason}")
        assert len(done.err.splitlines()) == 1
        assert not (tmp_path / "out").exists()

    def test_features(self, place: Path, tmp_path: Path) -> None:
        (tmp_path / "a.dinac").touch()
        done = run("features", tmp_path, tmp_path / "a.safetensors", "--model", "vae", cwd=place)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("dinac: model vae has no class head (the part that predicts")


class TestWithoutDiffusers:
    def test_one_line_says_what_to_install(self, place: Path, tmp_path: Path) -> None:
        program = (sys.executable, "-c", WITHOUT_DIFFUSERS)
        arguments = ("encode", "photos", tmp_path / "out", "--model", "vae", "--device", "cpu")
        done = run_process(*arguments, cwd=place, program=program)
        assert (done.code, done.out, done.err) == (2, "", f"dinac: {LACKING}\n")
        assert not (tmp_path / "out").exists()

    def test_other_commands_work(
        self, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "diffusers", None)
        for arguments in (
            ("models", "show", "vae"),
            ("models", "list"),
            ("plan", "photos", tmp_path / "out", "--model", "vae", "--quick"),
        ):
            done = run(*arguments, cwd=place)
            assert (done.code, done.err) == (0, "")
        plan = run("plan", "photos", tmp_path / "out", "--model", "vae", cwd=place)
        assert plan.code == 0
        assert LACKING.partition(";")[0] in " ".join(plan.out.split())

    @needs_diffusers
    def test_records_are_read(
        self, place: Path, latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "diffusers", None)
        for arguments in (("info", latents), ("verify", latents, "--model", "vae")):
            done = run(*arguments, cwd=place)
            assert (done.code, done.err) == (0, "")
        named = ("--model", "vae", "--device", "cpu")
        done = run("decode", latents, tmp_path / "out", *named, cwd=place)
        assert (done.code, done.out, done.err) == (2, "", f"dinac: {LACKING}\n")
        assert not (tmp_path / "out").exists()

    @needs_diffusers
    def test_records_of_other_models_are_decoded(
        self, place: Path, latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill_cache(tmp_path, place / "vae")
        shutil.copytree(latents, tmp_path / "both/vae")
        assert encode(place, tmp_path / "both/nano", model="nano").code == 0
        monkeypatch.setitem(sys.modules, "diffusers", None)
        environment = {"HF_HOME": str(tmp_path)}
        done = run("decode", tmp_path / "both", tmp_path / "out", environment=environment)
        assert (done.code, done.summary) == (3, "3 decoded, 3 failed; SIZES in TIME\n")
        line = f"model {REPOSITORY} needs the diffusers library; pip install 'dinac-cli[flux2]'"
        assert done.err.count(line) == 3
