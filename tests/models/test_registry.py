"""`--model` resolves to a checkpoint on disk, or fails with one clear line."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from dinac_cli.errors import ModelError, UsageError, quote_error
from dinac_cli.models.aliases import HUB_ALIASES, NANO
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.flux2.family import Flux2Model
from dinac_cli.models.registry import (
    NANO_REVISION,
    choose_default,
    find_cached,
    find_model,
    may_use_gpu,
    resolve_model,
)

from .conftest import GOLDEN

D2 = "data-archetype/dinac_ae_d2"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Download = Callable[..., str]

SMALL_FILES = ["config.json", "README.md"]
INSTEAD = "use --model nano (embedded)"


def http_error(
    kind: type[errors.HfHubHTTPError], message: str = "404", status: int = 404
) -> errors.HfHubHTTPError:
    response = SimpleNamespace(headers={}, request=None, status_code=status)
    return kind(message, response=response)  # type: ignore[arg-type]


class Hub:
    """A fake of the Hub's client: the cached repositories, and the answer to a download.

    A download of weights follows that of a configuration.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cached: dict[str, str] = {}
        self.answer: str | Exception = AssertionError("the Hub was asked")
        self.on_download: Callable[[], None] = lambda: None
        self.calls: list[tuple[str, str | None, bool]] = []
        self.patterns: list[list[str]] = []

    def snapshot_download(
        self,
        repository: str,
        *,
        revision: str | None,
        allow_patterns: list[str],
        local_files_only: bool = False,
    ) -> str:
        self.calls.append((repository, revision, local_files_only))
        self.patterns.append(allow_patterns)
        if local_files_only:
            if repository not in self.cached:
                raise errors.LocalEntryNotFoundError("not cached")
            return self.cached[repository]
        self.on_download()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def make_snapshot(self, name: str = "tiny") -> str:
        folder = self.folder / COMMIT
        shutil.copytree(GOLDEN / name, folder)
        return str(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "snapshots")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/cache/hub")
    return hub


