"""LPIPS matches a plain computation, for each backbone, and refuses files that do not fit.

The published weights were not at hand: the weights here are random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dinac_cli.errors import ImageError, ModelError
from dinac_cli.models.perceptual.backbones import ALEX, SQUEEZE, VGG, Backbone
from dinac_cli.models.perceptual.lpips import Lpips, Pixels, canonical_name, load_lpips

BACKBONES = (ALEX, VGG, SQUEEZE)


class PlainFire(nn.Module):
    def __init__(self, channels_in: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels_in, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat((self.expand1x1(x), self.expand3x3(x)), 1))


def list_alex() -> Iterator[nn.Module]:
    for c_in, c_out, kernel, stride, padding, pools in (
        (3, 64, 11, 4, 2, True),
        (64, 192, 5, 1, 2, True),
        (192, 384, 3, 1, 1, False),
        (384, 256, 3, 1, 1, False),
        (256, 256, 3, 1, 1, True),
    ):
        yield nn.Conv2d(c_in, c_out, kernel, stride, padding)
        yield nn.ReLU()
        if pools:
            yield nn.MaxPool2d(3, 2)


def list_vgg() -> Iterator[nn.Module]:
    channels = 3
    for step in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if step:
            yield nn.Conv2d(channels, step, 3, padding=1)
            yield nn.ReLU()
            channels = step
        else:
            yield nn.MaxPool2d(2, 2)


def list_squeeze() -> Iterator[nn.Module]:
    yield from (nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True))
    yield from (PlainFire(64, 16, 64), PlainFire(128, 16, 64), nn.MaxPool2d(3, 2, ceil_mode=True))
    yield from (PlainFire(128, 32, 128), PlainFire(256, 32, 128))
    yield nn.MaxPool2d(3, 2, ceil_mode=True)
    yield from (PlainFire(256, 48, 192), PlainFire(384, 48, 192))
    yield from (PlainFire(384, 64, 256), PlainFire(512, 64, 256))


# Index of the layer after which features are compared: the ReLU of the convolutions conv1 to conv5
# of AlexNet; relu1_2, 2_2, 3_3, 4_3 and 5_3 of VGG16; of SqueezeNet, as the package lpips does.
TAPS = {
    "alex": (1, 4, 7, 9, 11),
    "vgg": (3, 8, 15, 22, 29),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
}
LAYERS = {"alex": list_alex, "vgg": list_vgg, "squeeze": list_squeeze}


def draw_weights(backbone: Backbone, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in backbone.list_shapes():
        fan_in = math.prod(shape[1:])
        weights[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        if len(shape) == 1:
            weights[name] *= 0.05
    for index, channels in enumerate(backbone.channels):
        weights[f"lin{index}.weight"] = torch.rand(1, channels, 1, 1, generator=generator)
    return weights


def draw_pair(height: int, width: int) -> tuple[Pixels, Pixels]:
    rng = np.random.default_rng(height + width)
    first = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    noise = rng.integers(-60, 60, first.shape)
    return first, np.clip(first + noise, 0, 255).astype(np.uint8)


def measure_plainly(
    backbone: Backbone, weights: dict[str, Tensor], pair: tuple[Pixels, ...]
) -> float:
    """LPIPS in float64, with torch's own modules in the order of torchvision."""
    layers = list(LAYERS[backbone.name]())[: TAPS[backbone.name][-1] + 1]
    network = nn.Sequential(*layers).double()
    own = {name.removeprefix("features."): value for name, value in weights.items()}
    network.load_state_dict({name: value for name, value in own.items() if name[0] != "l"})
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64)
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)
    taps = []
    for image in pair:
        x = (torch.from_numpy(image).double() / 255 * 2 - 1 - shift) / scale
        x, found = x.permute(2, 0, 1)[None], []
        for index, layer in enumerate(network):
            x = layer(x)
            if index in TAPS[backbone.name]:
                found.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
        taps.append(found)
    total = torch.zeros((), dtype=torch.float64)
    for index, (first, second) in enumerate(zip(*taps, strict=True)):
        linear = weights[f"lin{index}.weight"].double()[0, :, 0, 0]
        total += ((first - second) ** 2 * linear[None, :, None, None]).sum(1).mean()
    return total.item()


@pytest.fixture(scope="module", params=BACKBONES, ids=lambda backbone: backbone.name)
def lpips(request: pytest.FixtureRequest) -> Lpips:
    return Lpips(request.param, draw_weights(request.param))


