"""Triton's kernels, compiled ahead of time for three GPUs: resources, variants and instructions.

The machine code says how many instructions a thread executes, and how many bytes it loads and
stores. So no GPU is needed to see that a kernel is better than the one before. The tests of this
file take less than a minute of processor time together.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinac_cli.bench.cost import INSTRUCTIONS
from dinac_cli.models.dinac.config import RELEASED, DinacAEConfig, from_json
from dinac_cli.models.dinac.fast import torch_operations
from dinac_cli.models.dinac.fast.autoencoder import accelerate
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.interface import DinacAEInferenceConfig

from .conftest import read_json
from .launches import Launch, Launches, build_on_meta, record_launches

ROOT = Path(__file__).parents[2]
NANO = from_json(read_json(ROOT / "dinac_cli" / "weights" / "nano" / "config.json"))
D2 = DinacAEConfig()
MODELS = {
    "nano": NANO,
    "d2": D2,
    "ae": replace(D2, encoder_depth=6),
    "semdis": RELEASED["semdisdiffae"],
}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CAPABILITIES = (80, 90, 120)
SIZES = [(1 + 7 * i % 23, 1 + 11 * i % 19) for i in range(40)]  # in patches
SETTINGS = [
    DinacAEInferenceConfig(seed=1),
    DinacAEInferenceConfig(num_steps=2, pdg=True),
    DinacAEInferenceConfig(seed=1, num_steps=2, sampler="dpmpp_2m"),
]
COUNTED = [
    "convolve_tiles",
    "sum_squares",
    "apply_response",
    "read_patches",
    "finish_ddim",
    "rotate_rows",
]
VARIANTS_AT_MOST = 10
SHARED_BYTES_AT_MOST = 48 * 1024

# Earlier kernels, counted by this program for D2 in bfloat16 on sm_90, per output of a thread.
# A convolution that loaded its input once per tap; 8·8 positions of 32 channels per program:
OLD_CONVOLUTION_INSTRUCTIONS = 355
OLD_CONVOLUTION_BYTES = 246
# A GELU by erf, which was stored; and torch's product with the factors, which moved another 4 bytes
# and whose instructions are not counted:
OLD_RESPONSE_INSTRUCTIONS = 49.6
OLD_RESPONSE_BYTES = 4 + 4


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel. `code` is the listing of the disassembler."""

    name: str
    registers: int
    stack_bytes: int
    local_bytes: int
    shared_bytes: int
    threads: int
    fuses: bool
    code: str

    @cached_property
    def instructions(self) -> list[tuple[int, str]]:
        """The address and the text of each instruction, up to the branch to itself at the end."""
        listed = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", self.code, re.MULTILINE)
        found = [(int(address, 16), text) for address, text in listed]
        end = next(i for i, (address, text) in enumerate(found) if find_target(text) == address)
        return found[:end]

    @cached_property
    def loop(self) -> list[str]:
        """The instructions of the only loop, or none."""
        targets = [(find_target(text), address) for address, text in self.instructions]
        loops = [(start, end) for start, end in targets if start is not None and start < end]
        assert len(loops) <= 1, f"{self.name} has several loops"
        return [text for a, text in self.instructions for start, end in loops if start <= a <= end]

    def count_rounds(self, weigh: Callable[[str], int], total: float) -> float:
        """Returns how often the loop runs, if a thread executes instructions of weight `total`."""
        whole, inside = self.sum_once(weigh), sum(map(weigh, self.loop))
        rounds = (total - whole + inside) / inside if inside else 1.0
        assert rounds == int(rounds) > 0, f"{self.name} runs its loop {rounds} times"
        assert self.sum(weigh, rounds) == total
        return rounds

    def sum(self, weigh: Callable[[str], int], rounds: float = 1) -> float:
        """Sums the weights of the instructions that a thread executes; skips no branch."""
        return self.sum_once(weigh) + (rounds - 1) * sum(map(weigh, self.loop))

    def sum_once(self, weigh: Callable[[str], int]) -> int:
        return sum(weigh(text) for _, text in self.instructions)


def find_target(text: str) -> int | None:
    found = re.search(r"\bBRA\b.*?\b0x([0-9a-f]+)", text)
    return None if found is None else int(found[1], 16)