class TestLocal:
    def test_embedded_model(self, hub: Hub) -> None:
        nano = resolve_model("nano")
        assert (nano.label, nano.revision) == ("nano", NANO_REVISION)
        assert resolve_model("nano", NANO_REVISION) == nano
        assert nano.read_traits().channels == 128
        assert "latent_sensitivity" in nano.read_settings()
        assert hub.calls == []

    def test_folder(self, hub: Hub) -> None:
        tiny = resolve_model(str(GOLDEN / "tiny"))
        assert tiny == DinacModel(GOLDEN / "tiny", "tiny", "")
        assert tiny.read_config().bottleneck_dim == 8
        assert hub.calls == []

    def test_file(self) -> None:
        model = resolve_model(str(GOLDEN / "tiny/model.safetensors"))
        assert model.label == "model.safetensors"
        assert model.identify() == resolve_model(str(GOLDEN / "tiny")).identify()

    def test_model_in_the_current_folder_is_named_after_the_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(GOLDEN / "tiny")
        assert resolve_model(".").label == "tiny"

    def test_home_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(GOLDEN))
        assert resolve_model("~/tiny").path == GOLDEN / "tiny"

    def test_local_folder_wins_over_a_repository(
        self, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(GOLDEN / "tiny", tmp_path / "owner/model")
        monkeypatch.chdir(tmp_path)
        assert resolve_model("owner/model").label == "model"
        assert hub.calls == []

    def test_alias_wins_over_a_local_folder(
        self, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "d2").mkdir()
        (tmp_path / "nano").mkdir()
        monkeypatch.chdir(tmp_path)
        hub.cached[D2] = hub.make_snapshot()
        assert resolve_model("d2").label == D2
        assert resolve_model("nano").revision == NANO_REVISION

    @pytest.mark.parametrize(
        "source",
        ["", "d3", "a/b/c/d", "../gone", "/gone/model", "owner/", "owner/model.safetensors"],
    )
    def test_unknown_source_is_refused(self, hub: Hub, source: str) -> None:
        with pytest.raises(UsageError) as caught:
            resolve_model(source)
        assert str(caught.value) == (
            f"--model {source}: no such file or folder, and neither an alias "
            "(nano, d2, dinac-ae, flux2, semdisdiffae, semdisdiffae-p32) "
            "nor a Hub repository (owner/name, or owner/name/folder)"
        )
        assert hub.calls == []

    @pytest.mark.parametrize("source", ["nano", str(GOLDEN / "tiny")])
    def test_revision_is_for_repositories(self, source: str) -> None:
        with pytest.raises(UsageError, match=r"^--revision main: .* is not a Hub repository; omit"):
            resolve_model(source, "main")


class TestCached:
    @pytest.mark.parametrize("source", ["d2", D2])
    def test_cached_model_is_used_silently(self, hub: Hub, source: str) -> None:
        hub.cached[D2] = hub.make_snapshot()
        said: list[str] = []
        model = resolve_model(source, announce=said.append)
        assert model == DinacModel(hub.folder / COMMIT, D2, COMMIT)
        assert hub.calls == [(D2, None, True)]
        assert said == []

    def test_revision_is_looked_up(self, hub: Hub) -> None:
        hub.cached[D2] = hub.make_snapshot()
        resolve_model("d2", "v1")
        assert hub.calls == [(D2, "v1", True)]

    @pytest.mark.parametrize("missing", ["*.safetensors", "config.json"])
    def test_incomplete_download_is_completed(self, hub: Hub, missing: str) -> None:
        hub.cached[D2] = hub.make_snapshot()
        for path in (hub.folder / COMMIT).glob(missing):
            path.unlink()
        assert find_cached(D2) is None

        def complete() -> None:
            shutil.rmtree(hub.folder)
            hub.answer = hub.make_snapshot()

        hub.on_download = complete
        assert resolve_model("d2") == DinacModel(hub.folder / COMMIT, D2, COMMIT)
        assert [local for _, _, local in hub.calls] == [True, True, False, False]
        assert hub.patterns[-2:] == [SMALL_FILES, [*SMALL_FILES, "*.safetensors"]]
        assert find_cached(D2) is not None

    @pytest.mark.parametrize("missing", ["*.safetensors", "config.json"])
    def test_incomplete_download_is_never_used(self, hub: Hub, missing: str) -> None:
        """If the Hub is unreachable, the client returns an incomplete folder."""
        hub.cached[D2] = hub.answer = hub.make_snapshot()
        for path in (hub.folder / COMMIT).glob(missing):
            path.unlink()
        space = resolve_model(str(GOLDEN / "tiny")).identify().latent_space
        assert find_model(space) is None
        with pytest.raises(ModelError) as caught:
            resolve_model("d2")
        assert str(caught.value) == (
            f"model {D2} (revision main) has no config.json or no .safetensors file in "
            f"{hub.folder / COMMIT}; if its download was interrupted, go online and retry. "
            "Otherwise, name a DINAC-AE repository, or the folder of a FLUX.2 VAE (owner/name/vae)"
        )

    def test_link_to_a_missing_blob_is_an_incomplete_download(self, hub: Hub) -> None:
        hub.cached[D2] = hub.make_snapshot()
        (hub.folder / COMMIT / "cases.safetensors").unlink()
        weights = hub.folder / COMMIT / "model.safetensors"
        weights.rename(hub.folder / "moved")
        weights.symlink_to(hub.folder / "blob")
        assert find_cached(D2) is None

    def test_cache_layout_of_the_real_client(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        assert find_cached(D2) is None
        folder = tmp_path / "models--data-archetype--dinac_ae_d2"
        shutil.copytree(GOLDEN / "tiny", folder / "snapshots" / COMMIT)
        (folder / "refs").mkdir()
        (folder / "refs/main").write_text(COMMIT)
        expected = DinacModel(folder / "snapshots" / COMMIT, D2, COMMIT)
        assert find_cached(D2) == find_cached(D2, "main") == find_cached(D2, COMMIT) == expected
        assert find_cached(D2, "other") is None
        assert find_cached("data-archetype/dinac_ae") is None
        (folder / "blobs").mkdir()
        weights = folder / "snapshots" / COMMIT / "model.safetensors"
        weights.rename(folder / "blobs/0123.incomplete")
        assert (weights.parent / "cases.safetensors").exists()  # must not replace the weights
        assert find_cached(D2) is None


class TestDownload:
    def test_download_is_announced(self, hub: Hub) -> None:
        hub.answer = hub.make_snapshot()
        said: list[str] = []
        model = resolve_model("d2", announce=said.append)
        assert model == DinacModel(hub.folder / COMMIT, D2, COMMIT)
        assert said == [f"downloading {D2} (revision main) into /cache/hub"]

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (
                errors.LocalEntryNotFoundError("cannot find\nan appropriate snapshot"),
                f"the Hub is unreachable; go online once, or {INSTEAD}",
            ),
            (
                http_error(errors.GatedRepoError),
                "the repository is gated; accept its terms on its page, then log in",
            ),
            (
                http_error(errors.RepositoryNotFoundError),
                "the Hub has no such repository, or it is private; check the name, or log in",
            ),
            (
                http_error(errors.RevisionNotFoundError),
                "the repository has no such revision; check --revision",
            ),
            (
                http_error(errors.HfHubHTTPError, "500 Server Error\n\n<html>", 500),
                f"the Hub answered with status 500; try later, or {INSTEAD}",
            ),
            (
                OSError(28, "No space left on device"),
                f"No space left on device; try again, or {INSTEAD}",
            ),
            (
                RuntimeError(),
                f"the download failed; try again, or {INSTEAD}",
            ),
        ],
    )
    def test_failed_download_is_one_line(self, hub: Hub, error: Exception, reason: str) -> None:
        hub.answer = error
        with pytest.raises(ModelError) as caught:
            resolve_model("d2", "v2")
        assert str(caught.value) == (
            f"model {D2} (revision v2) is not cached in /cache/hub and cannot be downloaded: "
            f"{reason}"
        )
        assert caught.value.__cause__ is error
        assert caught.value.details == (quote_error(error),)

    def test_offline_with_an_empty_cache(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The real client refuses here, and sends nothing."""
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(ModelError) as caught:
            resolve_model("d2")
        assert str(caught.value) == (
            f"model {D2} (revision main) is not cached in {tmp_path} and cannot be downloaded: "
            f"HF_HUB_OFFLINE is set; unset it once to download, or {INSTEAD}"
        )

    def test_interruption_is_not_a_failed_download(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*args: object, local_files_only: bool = False, **options: object) -> str:
            if local_files_only:
                raise errors.LocalEntryNotFoundError("not cached")
            raise KeyboardInterrupt

        monkeypatch.setattr(huggingface_hub, "snapshot_download", interrupt)
        with pytest.raises(KeyboardInterrupt):
            resolve_model("d2")


def write_config(folder: Path, name: str = "") -> Path:
    """Writes the configuration of a FLUX.2 VAE into a snapshot, or a folder in it."""
    place = folder / COMMIT / name
    place.mkdir(parents=True)
    (place / "config.json").write_text('{"_class_name": "AutoencoderKLFlux2"}')
    return place


class TestFlux2:
    """The configuration decides which weights are downloaded."""

    WEIGHTS = "diffusion_pytorch_model.safetensors"

    def test_alias_downloads_one_weights_file(self, hub: Hub) -> None:
        place = write_config(hub.folder)
        hub.answer = str(place)
        hub.on_download = lambda: (place / self.WEIGHTS).touch()
        found = resolve_model("flux2")
        assert found == Flux2Model(place, HUB_ALIASES["flux2"], COMMIT)
        assert found.is_public
        assert hub.patterns[1:] == [SMALL_FILES, [*SMALL_FILES, self.WEIGHTS]]

    def test_folder_of_a_repository(self, hub: Hub) -> None:
        place = write_config(hub.folder, "vae")
        hub.answer = str(hub.folder / COMMIT)
        hub.on_download = lambda: (place / self.WEIGHTS).touch()
        said: list[str] = []
        found = resolve_model("owner/pipeline/vae", "v1", announce=said.append)
        assert found == Flux2Model(place, "owner/pipeline/vae", COMMIT)
        assert not found.is_public
        assert said == ["downloading owner/pipeline/vae (revision v1) into /cache/hub"]
        small = ["vae/config.json", "README.md"]
        assert hub.patterns[1:] == [small, [*small, f"vae/{self.WEIGHTS}"]]
        assert {(repository, revision) for repository, revision, _ in hub.calls} == {
            ("owner/pipeline", "v1")
        }
        hub.cached["owner/pipeline"] = hub.answer
        (hub.folder / "blobs").mkdir()
        (hub.folder / "blobs/transformer.incomplete").touch()  # another interrupted download
        assert find_cached("owner/pipeline/vae") == found
        (place / self.WEIGHTS).unlink()
        assert find_cached("owner/pipeline/vae") is None

    def test_pipeline_without_a_folder_downloads_no_weights(self, hub: Hub) -> None:
        write_config(hub.folder, "vae")
        hub.answer = str(hub.folder / COMMIT)
        with pytest.raises(ModelError, match=r"or the folder of a FLUX\.2 VAE \(owner/name/vae\)$"):
            resolve_model("owner/pipeline")
        assert hub.patterns[1:] == [SMALL_FILES]

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (http_error(errors.GatedRepoError), "the repository is gated; accept its terms"),
            (errors.LocalEntryNotFoundError("offline"), "the Hub is unreachable; go online once"),
        ],
    )
    def test_failed_download_is_one_line(self, hub: Hub, error: Exception, reason: str) -> None:
        hub.answer = error
        with pytest.raises(ModelError) as caught:
            resolve_model("black-forest-labs/FLUX.2-dev/vae")
        assert str(caught.value).startswith(
            "model black-forest-labs/FLUX.2-dev/vae (revision main) is not cached in /cache/hub "
            f"and cannot be downloaded: {reason}"
        )
        assert "\n" not in str(caught.value)


class TestFindModel:
    def test_embedded_model_is_found_without_the_client(self, hub: Hub) -> None:
        found = find_model(resolve_model("nano").identify().latent_space)
        assert found is not None
        assert found.label == NANO
        assert hub.calls == []

    def test_cached_model_is_found(self, hub: Hub) -> None:
        hub.cached[HUB_ALIASES["dinac-ae"]] = hub.make_snapshot()
        space = resolve_model(str(GOLDEN / "tiny")).identify().latent_space
        found = find_model(space)
        assert found is not None
        assert found.label == HUB_ALIASES["dinac-ae"]
        assert all(local for _, _, local in hub.calls)

    def test_unknown_model_is_never_downloaded(self, hub: Hub) -> None:
        assert find_model("0" * 16) is None
        assert [(repository, local) for repository, _, local in hub.calls] == [
            (repository, True) for repository in HUB_ALIASES.values()
        ]

    def test_damaged_cache_entry_is_skipped(self, hub: Hub) -> None:
        hub.cached[D2] = hub.make_snapshot()
        weights = hub.folder / COMMIT / "model.safetensors"
        weights.chmod(0o644)
        weights.write_bytes(b"text")
        hub.cached[HUB_ALIASES["dinac-ae"]] = str(GOLDEN / "pair")
        space = resolve_model(str(GOLDEN / "pair/model.safetensors")).identify().latent_space
        found = find_model(space)
        assert found is not None
        assert found.label == HUB_ALIASES["dinac-ae"]


class TestDefault:
    @pytest.fixture
    def nodes(self, monkeypatch: pytest.MonkeyPatch) -> set[str]:
        """The device files that exist: none at first."""
        nodes: set[str] = set()
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(os.path, "exists", lambda path: path in nodes)
        return nodes

    @pytest.fixture
    def no_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes an import of torch fail."""
        monkeypatch.delitem(sys.modules, "dinac_cli.models.device", raising=False)
        monkeypatch.setitem(sys.modules, "torch", None)

    @pytest.mark.usefixtures("no_torch")
    def test_without_a_gpu_torch_is_not_imported(self, nodes: set[str]) -> None:
        assert choose_default("auto") == "nano"
        nodes.add("/dev/nvidiactl")
        assert choose_default("cpu") == "nano"
        with pytest.raises(ImportError):
            choose_default("auto")

    @pytest.mark.parametrize(
        ("cuda", "mps", "device", "model"),
        [
            (0, False, "auto", "nano"),
            (1, False, "auto", "d2"),
            (0, True, "auto", "d2"),
            (1, False, "cuda:0", "d2"),
            (1, True, "mps", "d2"),
        ],
    )
    def test_with_a_gpu_torch_decides(
        self,
        nodes: set[str],
        cuda: int,
        mps: bool,
        device: str,
        model: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        nodes.add("/dev/kfd")
        monkeypatch.setattr("torch.cuda.device_count", lambda: cuda)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
        assert choose_default(device) == model

    @pytest.mark.usefixtures("no_torch")
    @pytest.mark.parametrize(("machine", "has_gpu"), [("arm64", True), ("x86_64", False)])
    def test_a_mac_has_a_gpu_if_its_chip_is_from_apple(
        self, nodes: set[str], machine: str, has_gpu: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr("platform.machine", lambda: machine)
        assert may_use_gpu("auto") is has_gpu

    @pytest.mark.usefixtures("no_torch")
    def test_windows_has_a_gpu_if_it_has_the_driver(
        self, nodes: set[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setenv("SYSTEMROOT", "W:")
        assert choose_default("auto") == "nano"
        assert not may_use_gpu("auto")
        nodes.add(os.path.join("W:", r"System32\nvcuda.dll"))
        assert may_use_gpu("auto")
        assert may_use_gpu("cuda:1")
        assert not may_use_gpu("cpu")
