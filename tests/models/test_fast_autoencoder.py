"""The fast network computes what the plain one computes, for fresh inputs at full width."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.fast import autoencoder as fast_autoencoder
from dinac_cli.models.dinac.fast import decoder as fast_decoder
from dinac_cli.models.dinac.fast import torch_operations
from dinac_cli.models.dinac.fast.autoencoder import FastDinacAE, accelerate
from dinac_cli.models.dinac.fast.compilation import compile_for_sizes
from dinac_cli.models.dinac.fast.decoder import allows_tf32
from dinac_cli.models.dinac.fast.layers import allow_tf32
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.interface import DinacAEInferenceConfig
from dinac_cli.models.pixel_scaling import round_images, scale_pixels

from .test_golden import BFLOAT16_FACTOR, FLOAT32_TOLERANCE, relative_error

# As wide as the published network, with as few blocks as cover every kind.
WIDE = DinacAEConfig(
    encoder_depth=2,
    decoder_depth=3,
    decoder_start_blocks=1,
    decoder_end_blocks=1,
).without_class_head()
# The smallest network with every kind of block: torch's compiler and Triton's interpreter are slow.
SMALL = DinacAEConfig(
    model_dim=64,
    encoder_depth=1,
    decoder_depth=3,
    decoder_start_blocks=1,
    decoder_end_blocks=1,
    bottleneck_dim=8,
    mlp_ratio=2.0,
    adaln_low_rank_rank=8,
).without_class_head()
SETTINGS = [
    DinacAEInferenceConfig(seed=3),
    DinacAEInferenceConfig(seed=3, num_steps=3, pdg=True),
    DinacAEInferenceConfig(seed=3, num_steps=2, sampler="dpmpp_2m", strength=0.6),
]
# The number of times decides how torch's vector code splits them; several steps, with guidance.
PIXEL_SETTINGS = [
    *SETTINGS,
    DinacAEInferenceConfig(seed=3, num_steps=9, schedule="cosine"),
    DinacAEInferenceConfig(seed=3, num_steps=2, pdg=True, strength=0.8),
]
SIZES = [(16, 16), (80, 144)]


def draw_network(config: DinacAEConfig, dtype: torch.dtype = torch.float32) -> DinacAE:
    """Draws random weights so that every part affects the result; the same for each type."""
    torch.manual_seed(11)
    model = DinacAE(config, parts={"encoder", "decoder"}).eval().requires_grad_(False)
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if name.endswith(("gamma", "beta", "_mean", "path_drop_mask_feature")):
            tensor.normal_(0, 0.5)
        elif "adaln" in name or ("norm" in name and "_impl" in name):
            tensor.add_(torch.randn_like(tensor) * 0.05)
    if dtype == torch.bfloat16:
        for module in model.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                module.to(dtype)
    return model


def draw_images(count: int, height: int, width: int) -> Tensor:
    """Draws uniform noise from the global generator."""
    return torch.rand(count, 3, height, width) * 2 - 1


def draw_pixels(count: int, height: int, width: int) -> Tensor:
    return torch.randint(256, (count, height, width, 3), dtype=torch.uint8)


@pytest.fixture(scope="module")
def wide() -> DinacAE:
    return draw_network(WIDE)


@pytest.fixture(scope="module")
def wide_bfloat16() -> DinacAE:
    return draw_network(WIDE, torch.bfloat16)


@pytest.fixture(scope="module")
def small() -> DinacAE:
    return draw_network(SMALL)


@pytest.fixture(scope="module")
def small_bfloat16() -> DinacAE:
    return draw_network(SMALL, torch.bfloat16)


@pytest.mark.parametrize(("height", "width"), SIZES)
@torch.inference_mode()
def test_fresh_inputs_in_float32(wide: DinacAE, height: int, width: int) -> None:
    fast = accelerate(wide)
    torch.seed()  # new inputs in every run
    images = draw_images(2, height, width)
    posterior, reference = fast.encode_posterior(images), wide.encode_posterior(images)
    assert relative_error(posterior.mean, reference.mean) <= FLOAT32_TOLERANCE
    assert relative_error(posterior.logsnr, reference.logsnr) <= FLOAT32_TOLERANCE
    latents = torch.randn(2, WIDE.bottleneck_dim, height // 16, width // 16)
    for settings in SETTINGS:
        decoded = fast.decode(latents, height, width, settings)
        expected = wide.decode(latents, height, width, settings)
        assert relative_error(decoded, expected) <= FLOAT32_TOLERANCE


@torch.inference_mode()
def test_fresh_inputs_in_bfloat16(wide: DinacAE, wide_bfloat16: DinacAE) -> None:
    """The fast network's rounding error, pooled over all sizes, is at most the plain one's."""
    fast = accelerate(wide_bfloat16)
    torch.seed()
    squares = {"encode": [0.0, 0.0], "decode": [0.0, 0.0]}
    for height, width in SIZES:
        images = draw_images(1, height, width)
        exact = wide.encode(images)
        latents = torch.randn_like(exact)
        decoded = wide.decode(latents, height, width, SETTINGS[0])
        for place, model in enumerate((fast, wide_bfloat16)):
            error = model.encode(images) - exact
            squares["encode"][place] += error.square().sum().item()
            error = model.decode(latents, height, width, SETTINGS[0]) - decoded
            squares["decode"][place] += error.square().sum().item()
    for ours, theirs in squares.values():
        assert 0 < ours <= BFLOAT16_FACTOR**2 * theirs


@torch.inference_mode()
def test_result_does_not_depend_on_earlier_images(wide_bfloat16: DinacAE) -> None:
    fast = accelerate(wide_bfloat16)
    sizes = [(48, 80), (64, 64), (48, 80), (80, 48)]
    images = {size: draw_images(1, *size) for size in sizes}
    first = {size: fast.encode(images[size]) for size in sizes}
    for size in reversed(sizes):
        assert torch.equal(fast.encode(images[size]), first[size])
    for settings in SETTINGS:
        decoded = {size: fast.decode(first[size], *size, settings) for size in sizes}
        for size in reversed(sizes):
            assert torch.equal(fast.decode(first[size], *size, settings), decoded[size])


@torch.inference_mode()
def test_batch_matches_single_images(wide: DinacAE) -> None:
    fast = accelerate(wide)
    images = draw_images(2, 48, 80)
    latents = fast.encode(images)
    decoded = [fast.decode(latents, 48, 80, settings) for settings in SETTINGS]
    for index in range(2):
        one = slice(index, index + 1)
        assert relative_error(fast.encode(images[one]), latents[one]) <= FLOAT32_TOLERANCE
        for settings, batch in zip(SETTINGS, decoded, strict=True):
            alone = fast.decode(latents[one], 48, 80, settings)
            assert relative_error(batch[one], alone) <= FLOAT32_TOLERANCE


@pytest.mark.parametrize("kind", ["small", "small_bfloat16"])
@torch.inference_mode()
def test_pixels_have_the_bytes_of_images(kind: str, request: pytest.FixtureRequest) -> None:
    """On a CPU, the fused ends of the network compute exactly what the separate steps compute."""
    plain: DinacAE = request.getfixturevalue(kind)
    pixels = draw_pixels(2, 48, 80)
    for model in (plain, accelerate(plain)):
        posterior, expected = (
            model.encode_pixels(pixels),
            model.encode_posterior(scale_pixels(pixels)),
        )
        assert torch.equal(posterior.mean, expected.mean)
        assert torch.equal(posterior.logsnr, expected.logsnr)
        latents = model.whiten(posterior.mode())
        for settings in PIXEL_SETTINGS:
            images = model.decode(latents, 48, 80, settings)
            assert torch.equal(model.decode_pixels(latents, settings), round_images(images))


@torch.inference_mode()
def test_pixels_with_triton(small: DinacAE, interpreted_operations: Operations) -> None:
    pixels = draw_pixels(1, 32, 16)
    fast = accelerate(small, interpreted_operations)
    posterior, expected = fast.encode_pixels(pixels), small.encode_pixels(pixels)
    assert relative_error(posterior.mean, expected.mean) <= FLOAT32_TOLERANCE
    latents = small.whiten(expected.mode())
    for settings in (SETTINGS[0], PIXEL_SETTINGS[-1]):
        decoded = fast.decode_pixels(latents, settings).int()
        error = (decoded - small.decode_pixels(latents, settings).int()).abs()
        assert error.max() <= 1  # if a value lies between two levels
        assert error.float().mean() <= 1e-3


@torch.inference_mode()
def test_noise_without_a_seed_is_fresh(wide: DinacAE) -> None:
    fast = accelerate(wide)
    latents = torch.randn(1, WIDE.bottleneck_dim, 2, 2).expand(2, -1, -1, -1)
    settings = DinacAEInferenceConfig()
    once, again = (fast.decode(latents, 32, 32, settings) for _ in range(2))
    assert not torch.equal(once, again)
    assert not torch.equal(once[0], once[1])


@torch.inference_mode()
def test_noise_cache_is_bounded(small: DinacAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_autoencoder, "START_BYTES", 50_000)
    fast = accelerate(small)
    assert isinstance(fast, FastDinacAE)
    settings = DinacAEInferenceConfig(seed=1)
    for rows in range(1, 9):
        fast.decode(torch.zeros(1, SMALL.bottleneck_dim, rows, 2), rows * 16, 32, settings)
        newest_bytes = rows * 2 * 4 * (SMALL.model_dim + 768)  # the embedding and the noise
        assert newest_bytes <= fast._starts.weight <= max(50_000, newest_bytes)


class Precisions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the products by type and by the setting of TF32."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[tuple[torch.dtype, str]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ in {"linear", "_linear_pointwise"}:
            self.found[args[0].dtype, torch.backends.cuda.matmul.fp32_precision] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def precision() -> Iterator[Callable[[], str]]:
    """Switches TF32 off for the test; reads the setting."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    yield lambda: str(matmul.fp32_precision)
    matmul.fp32_precision = before