def count_one(text: str) -> int:
    return 1


def is_product(text: str) -> int:
    return "FFMA" in text


def count_loaded(text: str) -> int:
    """Returns the bytes that an instruction loads from global memory."""
    return _count_width(text, "LDG")


def count_stored(text: str) -> int:
    return _count_width(text, "STG")


def _count_width(text: str, name: str) -> int:
    found = re.search(rf"\b{name}\S*", text)
    if found is None:
        return 0
    widths = {"8": 1, "16": 2, "64": 8, "128": 16}
    [width] = {widths[part] for part in re.findall(r"\.[US]?(8|16|64|128)\b", found[0])} or {4}
    return width


def count_moved(text: str) -> int:
    return count_loaded(text) + count_stored(text)


@pytest.fixture(scope="module")
def launches(triton_operations: Operations) -> Iterator[Launches]:
    with record_launches(triton_operations) as launches:
        yield launches


@torch.inference_mode()
def record(
    model: str,
    kind: str,
    operations: Operations,
    launches: Launches,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> list[str]:
    """Returns the different launches for images of all sizes, encoded and decoded, as JSON."""
    fast = accelerate(build_on_meta(MODELS[model], TYPES[kind]), operations)
    launches.clear()
    for number, (rows, columns) in enumerate(sizes):
        shape = (1 + number % 3, 16 * rows, 16 * columns, 3)
        fast.encode_pixels(torch.empty(shape, dtype=torch.uint8, device="meta"))
        latents = torch.empty(1 + number % 3, 128, rows, columns, device="meta")
        fast.decode_pixels(latents, SETTINGS[number % 3])
    return sorted(set(map(describe, launches.triton)))


def describe(launch: Launch) -> str:
    """Returns a launch as JSON. Of a tensor, it has the type and the address modulo 16."""
    arguments = [
        [str(x.dtype).removeprefix("torch."), x.storage_offset() * x.element_size() % 16]
        if isinstance(x, Tensor)
        else x
        for x in launch.arguments
    ]
    return json.dumps([launch.kernel, arguments, launch.options])


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """The process that compiles: in this one, Triton interprets."""
    environment = {name: x for name, x in os.environ.items() if not name.startswith("TRITON_")}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.models.compile_kernels"],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def compile_all(
    launches: Sequence[str], disassembled: Sequence[str], compiler: subprocess.Popen[str]
) -> dict[int, list[Kernel]]:
    """Compiles launches for each GPU."""
    request = {
        "capabilities": CAPABILITIES,
        "launches": [json.loads(launch) for launch in launches],
        "disassembled": disassembled,
    }
    assert compiler.stdin is not None
    assert compiler.stdout is not None
    print(json.dumps(request), file=compiler.stdin, flush=True)
    line = compiler.stdout.readline()
    assert line, "the compiler died"
    answer: dict[str, Any] = json.loads(line)
    return {
        int(capability): [Kernel(**described) for described in kernels]
        for capability, kernels in answer.items()
    }


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("model", ["nano", "d2"])
def test_kernels_compile(
    model: str,
    kind: str,
    triton_operations: Operations,
    launches: Launches,
    compiler: subprocess.Popen[str],
) -> None:
    """Each launch compiles for each GPU: few variants, no spilled registers, fused products."""
    is_counted = (model, kind) == ("d2", "bfloat16")
    recorded = record(model, kind, triton_operations, launches)
    names = {json.loads(launch)[0] for launch in recorded}
    assert names >= set(COUNTED)
    compiled = compile_all(recorded, COUNTED if is_counted else [], compiler)
    assert tuple(compiled) == CAPABILITIES
    for kernels in compiled.values():
        assert {kernel.name for kernel in kernels} == names
        assert len(kernels) <= VARIANTS_AT_MOST
        for kernel in kernels:
            assert kernel.stack_bytes == kernel.local_bytes == 0, f"{kernel.name} spills registers"
            assert kernel.shared_bytes <= SHARED_BYTES_AT_MOST
            assert kernel.fuses
        if is_counted:
            by_name = {kernel.name: kernel for kernel in kernels}
            check_convolution(by_name["convolve_tiles"], triton_operations)
            check_response(by_name["sum_squares"], by_name["apply_response"], triton_operations)
            check_ends(by_name["read_patches"], by_name["finish_ddim"], launches)
            check_rotation(by_name["rotate_rows"])


