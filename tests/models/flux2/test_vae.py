"""The FLUX.2 VAE computes what diffusers' own model and pipeline compute."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dinac_cli.errors import ModelError, UsageError
from dinac_cli.models.flux2.family import Flux2Model
from dinac_cli.models.flux2.vae import Flux2VAE, build_on_meta
from dinac_cli.models.flux2.vae_config import Flux2Config
from dinac_cli.models.interface import DECODER, ENCODER, DinacAEInferenceConfig
from dinac_cli.models.pixel_scaling import scale_pixels

from .checkpoints import list_vae_shapes, make_vae

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("diffusers") is None, reason="the extra flux2 is not installed"
)

CPU = torch.device("cpu")
TOLERANCE = 1e-5
BFLOAT16_FACTOR = 1.2
MOST_BFLOAT16_ERROR = 0.05
KERNEL_BYTES = 16 << 20
"""What the code of the kernels may take, which torch generates for each shape."""
SETTINGS = DinacAEInferenceConfig()
SMALL_DECODER = (96, 192, 384, 384)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vae(tmp_path_factory.mktemp("vae"))


def load(folder: Path, dtype: torch.dtype, parts: tuple[str, ...] = (ENCODER, DECODER)) -> Flux2VAE:
    return Flux2Model(folder, "flux2").open(parts, CPU, dtype)


@pytest.fixture(scope="module")
def float32(folder: Path) -> Flux2VAE:
    return load(folder, torch.float32)


@pytest.fixture(scope="module")
def bfloat16(folder: Path) -> Flux2VAE:
    return load(folder, torch.bfloat16)


@pytest.fixture(scope="module")
def library(folder: Path) -> Any:
    """The same checkpoint, as diffusers itself loads it."""
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2.from_pretrained(folder, low_cpu_mem_usage=False).eval()


@pytest.fixture(scope="module")
def pipeline() -> Any:
    """The functions of `Flux2Pipeline`, taken from its source: its import needs transformers."""
    spec = importlib.util.find_spec("diffusers")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0], "pipelines/flux2/pipeline_flux2.py")
    tree = ast.parse(path.read_text("utf-8"))
    [whole] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Flux2Pipeline"]
    methods = {n.name: n for n in whole.body if isinstance(n, ast.FunctionDef)}
    names = ("_patchify_latents", "_unpatchify_latents", "_encode_vae_image")
    wanted = [methods[name] for name in names]
    wanted += [
        n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "retrieve_latents"
    ]
    lines = [
        node
        for node in ast.walk(methods["__call__"])
        if isinstance(node, ast.Assign) and "latents_bn_" in ast.unparse(node)
    ]
    assert len(lines) == 3
    dewhiten = ast.parse("def dewhiten(self, latents):\n    return latents").body[0]
    assert isinstance(dewhiten, ast.FunctionDef)
    dewhiten.body[:0] = lines
    space: dict[str, Any] = {"torch": torch}
    for function in (*wanted, dewhiten):
        function.decorator_list = []
        module = ast.fix_missing_locations(ast.Module([function], []))
        exec(compile(module, str(path), "exec"), space)
    return SimpleNamespace(**space)


def draw_pixels(count: int = 1, seed: int = 0) -> Tensor:
    """Draws smooth images, uint8 [B, 48, 80, 3]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 10, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
    return (smooth * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def relative_error(result: Tensor, reference: Tensor) -> float:
    assert result.shape == reference.shape
    return float((result.float() - reference.float()).norm() / reference.float().norm())


def encode_with_pipeline(pipeline: Any, library: Any, images: Tensor) -> Tensor:
    holder = SimpleNamespace(vae=library, _patchify_latents=pipeline._patchify_latents)
    latents: Tensor = pipeline._encode_vae_image(holder, images, None)
    return latents


def decode_with_pipeline(pipeline: Any, library: Any, latents: Tensor) -> Tensor:
    raw = pipeline.dewhiten(SimpleNamespace(vae=library), latents)
    decoded: Tensor = library.decode(pipeline._unpatchify_latents(raw), return_dict=False)[0]
    return decoded


@torch.inference_mode()
def test_latents_are_those_of_the_pipeline(float32: Flux2VAE, library: Any, pipeline: Any) -> None:
    pixels = draw_pixels()
    [latents] = float32.encode_batch(pixels)
    assert (latents.shape, latents.dtype) == ((1, 128, 3, 5), torch.float32)
    assert latents.is_contiguous()
    reference = encode_with_pipeline(pipeline, library, scale_pixels(pixels))
    torch.testing.assert_close(latents, reference, rtol=TOLERANCE, atol=TOLERANCE)
    mode = library.encode(scale_pixels(pixels)).latent_dist.mode()
    raw = float32.dewhiten(latents)
    patched = pipeline._patchify_latents(mode)
    torch.testing.assert_close(raw, patched, rtol=TOLERANCE, atol=TOLERANCE)


@torch.inference_mode()
def test_images_are_those_of_the_pipeline(float32: Flux2VAE, library: Any, pipeline: Any) -> None:
    latents = torch.randn(1, 128, 3, 5, generator=torch.Generator().manual_seed(1))
    images = float32.decode(latents)
    reference = decode_with_pipeline(pipeline, library, latents)
    torch.testing.assert_close(images, reference, rtol=TOLERANCE, atol=TOLERANCE)
    pixels = float32.decode_batch(latents, SETTINGS)
    expected = (reference.clamp(-1, 1).double() + 1) * 127.5
    assert (pixels.shape, pixels.dtype) == ((1, 48, 80, 3), torch.uint8)
    assert pixels.is_contiguous()
    assert float((pixels - expected.permute(0, 2, 3, 1)).abs().max()) < 0.51
    assert int(pixels.max()) - int(pixels.min()) > 50  # not one colour, which would prove nothing


@torch.inference_mode()
def test_whitening_is_a_batch_norm(float32: Flux2VAE, library: Any) -> None:
    raw = torch.randn(1, 128, 2, 2, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(float32.whiten(raw), library.bn(raw), rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(float32.dewhiten(float32.whiten(raw)), raw, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_decoder_ignores_the_settings(float32: Flux2VAE) -> None:
    [latents] = float32.encode_batch(draw_pixels())
    other = DinacAEInferenceConfig(num_steps=7, pdg=True, seed=3)
    assert torch.equal(
        float32.decode_batch(latents, SETTINGS), float32.decode_batch(latents, other)
    )


@torch.inference_mode()
def test_bfloat16_error_is_at_most_that_of_the_pipeline(
    float32: Flux2VAE, bfloat16: Flux2VAE, folder: Path, pipeline: Any
) -> None:
    """The pipeline casts the statistics to bfloat16, too; we keep them in float32."""
    from diffusers import AutoencoderKLFlux2

    half = AutoencoderKLFlux2.from_pretrained(
        folder, low_cpu_mem_usage=False, torch_dtype=torch.bfloat16
    ).eval()
    pixels = draw_pixels(2, seed=4)
    [exact] = float32.encode_batch(pixels)
    [latents] = bfloat16.encode_batch(pixels)
    assert latents.dtype == torch.float32
    theirs = encode_with_pipeline(pipeline, half, scale_pixels(pixels).bfloat16())
    ours_error, their_error = relative_error(latents, exact), relative_error(theirs, exact)
    assert 0 < ours_error <= min(BFLOAT16_FACTOR * their_error, MOST_BFLOAT16_ERROR)
    images = float32.decode(exact)
    ours_error = relative_error(bfloat16.decode(exact), images)
    theirs = decode_with_pipeline(pipeline, half, exact.bfloat16())
    assert (
        0 < ours_error <= min(BFLOAT16_FACTOR * relative_error(theirs, images), MOST_BFLOAT16_ERROR)
    )


@torch.inference_mode()
def test_bfloat16_reconstructs_like_float32(float32: Flux2VAE, bfloat16: Flux2VAE) -> None:
    pixels = draw_pixels(2, seed=5)
    exact, rounded = (
        model.decode_batch(model.encode_batch(pixels)[0], SETTINGS).float()
        for model in (float32, bfloat16)
    )
    mean_square = float((exact - rounded).square().mean())
    assert 0 < mean_square < 255**2 / 10**3  # a PSNR of more than 30 dB


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_results_do_not_depend_on_the_batch(
    dtype: torch.dtype, float32: Flux2VAE, bfloat16: Flux2VAE
) -> None:
    model = float32 if dtype == torch.float32 else bfloat16
    pixels, others = draw_pixels(1, seed=6), draw_pixels(3, seed=7)
    [alone] = model.encode_batch(pixels)
    decoded = model.decode_batch(alone, SETTINGS)
    [strange] = model.encode_batch(others)
    for place in range(3):
        batch, latents = others.clone(), strange.clone()
        batch[place], latents[place] = pixels[0], alone[0]
        assert torch.equal(model.encode_batch(batch)[0][place], alone[0])
        assert torch.equal(model.decode_batch(latents, SETTINGS)[place], decoded[0])


def test_parts_are_loaded_separately(folder: Path) -> None:
    encoder, decoder = (load(folder, torch.float32, (part,)) for part in (ENCODER, DECODER))
    with torch.inference_mode():
        [latents] = encoder.encode_batch(draw_pixels())
        whole = load(folder, torch.float32)
        assert torch.equal(whole.encode_batch(draw_pixels())[0], latents)
        assert torch.equal(
            decoder.decode_batch(latents, SETTINGS), whole.decode_batch(latents, SETTINGS)
        )
    assert encoder._module.decoder is None
    assert decoder._module.encoder is None
    assert not any(p.requires_grad for p in decoder._module.parameters())


def test_only_statistics_stay_float32(bfloat16: Flux2VAE) -> None:
    state = bfloat16._module.state_dict()
    kept = {name for name, tensor in state.items() if tensor.dtype == torch.float32}
    assert kept == {"bn.running_mean", "bn.running_var"}
    assert (bfloat16.dtype, bfloat16.device, bfloat16.is_compiled) == (torch.bfloat16, CPU, False)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (Flux2Config(), 84_046_115),
        (Flux2Config(decoder_block_out_channels=SMALL_DECODER), 62_373_091),
    ],
)
def test_published_sizes(config: Flux2Config, count: int) -> None:
    module = build_on_meta(config, "this test")
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert len(shapes) == 251
    assert shapes.pop("bn.num_batches_tracked") == ()
    wanted = list_vae_shapes(config.block_out_channels, config.decoder_block_out_channels)
    assert shapes == wanted
    parts = {
        name: sum(parameter.numel() for parameter in child.parameters())
        for name, child in module.named_children()
    }
    assert sum(parts.values()) == count
    assert parts["encoder"] == 34_421_696
    assert (parts["quant_conv"], parts["post_quant_conv"], parts["bn"]) == (4_160, 1_056, 0)


def test_companions_and_features_are_refused(float32: Flux2VAE) -> None:
    for options in ({"logsnr": True}, {"class_token": True}):
        with pytest.raises(ModelError, match="neither a log-SNR nor a class token"):
            float32.encode_batch(draw_pixels(), **options)
    with pytest.raises(ModelError, match="no class head"):
        float32.predict_batch(torch.zeros(1, 128, 1, 1), spatial=False)


def test_compilation_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="model x cannot be compiled"):
        Flux2Model(folder, "x").open((ENCODER,), CPU, torch.float32, compiled=True)


def test_only_way_to_compute_on_a_gpu(folder: Path) -> None:
    model = Flux2Model(folder, "x")
    assert model.choose_step(torch.device("cuda"), torch.bfloat16) is None


_MEASURE = """
import sys, torch
from pathlib import Path
from dinac_cli.models.flux2.family import Flux2Model
from dinac_cli.models.interface import DinacAEInferenceConfig
torch.set_num_threads(1)
model = Flux2Model(Path(sys.argv[1]), "x").open(
    ("encoder", "decoder"), torch.device("cpu"), torch.float32)
def encode(side):
    model.encode_batch(torch.zeros(1, side, side, 3, dtype=torch.uint8))
def decode(side):
    grid = torch.randn(1, model.traits.channels, side // 16, side // 16)
    model.decode_batch(grid, DinacAEInferenceConfig())
def read(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))
with torch.inference_mode():
    encode(64)
    decode(64)
    for run in (encode, decode):
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest value
        before = read("VmRSS")
        run(320)
        print(read("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory as Linux shows it")
def test_token_bytes_bound_the_peak(folder: Path) -> None:
    traits = Flux2Model(folder, "x").read_traits()
    command = [sys.executable, "-c", _MEASURE, str(folder)]
    # With this variable, the C library gives freed memory back at once.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    encoded, decoded = map(int, done.stdout.split())
    predicted = traits.token_bytes * (320 // traits.patch) ** 2
    assert 0 < encoded <= predicted + KERNEL_BYTES
    assert 0.4 * predicted < decoded <= predicted + KERNEL_BYTES