@pytest.mark.parametrize("size", [(64, 64), (67, 50), (35, 90)])
def test_lpips_matches_a_plain_computation(lpips: Lpips, size: tuple[int, int]) -> None:
    pair = draw_pair(*size)
    with torch.inference_mode():
        plain = measure_plainly(lpips.backbone, dict(lpips.weights), pair)
    assert plain > 0.01
    assert lpips.measure(*pair) == pytest.approx(plain, rel=1e-5)


def test_lpips_is_symmetric_repeatable_and_zero_for_identical_images(lpips: Lpips) -> None:
    first, second = draw_pair(48, 40)
    value = lpips.measure(first, second)
    assert lpips.measure(second, first) == lpips.measure(first, second) == value > 0
    assert lpips.measure(first, first.copy()) == 0.0
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in (first, second)]
    assert lpips.measure(first[:, ::-1], second[:, ::-1]) == lpips.measure(*mirrored)


def test_smallest_size_is_exact(lpips: Lpips) -> None:
    smallest = lpips.backbone.smallest
    assert math.isfinite(lpips.measure(*draw_pair(smallest, smallest)))
    with pytest.raises(ImageError, match=r"^LPIPS failed for 50x\d+ pixels; leave out lpips$"):
        lpips.measure(*draw_pair(smallest - 1, 50))


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_the_file_decides_the_backbone(backbone: Backbone, tmp_path: Path) -> None:
    weights = draw_weights(backbone)
    plain = tmp_path / "plain.safetensors"
    classifier = {"classifier.6.weight": torch.zeros(3, 3)}
    save_file(weights | classifier, plain)
    found = load_lpips(plain)
    assert found.backbone is backbone
    assert {name: tensor.dtype for name, tensor in found.weights.items()} == dict.fromkeys(
        weights, torch.float32
    )
    pair = draw_pair(40, 40)
    assert found.measure(*pair) == Lpips(backbone, weights).measure(*pair)


def name_as_package(name: str) -> str:
    """The name in the state of a network of the package lpips; the slice's number is free."""
    if name.startswith("lin"):
        return name.replace(".weight", ".model.1.weight")
    return name.replace("features.", "net.slice2.")


def test_names_of_the_package_and_bfloat16(tmp_path: Path) -> None:
    weights = draw_weights(SQUEEZE)
    path = tmp_path / "bf16.safetensors"
    renamed = {name_as_package(name): tensor.bfloat16() for name, tensor in weights.items()}
    renamed["scaling_layer.shift"] = torch.zeros(1, 3, 1, 1)
    save_file(renamed, path)
    rounded = {name: tensor.bfloat16().float() for name, tensor in weights.items()}
    pair = draw_pair(40, 40)
    assert load_lpips(path).measure(*pair) == Lpips(SQUEEZE, rounded).measure(*pair)
    assert canonical_name("net.slice3.6.squeeze.bias") == "features.6.squeeze.bias"
    assert canonical_name("net.slice3.other") == "net.slice3.other"


def refuse(path: Path, weights: dict[str, Tensor]) -> str:
    save_file(weights, path)
    with pytest.raises(ModelError) as caught:
        load_lpips(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path} ").removeprefix(f"{path}: ")


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    weights = draw_weights(ALEX)
    hint = "'dinac man metrics' lists the tensors"
    other = "does not hold the features of AlexNet, VGG16 or SqueezeNet 1.1"
    assert refuse(path, {"a": torch.zeros(3)}) == f"{other}; {hint}"
    begin = "does not hold the weights of LPIPS (alex)"
    without = {name: tensor for name, tensor in weights.items() if name != "lin4.weight"}
    assert refuse(path, without) == f"{begin}: lin4.weight is missing; {hint}"
    wrong = weights | {"features.8.bias": torch.zeros(255)}
    assert refuse(path, wrong) == f"{begin}: features.8.bias is [255], not [256]; {hint}"
    half = weights | {"lin0.weight": weights["lin0.weight"].half()}
    assert refuse(path, half) == f"{begin}: lin0.weight is F16, not F32 or BF16; {hint}"
    broken = weights | {"features.10.bias": torch.full((256,), math.nan)}
    assert refuse(path, broken) == (
        "tensor features.10.bias of LPIPS (alex) holds values that are not finite; "
        "convert the weights again"
    )
    twice = weights | {"lin0.model.1.weight": weights["lin0.weight"] + 1}
    assert refuse(path, twice).startswith("lin0.model.1.weight and lin0.weight name the same")


def test_pickles_are_refused_before_anything_is_run(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "alex.pth")
    with pytest.raises(ModelError, match="is not a complete safetensors file"):
        load_lpips(tmp_path / "alex.pth")
    with pytest.raises(ModelError, match=r"none cannot be read: No such file or directory$"):
        load_lpips(tmp_path / "none")