def check_convolution(kernel: Kernel, operations: Any) -> None:
    positions = operations.CONV_ROWS * operations.CONV_COLUMNS
    outputs = positions * operations.CONV_CHANNELS // kernel.threads
    rounds = kernel.count_rounds(is_product, D2.depthwise_kernel_size**2 * outputs)
    instructions = kernel.sum(count_one, rounds) / outputs
    loaded = kernel.sum(count_loaded, rounds) / outputs
    assert 49 < instructions <= 0.28 * OLD_CONVOLUTION_INSTRUCTIONS
    assert instructions == pytest.approx(INSTRUCTIONS["convolve_tiles"], rel=0.1)
    assert loaded <= 0.31 * OLD_CONVOLUTION_BYTES


def check_response(first: Kernel, second: Kernel, operations: Any) -> None:
    instructions, moved = 0.0, 0.0
    for kernel, weigh in ((first, count_loaded), (second, count_stored)):
        values = operations.GRN_ROWS * operations.GRN_COLUMNS // kernel.threads
        rounds = kernel.count_rounds(weigh, 2 * values)
        counted = kernel.sum(count_one, rounds) / values
        assert counted == pytest.approx(INSTRUCTIONS[kernel.name], rel=0.1)
        instructions += counted
        moved += kernel.sum(count_moved, rounds) / values
    assert instructions <= 0.7 * OLD_RESPONSE_INSTRUCTIONS
    # Read, read and written; and the factors and sums of a part of an image.
    assert 6 < moved <= 6.4 < OLD_RESPONSE_BYTES


def check_ends(read: Kernel, finish: Kernel, launches: Launches) -> None:
    """Compares the bytes per value with the bytes that the torch operations read and write."""
    pixels = torch.empty(32, 256, 256, 3, dtype=torch.uint8, device="meta")
    noise = torch.empty(1, 3, 256, 256, device="meta").expand(32, -1, -1, -1)
    x0 = torch.empty(32, 16, 16, 768, device="meta")
    scales = torch.tensor([0.1, 0.9]), torch.tensor([0.9, 0.1])
    works: list[Callable[[], Tensor]] = [
        lambda: torch_operations.read_patches(pixels, 16, torch.bfloat16),
        lambda: torch_operations.finish_ddim(noise, x0, *scales),
    ]
    in_torch = []
    for work in works:
        launches.clear()
        with torch.inference_mode(), launches:
            work()
        in_torch.append(launches.traffic_bytes / pixels.numel())
    moved = [kernel.sum(count_moved) * kernel.threads / 768 for kernel in (read, finish)]
    assert not read.loop + finish.loop
    assert moved == [1 + 2, 4 + 4 + 1]
    assert all(ours <= 0.15 * theirs for ours, theirs in zip(moved, in_torch, strict=True))


def check_rotation(kernel: Kernel) -> None:
    """Every access to memory is 16 bytes wide, and a row needs no other warp.

    On an H200, an earlier kernel took 14 times as long: it loaded every second value, and
    neighbours in a warp read different heads.
    """
    widths = {width for _, text in kernel.instructions if (width := count_moved(text))}
    assert widths == {16}
    assert kernel.shared_bytes == 0


@pytest.mark.parametrize("kind", TYPES)
def test_dinac_ae_launches_what_d2_launches(
    kind: str, triton_operations: Operations, launches: Launches
) -> None:
    ours, theirs = (
        record(model, kind, triton_operations, launches, SIZES[:3]) for model in ("ae", "d2")
    )
    assert ours == theirs


@pytest.mark.parametrize("kind", TYPES)
def test_semdisdiffae_launches_only_what_d2_launches(
    kind: str, triton_operations: Operations, launches: Launches
) -> None:
    """Its encoder consists of the blocks of the decoder, so no kernel has a new variant."""
    ours, theirs = (
        record(model, kind, triton_operations, launches, SIZES[:3]) for model in ("semdis", "d2")
    )
    assert set(ours) < set(theirs)
