"""Compiles Triton's kernels ahead of time; `test_fast_compilation.py` runs this program.

Each line of standard input is a request in JSON: the compute capabilities of GPUs, the launches,
and the names of the kernels whose machine code is wanted. Every launch goes through Triton up to
the driver, so Triton itself chooses what to specialise. The answer is a line of JSON: for each
capability, the compiled kernels.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from dinac_cli.models.dinac.fast import triton_kernels


@dataclass(frozen=True)
class Device:
    """Stands for the driver of a GPU: Triton asks for the target, and compiles for it."""

    capability: int

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


@dataclass(frozen=True)
class Pointer:
    """Stands for a tensor: Triton specialises for its type and the alignment of its address."""

    dtype: str
    address: int

    def data_ptr(self) -> int:
        return self.address

    def ptr_range(self) -> int:
        return 2**40


def compile_launch(name: str, arguments: list[Any], options: dict[str, Any]) -> Any:
    """Returns Triton's compiled kernel. An argument that is a list describes a tensor."""
    given = [Pointer(*x) if isinstance(x, list) else x for x in arguments]
    return getattr(triton_kernels, name).warmup(*given, grid=(1,), **options)


def describe(name: str, compiled: Any, disassembled: list[str]) -> dict[str, Any]:
    """Returns what a compiled kernel uses, and its machine code (SASS) if it is wanted."""
    found = re.findall(r"\b(REG|STACK|LOCAL):(\d+)", dump(compiled, "-res-usage"))
    assert [kind for kind, _ in found] == ["REG", "STACK", "LOCAL"]
    registers, stack_bytes, local_bytes = (int(count) for _, count in found)
    return {
        "name": name,
        "registers": registers,
        "stack_bytes": stack_bytes,
        "local_bytes": local_bytes,
        "shared_bytes": compiled.metadata.shared,
        "threads": 32 * compiled.metadata.num_warps,
        "fuses": compiled.metadata.enable_fp_fusion,
        "code": dump(compiled, "-sass") if name in disassembled else "",
    }


def dump(compiled: Any, what: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, what, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def answer(request: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Compiles the launches of a request."""
    found: dict[int, list[dict[str, Any]]] = {}
    for capability in request["capabilities"]:
        driver.set_active(Device(capability))
        compiled = {}
        for name, arguments, options in request["launches"]:
            kernel = compile_launch(name, arguments, options)
            compiled[kernel.hash] = (name, kernel)
        found[capability] = [describe(*one, request["disassembled"]) for one in compiled.values()]
    return found


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