def test_tf32_is_for_bfloat16_on_cuda() -> None:
    assert allows_tf32(torch.device("cuda", 1), torch.bfloat16)
    assert not allows_tf32(torch.device("cuda"), torch.float32)
    assert not allows_tf32(torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize("allowed", [True, False])
@torch.inference_mode()
def test_only_the_last_product_uses_tf32(
    allowed: bool, precision: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_decoder, "allows_tf32", lambda device, dtype: allowed)
    plain = draw_network(SMALL, torch.bfloat16)
    plain.decoder.out_proj.float()  # as in a network that is loaded
    fast = accelerate(plain)
    latents = torch.randn(1, SMALL.bottleneck_dim, 2, 3)
    with Precisions() as precisions:
        fast.decode_pixels(latents, DinacAEInferenceConfig(seed=1, num_steps=2))
    found = precisions.found
    assert found.total() >= 2 * 2 * SMALL.decoder_depth
    assert found[torch.float32, "tf32"] == (2 if allowed else 0)
    assert found[torch.bfloat16, "tf32"] == 0
    assert precision() == "ieee"


def test_tf32_is_switched_off_after_an_error(precision: Callable[[], str]) -> None:
    def fail() -> None:
        with allow_tf32():
            raise RuntimeError(precision())

    with pytest.raises(RuntimeError, match="tf32"):
        fail()
    assert precision() == "ieee"


@torch.inference_mode()
def test_forgotten_noise_is_drawn_again(small: DinacAE) -> None:
    fast, settings = accelerate(small), DinacAEInferenceConfig(seed=1)
    latents = torch.zeros(1, SMALL.bottleneck_dim, 2, 2)
    first = fast.decode(latents, 32, 32, settings)
    fast.forget_starts()
    assert isinstance(fast, FastDinacAE)
    assert fast._starts.list_values() == []
    assert torch.equal(fast.decode(latents, 32, 32, settings), first)


@torch.inference_mode()
def test_accelerated_network_has_the_same_parts(wide: DinacAE) -> None:
    encoder_only = accelerate(DinacAE(SMALL, parts={"encoder"}).eval())
    assert not hasattr(encoder_only, "decoder")
    assert accelerate(wide).dtype == wide.dtype


@torch.inference_mode()
def test_guidance_with_triton(small: DinacAE, interpreted_operations: Operations) -> None:
    latents = torch.randn(1, SMALL.bottleneck_dim, 2, 3)
    settings = DinacAEInferenceConfig(seed=3, pdg=True)
    decoded = accelerate(small, interpreted_operations).decode(latents, 32, 48, settings)
    assert relative_error(decoded, small.decode(latents, 32, 48, settings)) <= FLOAT32_TOLERANCE


# torch's compiler imports modules that are deprecated.
quiet = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture
def only_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the graphs of torch's compiler operation by operation: compiling C++ takes seconds."""
    trace = partial(torch.compile, backend="aot_eager_decomp_partition")
    monkeypatch.setattr(torch, "compile", trace)


@quiet
@pytest.mark.usefixtures("only_traced")
@torch.inference_mode()
def test_traced_decoder_in_float32(small: DinacAE) -> None:
    fast = accelerate(small, compiled=True)
    assert fast.is_compiled
    latents = torch.randn(1, SMALL.bottleneck_dim, 2, 3)
    settings = DinacAEInferenceConfig(seed=3, pdg=True)
    expected = small.decode(latents, 32, 48, settings)
    assert relative_error(fast.decode(latents, 32, 48, settings), expected) <= FLOAT32_TOLERANCE


def compiling(test: Callable[..., None]) -> Callable[..., None]:
    skip = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
    marked: Callable[..., None] = quiet(skip(test))
    return marked


@pytest.fixture
def quick_compiler() -> Iterator[None]:
    """Trusts the CPU's flags instead of compiling a program for each instruction set."""
    from torch._inductor import config

    with config.patch({"cpp.vec_isa_ok": True}):
        yield


@compiling
@pytest.mark.usefixtures("quick_compiler")
@torch.inference_mode()
def test_compiled_encoder_in_bfloat16(small: DinacAE, small_bfloat16: DinacAE) -> None:
    images = draw_images(1, 32, 48)
    fast = accelerate(small_bfloat16, compiled=True)
    assert fast.is_compiled
    assert_as_close(fast.encode(images), small_bfloat16.encode(images), small.encode(images))


@compiling
@pytest.mark.usefixtures("quick_compiler")
@torch.inference_mode()
def test_compiled_decoder_end_in_bfloat16(small: DinacAE, small_bfloat16: DinacAE) -> None:
    """Compiles the smallest graph that has a convolution, norms and packed matrix products."""
    start = (torch.randn(1, 3, 32, 48), torch.tensor([0.4]), torch.randn(1, 8, 2, 3))
    eager, compiled = (accelerate(small_bfloat16, compiled=how).decoder for how in (False, True))
    begun = eager.begin(eager.embed(start[0]), *start[1:])
    ours = compiled.finish(begun, drop_middle=True)
    exact, theirs = (m.decoder(*start, drop_middle=True) for m in (small, small_bfloat16))
    assert_as_close(ours, theirs, exact)


@compiling
@pytest.mark.usefixtures("quick_compiler")
@torch.inference_mode()
def test_compiled_rotation() -> None:
    qkv, weight, rotation = torch.randn(2, 6, 9, 64), torch.randn(6, 64), torch.randn(6, 1, 32, 2)
    expected = torch_operations.rotate_heads(qkv.clone(), weight, rotation)
    compiled = compile_for_sizes(torch_operations.rotate_heads)(qkv, weight, rotation)
    for part, reference in zip(compiled, expected, strict=True):
        assert relative_error(part, reference) <= FLOAT32_TOLERANCE


def assert_as_close(ours: Tensor, theirs: Tensor, exact: Tensor) -> None:
    """Too few values for the pooled gate: this finds a wrong result, not a rounding error."""
    assert 0 < (ours - exact).norm() <= 3 * (theirs - exact).norm()
