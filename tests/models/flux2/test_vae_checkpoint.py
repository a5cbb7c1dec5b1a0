"""Checkpoints of FLUX.2 VAEs: recognised, checked, identified, and refused in one line."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dinac_cli import DinacAE
from dinac_cli.errors import ModelError
from dinac_cli.models.dinac.model import DinacModel
from dinac_cli.models.facts import summarise_model
from dinac_cli.models.families import open_checkpoint
from dinac_cli.models.flux2.family import Flux2Model
from dinac_cli.models.flux2.vae_config import Flux2Config, from_json, infer_config
from dinac_cli.models.identity import ModelIdentity
from dinac_cli.models.interface import DECODER, ENCODER

from ..conftest import GOLDEN
from .checkpoints import CONFIG, list_vae_shapes, make_vae

WEIGHTS = "diffusion_pytorch_model.safetensors"
SMALL_DECODER = (32, 32, 32, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS)


def identify(path: Path) -> ModelIdentity:
    return open_checkpoint(path, "x").identify()


def save(folder: Path, tensors: dict[str, Tensor], **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}), "utf-8")
    save_file({name: x.contiguous() for name, x in tensors.items()}, folder / WEIGHTS)
    return folder


class TestRecognition:
    def test_folder_and_file(self, folder: Path) -> None:
        for path in (folder, folder / WEIGHTS):
            model = open_checkpoint(path, "x", "y")
            assert model == Flux2Model(path, "x", "y")
            traits = model.read_traits()
            assert (traits.patch, traits.channels) == (16, 128)
            assert traits.parts == {ENCODER, DECODER}
            assert (traits.has_posterior, traits.has_steps, traits.can_compile) == (False,) * 3
            assert traits.feature_dim is None

    def test_file_without_config_has_inferred_sizes(self, tmp_path: Path, folder: Path) -> None:
        bare = tmp_path / "vae.safetensors"
        bare.symlink_to(folder / WEIGHTS)
        model = open_checkpoint(bare, "x")
        assert isinstance(model, Flux2Model)
        assert model.read_config() == from_json(CONFIG)
        assert model.identify() == identify(folder)

    def test_folder_without_config(self, tmp_path: Path, folder: Path) -> None:
        (tmp_path / WEIGHTS).symlink_to(folder / WEIGHTS)
        assert identify(tmp_path) == identify(folder)

    def test_config_of_another_model_beside_a_file_is_ignored(
        self, tmp_path: Path, folder: Path
    ) -> None:
        (tmp_path / "config.json").symlink_to(GOLDEN / "tiny/config.json")
        (tmp_path / "vae.safetensors").symlink_to(folder / WEIGHTS)
        assert identify(tmp_path / "vae.safetensors") == identify(folder)

    def test_other_family_is_not_taken(self, tmp_path: Path) -> None:
        (tmp_path / "text.safetensors").write_text("text")
        for path in (
            GOLDEN / "tiny",
            GOLDEN / "tiny/model.safetensors",
            tmp_path,
            tmp_path / "text.safetensors",
            tmp_path / "absent",
        ):
            assert isinstance(open_checkpoint(path, "x"), DinacModel)

    def test_it_is_no_dinac(self, folder: Path) -> None:
        """So it cannot be trained either."""
        for source in (folder, str(folder)):
            with pytest.raises(ModelError, match=r"is no DINAC-AE; name one, such as nano or d2"):
                DinacAE.from_pretrained(source)

    def test_dinac_folder_is_known_by_its_config_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise AssertionError("the header was read")

        monkeypatch.setattr("dinac_cli.models.flux2.vae_files.read_tensor_table", fail)
        assert not Flux2Model.recognises(GOLDEN / "tiny")

    def test_pipeline_names_its_folder(self, tmp_path: Path, folder: Path) -> None:
        (tmp_path / "vae").symlink_to(folder)
        model = open_checkpoint(tmp_path, "x")
        with pytest.raises(ModelError) as caught:
            model.read_traits()
        assert str(caught.value) == (
            f"{tmp_path} holds a whole pipeline; name its VAE: {tmp_path / 'vae'}"
        )

    def test_original_names_are_refused(self, tmp_path: Path) -> None:
        names = ["encoder.conv_in.weight", "decoder.conv_in.weight", "bn.running_mean"]
        names += ["encoder.mid.block_1.conv1.weight", "encoder.quant_conv.weight"]
        path = tmp_path / "ae.safetensors"
        save_file({name: torch.zeros(1) for name in names}, path)
        for method in ("read_traits", "identify", "read_table"):
            with pytest.raises(ModelError) as caught:
                getattr(open_checkpoint(path, "x"), method)()
            assert str(caught.value) == (
                f"{path} has the tensor names of Black Forest Labs' own code; use the file "
                f"{WEIGHTS} of diffusers, such as that of --model flux2"
            )


class TestConfig:
    def test_published_values_are_the_defaults(self) -> None:
        widths = [128, 256, 512, 512]
        assert from_json({**CONFIG, "block_out_channels": widths}) == Flux2Config()
        assert Flux2Config().traits.patch == 16
        small = from_json({**CONFIG, "decoder_block_out_channels": [96, 192, 384, 384]})
        assert small.decoder_widths == (96, 192, 384, 384)

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("_class_name", "AutoencoderKL", "has no _class_name AutoencoderKLFlux2"),
            ("in_channels", 4, "in_channels is 4; only 3 is supported"),
            ("act_fn", "relu", "act_fn is 'relu'; only 'silu' is supported"),
            ("patch_size", [1, 1], "patch_size is [1, 1]; only [2, 2] is supported"),
            ("use_quant_conv", False, "use_quant_conv is False; only True is supported"),
            ("latent_channels", 10**9, "latent_channels is 1000000000; it must be an integer"),
            ("latent_channels", True, "latent_channels is True; it must be an integer"),
            ("layers_per_block", 10**6, "layers_per_block is 1000000; it must be"),
            ("norm_num_groups", 0, "norm_num_groups is 0; it must be"),
            ("batch_norm_eps", float("nan"), "batch_norm_eps is nan; it must be a number"),
            ("batch_norm_eps", "1e-4", "batch_norm_eps is '1e-4'; it must be a number"),
            ("block_out_channels", [32] * 99, "it must be a list of 2 to 6 widths"),
            ("block_out_channels", 32, "block_out_channels is 32; it must be a list"),
            ("block_out_channels", [32, 32, 64, 2**40], "holds 1099511627776; a width must be"),
            ("block_out_channels", [32, 32, 64, 70], "divisible by norm_num_groups 32"),
            ("block_out_channels", [32, [[]]], "holds a list; a width must be"),
            ("decoder_block_out_channels", [32, 32], "differ in length"),
            ("down_block_types", ["AttnDownBlock2D"] * 4, "4 times 'DownEncoderBlock2D'"),
            ("up_block_types", ["UpDecoderBlock2D"] * 3, "4 times 'UpDecoderBlock2D'"),
        ],
    )
    def test_other_values_are_refused(self, key: str, value: Any, words: str) -> None:
        with pytest.raises(ModelError) as caught:
            from_json({**CONFIG, key: value})
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("key", ["block_out_channels", "latent_channels"])
    def test_sizes_are_required(self, key: str) -> None:
        with pytest.raises(ModelError, match=f"{key} is missing; download"):
            from_json({name: value for name, value in CONFIG.items() if name != key})

    def test_sizes_are_inferred(self) -> None:
        shapes = list_vae_shapes((64, 96, 128), (32, 64, 96), latents=8, layers=1)
        assert infer_config(shapes) == Flux2Config(8, (64, 96, 128), (32, 64, 96), 1)
        del shapes["post_quant_conv.weight"]
        with pytest.raises(ModelError, match=r"tensor post_quant_conv\.weight is missing; put"):
            infer_config(shapes)

    def test_error_names_the_file(self, tmp_path: Path, tensors: dict[str, Tensor]) -> None:
        save(tmp_path, tensors, latent_channels=0)
        with pytest.raises(ModelError) as caught:
            identify(tmp_path)
        assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: the configuration's late")

    def test_memory_grows_with_the_widths(self) -> None:
        narrow = Flux2Config(decoder_block_out_channels=(96, 192, 384, 384))
        wide = Flux2Config(decoder_block_out_channels=(256, 256, 512, 512))
        sizes = [config.traits.token_bytes for config in (narrow, Flux2Config(), wide)]
        assert sizes == [256 * 4 * (floats + 12) for floats in (5 * 192, 5 * 256, 6 * 256)]


class TestHostile:
    """Refused before memory is taken, with one line."""

    def load(self, path: Path, words: str) -> None:
        pytest.importorskip("diffusers", reason="the extra flux2 is not installed")
        with pytest.raises(ModelError) as caught:
            open_checkpoint(path, "x").open((ENCODER,), torch.device("cpu"), torch.float32)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_missing_tensor(self, tmp_path: Path, tensors: dict[str, Tensor]) -> None:
        rest = {name: x for name, x in tensors.items() if name != "quant_conv.bias"}
        self.load(save(tmp_path, rest), "1 missing (quant_conv.bias)")

    def test_unknown_tensor(self, tmp_path: Path, tensors: dict[str, Tensor]) -> None:
        self.load(save(tmp_path, {**tensors, "more": torch.zeros(1)}), "1 unexpected (more)")

    def test_wrong_shape(self, tmp_path: Path, tensors: dict[str, Tensor]) -> None:
        wrong = {**tensors, "bn.running_var": torch.zeros(64)}
        self.load(save(tmp_path, wrong), "bn.running_var [64], not [128]")

    def test_wrong_type(self, tmp_path: Path, tensors: dict[str, Tensor]) -> None:
        wrong = {**tensors, "quant_conv.bias": tensors["quant_conv.bias"].half()}
        self.load(save(tmp_path, wrong), "quant_conv.bias F16, not F32 or BF16")

    def test_sizes_of_another_config(self, tmp_path: Path, tensors: dict[str, Tensor]) -> None:
        widths = [4096, 4096, 4096, 4096]
        self.load(save(tmp_path, tensors, block_out_channels=widths), "does not fit its config")

    def test_counter_may_be_missing_or_anything(
        self, tmp_path: Path, tensors: dict[str, Tensor], folder: Path
    ) -> None:
        rest = {name: x for name, x in tensors.items() if name != "bn.num_batches_tracked"}
        assert len(rest) == len(tensors) - 1
        assert identify(save(tmp_path / "a", rest)) == identify(folder)
        odd = {**rest, "bn.num_batches_tracked": torch.zeros(3, dtype=torch.float64)}
        assert identify(save(tmp_path / "b", odd)) == identify(folder)
        pytest.importorskip("diffusers", reason="the extra flux2 is not installed")
        for name in ("a", "b"):
            model = open_checkpoint(tmp_path / name, "x")
            model.open((ENCODER, DECODER), torch.device("cpu"), torch.float32)

    def test_pickle(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(CONFIG), "utf-8")
        pickle = tmp_path / "diffusion_pytorch_model.bin"
        pickle.write_bytes(b"\x80\x04.")
        with pytest.raises(ModelError, match="is a pickle file, and pickle is never loaded"):
            identify(tmp_path)
        pickle.unlink()
        with pytest.raises(ModelError, match=f"holds no {WEIGHTS}; name a folder"):
            identify(tmp_path)

    def test_truncated_file(self, tmp_path: Path, folder: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(CONFIG), "utf-8")
        (tmp_path / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-5])
        with pytest.raises(ModelError, match="it is truncated"):
            identify(tmp_path)

    def test_header_that_promises_terabytes(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(CONFIG), "utf-8")
        shape, end = [2**20, 2**20], 2**42
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}
        header = json.dumps({"encoder.conv_in.weight": entry}).encode()
        (tmp_path / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)
        with pytest.raises(ModelError, match="it is truncated"):
            identify(tmp_path)

    def test_two_files(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(CONFIG), "utf-8")
        for name in "ab":
            (tmp_path / f"{name}.safetensors").touch()
        with pytest.raises(ModelError, match=r"2 weights files \(a.safetensors, b.safetensors\)"):
            identify(tmp_path)


class TestIdentity:
    def test_bfloat16_copy_is_the_same_model(self, tmp_path: Path, folder: Path) -> None:
        assert identify(make_vae(tmp_path, dtype=torch.bfloat16)) == identify(folder)

    def test_statistics_count_in_float32(
        self, tmp_path: Path, tensors: dict[str, Tensor], folder: Path
    ) -> None:
        rounded = tensors["bn.running_var"].bfloat16()
        other = identify(save(tmp_path, {**tensors, "bn.running_var": rounded}))
        assert other.latent_space != identify(folder).latent_space

    def test_small_decoder_has_the_latent_space_of_the_full_one(
        self, tmp_path: Path, folder: Path
    ) -> None:
        small, full = identify(make_vae(tmp_path, decoder_widths=SMALL_DECODER)), identify(folder)
        assert small.latent_space == full.latent_space
        assert small.weights != full.weights

    @pytest.mark.parametrize(
        ("name", "is_space"),
        [
            ("encoder.conv_out.bias", True),
            ("quant_conv.weight", True),
            ("bn.running_mean", True),
            ("post_quant_conv.weight", False),
            ("decoder.conv_out.bias", False),
        ],
    )
    def test_what_the_latent_space_covers(
        self, tmp_path: Path, tensors: dict[str, Tensor], folder: Path, name: str, is_space: bool
    ) -> None:
        changed = identify(save(tmp_path, {**tensors, name: tensors[name] + 1}))
        assert changed.weights != identify(folder).weights
        assert (changed.latent_space != identify(folder).latent_space) is is_space

    @pytest.mark.parametrize(("key", "value"), [("batch_norm_eps", 1e-5), ("norm_num_groups", 16)])
    def test_constants_count(
        self, tmp_path: Path, tensors: dict[str, Tensor], folder: Path, key: str, value: float
    ) -> None:
        changed = identify(save(tmp_path, tensors, **{key: value}))
        assert changed.latent_space != identify(folder).latent_space
        assert changed.weights != identify(folder).weights

    def test_facts(self, folder: Path) -> None:
        facts = summarise_model(open_checkpoint(folder, "x"))
        assert (facts.patch, facts.channels, facts.stored) == (16, 128, "float32")
        assert facts.float32_parameters == 0
        shapes = {n: torch.Size(s).numel() for n, s in list_vae_shapes().items() if n[:3] != "bn."}
        assert facts.parameter_count == sum(shapes.values())
        assert facts.parameters.keys() == {ENCODER, DECODER}
