"""Devices and compute types: how names resolve, and which are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from dinac_cli.errors import DeviceError, UsageError
from dinac_cli.models.device import (
    describe_unlike,
    list_all,
    prepare_device,
    resolve_device,
    resolve_dtype,
)


@pytest.fixture
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a number of CUDA devices, and with or without MPS."""
    cuda_count, has_mps = request.param
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda_count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("machine", "name", "device"),
    [
        ((0, False), "auto", "cpu"),
        ((0, True), "auto", "mps"),
        ((2, True), "auto", "cuda:0"),
        ((2, True), "cuda", "cuda"),
        ((2, False), "cuda:1", "cuda:1"),
        ((2, True), "mps", "mps"),
        ((2, True), "cpu", "cpu"),
    ],
    indirect=["machine"],
)
def test_available_devices(name: str, device: str) -> None:
    assert resolve_device(name) == torch.device(device)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("machine", "name", "present"),
    [
        ((0, False), "cuda", "cpu"),
        ((0, True), "cuda:0", "mps, cpu"),
        ((2, False), "cuda:2", "cuda:0, cuda:1, cpu"),
        ((1, False), "mps", "cuda:0, cpu"),
    ],
    indirect=["machine"],
)
def test_unavailable_device_is_never_replaced(name: str, present: str) -> None:
    message = f"^device {name} is not available; torch finds only {present}; use --device auto$"
    with pytest.raises(DeviceError, match=message):
        resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "meta", "", "CPU", "cuda:0\n"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is unknown; use auto, cuda, cuda:N, mps or cpu"):
        resolve_device(name)


def name_hardware(monkeypatch: pytest.MonkeyPatch, *kinds: str) -> None:
    """Gives each CUDA device the name of its hardware."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(kinds))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: kinds[device.index])


@pytest.mark.parametrize("count", [1, 3])
def test_all_are_all_cuda_devices(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    name_hardware(monkeypatch, *["NVIDIA H200"] * count)
    assert list_all() == tuple(f"cuda:{index}" for index in range(count))
    assert describe_unlike(list_all()) is None


def test_unlike_devices_must_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    name_hardware(monkeypatch, "NVIDIA H200", "NVIDIA L4", "NVIDIA H200")
    with pytest.raises(DeviceError) as caught:
        list_all()
    assert str(caught.value) == (
        "device all needs devices of one kind; torch finds cuda:0 (NVIDIA H200), cuda:1 "
        "(NVIDIA L4), cuda:2 (NVIDIA H200); list those to use, such as --device cuda:0,cuda:2"
    )
    assert describe_unlike(["cuda:0", "cuda:2"]) is None
    assert describe_unlike(["cuda:1", "cuda:2"]) == "cuda:1 (NVIDIA L4), cuda:2 (NVIDIA H200)"


def test_a_device_that_fails_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> str:
        raise RuntimeError("The NVIDIA driver on your system is too old\nmore")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", fail)
    message = (
        "^device cuda:0 failed: The NVIDIA driver on your system is too old; use --device cpu$"
    )
    with pytest.raises(DeviceError, match=message):
        list_all()


@pytest.mark.parametrize("ask", [partial(resolve_dtype, "auto"), prepare_device])
def test_a_driver_that_fails_is_an_error_of_one_line(
    ask: Callable[[torch.device], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("CUDA unknown error - this may be due to\nmore")

    monkeypatch.setattr(torch.cuda, "_lazy_init", fail)
    message = "^device cuda failed: CUDA unknown error - this may be due to; use --device cpu$"
    with pytest.raises(DeviceError, match=message):
        ask(torch.device("cuda"))


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("machine", [(0, False), (0, True)], indirect=True)
def test_all_needs_a_cuda_device() -> None:
    with pytest.raises(DeviceError) as caught:
        list_all()
    assert str(caught.value) == (
        "device all is not available; torch finds no CUDA device; use --device auto"
    )


@pytest.mark.parametrize(
    ("device", "probe", "dtype"),
    [
        ("mps", "_is_amx_tile_supported", torch.float32),
        ("cpu", None, torch.float32),
        ("cpu", "_is_amx_tile_supported", torch.bfloat16),
        ("cpu", "_is_avx512_bf16_supported", torch.bfloat16),
    ],
)
def test_automatic_type(
    device: str, probe: str | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda found=name == probe: found)
    assert resolve_dtype("auto", torch.device(device)) == dtype


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((7, 0), torch.float32),
        ((7, 5), torch.float32),
        ((8, 0), torch.bfloat16),
        ((9, 0), torch.bfloat16),
        ((12, 0), torch.bfloat16),
    ],
)
def test_automatic_type_of_gpus_from_nvidia(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_dtype("auto", torch.device("cuda:0")) == dtype


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        ("gfx1030", torch.float32),
        ("gfx90a:sramecc+:xnack-", torch.bfloat16),
        ("gfx942", torch.bfloat16),
    ],
)
def test_automatic_type_of_gpus_from_amd(
    architecture: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = SimpleNamespace(gcnArchName=architecture)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert resolve_dtype("auto", torch.device("cuda:0")) == dtype


@pytest.fixture
def settings_restored() -> Iterator[None]:
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = (
        matmul.fp32_precision,
        conv.fp32_precision,
        matmul.allow_bf16_reduced_precision_reduction,
    )
    uses_cudnn = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    yield
    torch.backends.cuda.enable_cudnn_sdp(uses_cudnn)
    matmul.fp32_precision, conv.fp32_precision = before[:2]
    matmul.allow_bf16_reduced_precision_reduction = before[2]


@pytest.mark.usefixtures("settings_restored")
def test_arithmetic_of_a_gpu_is_exact_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    matmul.fp32_precision = conv.fp32_precision = "tf32"
    matmul.allow_bf16_reduced_precision_reduction = True
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    prepare_device(torch.device("cpu"))
    assert matmul.fp32_precision == "tf32"
    prepare_device(torch.device("cuda:1"))
    assert current == [torch.device("cuda:1")]
    assert (matmul.fp32_precision, conv.fp32_precision) == ("ieee", "ieee")
    assert not matmul.allow_bf16_reduced_precision_reduction
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    assert torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]


def test_automatic_type_is_float32_if_torch_has_no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32


def test_named_types() -> None:
    for device in (torch.device("cpu"), torch.device("cuda:0")):
        assert resolve_dtype("bf16", device) == torch.bfloat16
        assert resolve_dtype("f32", device) == torch.float32
    with pytest.raises(UsageError, match="dtype 'f16' is unknown; use auto, bf16 or f32"):
        resolve_dtype("f16", torch.device("cpu"))
