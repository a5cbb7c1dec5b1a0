"""How a GPU computes: the first step that works, with a reason and a remedy for each other one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dinac_cli.errors import DeviceError, UsageError
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.fast import ladder, self_check, torch_operations
from dinac_cli.models.dinac.fast.autoencoder import accelerate
from dinac_cli.models.dinac.fast.ladder import choose_step
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.dinac.fast.self_check import LIMITS, PIXEL_LIMIT, check_operations
from dinac_cli.models.interface import GRAPHS, PLAIN, STEPS, TORCH, TRITON, DinacAEInferenceConfig

from .launches import Launches, build_on_meta, record_launches

CPU = torch.device("cpu")
SMALL = DinacAEConfig(model_dim=64, mlp_ratio=2.0).without_class_head()
NAMES = [
    "read_patches",
    "normalize",
    "add_normalized",
    "rotate_heads",
    "convolve",
    "normalize_response",
    "add_gated",
    "finish_ddim",
]


def copy_operations(**changed: Callable[..., Any]) -> Any:
    """Returns torch's operations, some of them changed."""
    return SimpleNamespace(**{**vars(torch_operations), **changed})


def list_types(launches: Launches) -> set[tuple[object, ...]]:
    """Returns the name of each launched kernel, and the types of its tensors."""
    return {
        (one.kernel, *(x.dtype for x in one.arguments if isinstance(x, Tensor)))
        for one in launches.triton
    }


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The CPU in place of a GPU that works; torch's operations in place of Triton's."""
    ladder._choose.cache_clear()
    monkeypatch.delenv("DINAC_CUDA", raising=False)
    monkeypatch.setattr(ladder, "runs_kernels", lambda device: True)
    monkeypatch.setattr(ladder, "find_spec", lambda name: object())
    monkeypatch.setattr(ladder, "_import_triton_operations", copy_operations)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    return monkeypatch


@pytest.fixture
def uncached() -> None:
    ladder._choose.cache_clear()


class TestSelfCheck:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_torch_holds_at_the_widths_of_the_published_model(self, dtype: torch.dtype) -> None:
        checks = check_operations(torch_operations, DinacAEConfig(), CPU, dtype)
        assert [check.name for check in checks] == NAMES
        assert all(check.holds for check in checks)
        assert {check.limit for check in checks} == {LIMITS[dtype], PIXEL_LIMIT}

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_interpreted_kernels_hold(
        self, interpreted_operations: Operations, dtype: torch.dtype
    ) -> None:
        checks = check_operations(interpreted_operations, SMALL, CPU, dtype)
        assert [check.name for check in checks if check.holds] == NAMES

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_kernels_are_checked_with_the_types_of_a_run(
        self, triton_operations: Operations, dtype: torch.dtype
    ) -> None:
        """Triton compiles a kernel for each combination of types."""
        pixels = torch.empty(2, 32, 48, 3, dtype=torch.uint8, device="meta")
        latents = torch.empty(2, SMALL.bottleneck_dim, 2, 3, device="meta")
        with record_launches(triton_operations) as launches, torch.inference_mode():
            fast = accelerate(build_on_meta(SMALL, dtype), triton_operations)
            fast.encode_pixels(pixels)
            fast.decode_pixels(latents, DinacAEInferenceConfig(num_steps=2, seed=0))
            used = list_types(launches)
            launches.clear()
            drawn = self_check._draw_inputs(SMALL, dtype)
            for call, inputs in zip(self_check._CALLS.values(), drawn, strict=True):
                call(triton_operations, dtype, *(x.to("meta") for x in inputs))
            assert used <= list_types(launches)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_one_wrong_element_is_found(self, name: str, dtype: torch.dtype) -> None:
        def spoil(*inputs: Any) -> Any:
            made = getattr(torch_operations, name)(*inputs)
            first: Tensor = made[0] if isinstance(made, tuple) else made
            first[(-1,) * first.ndim] += 2 if first.dtype == torch.uint8 else 1
            return made

        checks = check_operations(copy_operations(**{name: spoil}), SMALL, CPU, dtype)
        assert [check.name for check in checks if not check.holds] == [name]

    @pytest.mark.parametrize("name", sorted(set(NAMES) - {"finish_ddim"}))
    def test_one_nan_is_found(self, name: str) -> None:
        def spoil(*inputs: Any) -> Any:
            made = getattr(torch_operations, name)(*inputs)
            first: Tensor = made[0] if isinstance(made, tuple) else made
            first[(0,) * first.ndim] = float("nan")
            return made

        checks = check_operations(copy_operations(**{name: spoil}), SMALL, CPU, torch.float32)
        assert [check.name for check in checks if not check.holds] == [name]

    def test_rounding_to_tf32_is_too_much_in_float32(self) -> None:
        def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            rounded = ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
            return torch_operations.convolve(rounded, weight, bias)

        checks = check_operations(copy_operations(convolve=convolve), SMALL, CPU, torch.float32)
        assert [check.name for check in checks if not check.holds] == ["convolve"]


class TestChoice:
    def choose(self, **options: Any) -> ladder.Choice:
        return choose_step(SMALL, CPU, torch.float32, **options)

    def test_a_gpu_that_works_uses_graphs_and_says_nothing(self, gpu: pytest.MonkeyPatch) -> None:
        choice = self.choose()
        assert choice.step == GRAPHS
        assert [check.name for check in choice.checks] == NAMES
        assert choice.describe() is None

    def test_the_check_is_made_once(self, gpu: pytest.MonkeyPatch) -> None:
        choice = self.choose()
        gpu.setattr(ladder, "check_operations", lambda *_: pytest.fail("it is known"))
        assert self.choose() is choice

    def test_a_compiled_model_uses_the_operations_of_torch(self, gpu: pytest.MonkeyPatch) -> None:
        choice = self.choose(compiled=True)
        assert (choice.step, choice.operations) == (TORCH, torch_operations)
        assert choice.describe() is None

    @pytest.mark.parametrize("step", STEPS)
    def test_the_user_names_a_step(self, step: str, gpu: pytest.MonkeyPatch) -> None:
        gpu.setenv("DINAC_CUDA", step)
        choice = self.choose()
        assert choice.step == step
        assert choice.describe() is None
        assert (choice.operations is None) == (step == PLAIN)

    def test_an_unknown_step_is_wrong_usage(self, gpu: pytest.MonkeyPatch) -> None:
        gpu.setenv("DINAC_CUDA", "fast")
        message = "^DINAC_CUDA=fast: no such step; choose one of graphs, triton, torch, plain$"
        with pytest.raises(UsageError, match=message):
            self.choose()

    @pytest.mark.parametrize(
        ("error", "reason", "remedy"),
        [
            (
                subprocess.CalledProcessError(1, ["/usr/bin/gcc", "/tmp/tmp7a3x/main.c"]),
                "Triton cannot compile its launcher: gcc ended with exit code 1",
                "(on Debian: gcc and python3-dev)",
            ),
            (
                RuntimeError("Failed to find C compiler. Please specify via CC"),
                "Triton cannot compile its launcher: Failed to find C compiler",
                "(on Debian: gcc and python3-dev)",
            ),
            (
                FileNotFoundError(2, "No such file or directory", "ptxas"),
                "Triton cannot compile its launcher: [Errno 2] No such file or directory: 'ptxas'",
                "python3-dev",
            ),
            (
                PermissionError(13, "Permission denied", "/root/.triton"),
                "Triton cannot write its cache: [Errno 13] Permission denied: '/root/.triton'",
                "set TRITON_CACHE_DIR to another folder",
            ),
            (
                OSError(30, "Read-only file system", "/home/x/.triton"),
                "Triton cannot write its cache: [Errno 30] Read-only file system",
                "set TRITON_CACHE_DIR to another folder",
            ),
            (AssertionError(), "Triton failed: AssertionError", "`dinac doctor`"),
            (RuntimeError("PTXASError: no\nmore"), "Triton failed: PTXASError: no;", "report it"),
            (ValueError("x" * 500), "Triton failed: " + "x" * 120 + "…;", "report it"),
        ],
    )
    def test_every_error_of_triton_leads_to_torch(
        self, error: Exception, reason: str, remedy: str, gpu: pytest.MonkeyPatch
    ) -> None:
        def fail(*inputs: Tensor) -> Tensor:
            raise error

        gpu.setattr(ladder, "_import_triton_operations", lambda: copy_operations(convolve=fail))
        choice = self.choose()
        assert (choice.step, choice.operations) == (TORCH, torch_operations)
        assert choice.checks[-1].name == "convolve"
        assert choice.checks[-1].error is None
        line = choice.describe()
        assert line is not None
        assert line.startswith("the GPU computes with torch's operations, which is slower: ")
        assert reason in line
        assert remedy in line
        assert "\n" not in line

    def test_a_triton_that_cannot_be_imported_leads_to_torch(self, gpu: pytest.MonkeyPatch) -> None:
        def fail() -> Operations:
            raise ImportError("libtriton.so: undefined symbol")

        gpu.setattr(ladder, "_import_triton_operations", fail)
        choice = self.choose()
        assert choice.step == TORCH
        assert choice.reason == "Triton failed: libtriton.so: undefined symbol"

    def test_no_triton_leads_to_torch(self, gpu: pytest.MonkeyPatch) -> None:
        gpu.setattr(ladder, "find_spec", lambda name: None)
        assert self.choose().describe() == (
            "the GPU computes with torch's operations, which is slower: Triton is not installed; "
            "pip install triton"
        )

    def test_an_old_gpu_leads_to_torch(self, gpu: pytest.MonkeyPatch) -> None:
        gpu.setattr(ladder, "runs_kernels", lambda device: False)
        assert self.choose().describe() == (
            "the GPU computes with torch's operations, which is slower: Triton's kernels do not "
            "support this GPU (Tesla T4)"
        )

    def test_a_kernel_with_wrong_results_leads_to_torch(self, gpu: pytest.MonkeyPatch) -> None:
        def double(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
            return 2 * torch_operations.normalize(x, weight, dtype)

        gpu.setattr(ladder, "_import_triton_operations", lambda: copy_operations(normalize=double))
        choice = self.choose()
        assert choice.step == TORCH
        assert choice.reason.startswith("normalize is wrong by ")
        assert choice.reason.endswith("(limit 2e-05)")
        assert choice.remedy == "report it with the output of `dinac doctor`"

    def test_operations_of_torch_that_fail_lead_to_the_plain_network(
        self, gpu: pytest.MonkeyPatch
    ) -> None:
        def fail(*inputs: Tensor) -> Tensor:
            raise NotImplementedError("no complex numbers here")

        gpu.setattr(ladder, "find_spec", lambda name: None)
        gpu.setattr(ladder, "torch_operations", copy_operations(rotate_heads=fail))
        choice = self.choose()
        assert (choice.step, choice.operations) == (PLAIN, None)
        assert choice.describe() == (
            "the GPU computes with the plain network, which is slower: torch failed: no complex "
            "numbers here; report it with the output of `dinac doctor`"
        )

    @pytest.mark.parametrize("step", [GRAPHS, TRITON])
    def test_a_named_step_that_does_not_work_is_an_error(
        self, step: str, gpu: pytest.MonkeyPatch
    ) -> None:
        gpu.setenv("DINAC_CUDA", step)
        gpu.setattr(ladder, "find_spec", lambda name: None)
        message = f"^DINAC_CUDA={step}: Triton is not installed; pip install triton$"
        with pytest.raises(DeviceError, match=message):
            self.choose()

    def test_a_gpu_that_refuses_all_work_ends_the_run(self, gpu: pytest.MonkeyPatch) -> None:
        def fail(*inputs: Tensor) -> Tensor:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nlong text")

        gpu.setattr(ladder, "_import_triton_operations", lambda: copy_operations(add_gated=fail))
        gpu.setattr(torch.cuda, "synchronize", fail)
        with pytest.raises(DeviceError) as caught:
            self.choose()
        assert str(caught.value) == (
            "cpu failed in add_gated: CUDA error: an illegal memory access was encountered; set "
            "DINAC_CUDA=torch to compute without Triton's kernels, and report it with the output "
            "of `dinac doctor`"
        )

    def test_no_memory_for_the_check_is_no_reason_for_another_step(
        self, gpu: pytest.MonkeyPatch
    ) -> None:
        def fail(*inputs: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")

        gpu.setattr(ladder, "_import_triton_operations", lambda: copy_operations(convolve=fail))
        with pytest.raises(DeviceError, match=r"^out of memory on the GPU; free some memory"):
            self.choose()

    def test_compilers_write_nothing_on_the_screen(
        self, gpu: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def shout(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
            os.write(2, b"ptxas info: line 1\n")
            return torch_operations.normalize(x, weight, dtype)

        gpu.setattr(ladder, "_import_triton_operations", lambda: copy_operations(normalize=shout))
        assert self.choose().step == GRAPHS
        os.write(2, b"after\n")
        assert capfd.readouterr().err == "after\n"

    def test_a_closed_standard_error_does_not_matter(self) -> None:
        code = (
            "import os; os.close(2)\n"
            "from dinac_cli.models.dinac.fast.ladder import _stderr_muted\n"
            "with _stderr_muted(): print('inside')\n"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (run.returncode, run.stdout) == (0, "inside\n")


def test_the_first_step_has_tritons_operations(triton_operations: Operations) -> None:
    assert isinstance(triton_operations, ModuleType)
    assert ladder.Choice(GRAPHS).operations is triton_operations
    assert replace(ladder.Choice(TRITON)).operations is triton_operations
