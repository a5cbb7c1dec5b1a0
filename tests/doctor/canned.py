"""The facts of a sound machine, and a probe that gives them, crashes or hangs as a test asks."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dinac_cli.doctor import inquiry, probe

CPU: Mapping[str, Any] = {
    probe.DEVICE: {
        "torch": "2.13.0+cpu",
        "cuda": None,
        "hip": None,
        "asked": "auto",
        "devices": {"cpu": {}},
        "threads": 4,
        "gpu_driver": False,
        "driver": None,
        "device": "cpu",
        "kind": "cpu",
        "problem": None,
    },
    probe.ARITHMETIC: {
        "device": "cpu",
        "dtype": "bf16",
        "torch_capability": "AVX512",
        "torch_amx": True,
        "torch_avx512_bf16": True,
        "torch_onednn": True,
        "processor": ["amx_bf16", "avx512_bf16"],
        "model": "A Processor",
        "bf16_gain": 3.5,
    },
    probe.MEMORY: {
        "free_bytes": 8 * 2**30,
        "limit_bytes": None,
        "max_pixels": 178_956_970,
        "largest": {"nano": 80_000_000, "d2": 30_000_000},
    },
    probe.FLOAT32: {
        "dtype": "f32",
        "compute": "cpu/f32",
        "latents_error": 6e-8,
        "pixels_error": 0.0,
    },
    probe.BFLOAT16: {
        "dtype": "bf16",
        "compute": "cpu/bf16",
        "latents_error": 3e-3,
        "pixels_error": 0.4,
    },
    probe.KERNELS_NANO: None,
    probe.KERNELS_D2: None,
    probe.BATCHES: None,
    probe.MODELS: {"cache": "/c/dinac", "hub": "/c/hub", "d2": False, "d2_bytes": 617_000_000},
    probe.EXTRAS: {
        "simplejpeg": "1.9.0",
        "same_pixels": True,
        "pi-heif": "1.1.0",
        "pylibjxl": "0.5.0",
        "missing": {},
    },
    probe.COMPILER: {
        "c": "/usr/bin/gcc",
        "c++": "/usr/bin/g++",
        "python_headers": True,
        "triton": "3.5.0",
        "triton_cache": {"folder": "/c/triton", "writable": True},
    },
}
"""A step → the facts on a sound machine with a CPU only."""

_OPERATION = {"name": "convolve", "error": 1e-6, "limit": 1e-4, "problem": None}

CUDA: Mapping[str, Any] = {
    **CPU,
    probe.DEVICE: {
        **CPU[probe.DEVICE],
        "torch": "2.13.0+cu130",
        "cuda": "13.0",
        "devices": {
            "cuda:0": {"name": "NVIDIA H200", "capability": "9.0", "memory_bytes": 141 * 2**30},
            "cpu": {},
        },
        "gpu_driver": True,
        "driver": "580.65.06",
        "device": "cuda:0",
        "kind": "cuda",
    },
    probe.ARITHMETIC: {"device": "cuda", "dtype": "bf16"},
    probe.FLOAT32: {**CPU[probe.FLOAT32], "compute": "cuda/f32"},
    probe.BFLOAT16: {**CPU[probe.BFLOAT16], "compute": "cuda/bf16"},
    probe.KERNELS_NANO: {
        "model": "nano",
        "step": "graphs",
        "reason": "",
        "remedy": "",
        "named": None,
        "operations": [_OPERATION],
    },
    probe.KERNELS_D2: {
        "model": "d2",
        "step": "graphs",
        "reason": "",
        "remedy": "",
        "named": None,
        "operations": [_OPERATION],
    },
    probe.BATCHES: {
        "compute": "cuda/bf16",
        "batch": 32,
        "side": 256,
        "tasks": {
            name: {
                "ends_equal": True,
                "replay_equal": True,
                "growth_bytes": 0,
                "ms_per_batch": 3.2,
            }
            for name in ("encode", "decode")
        },
        "remarks": [],
    },
    probe.MODELS: {**CPU[probe.MODELS], "d2": True},
}
"""A step → the facts on a sound machine with a GPU."""

CRASH, HANG, KILL, LEAVE = "crash", "hang", "kill", "leave"

_PROGRAM = """
import json, os, resource, signal, sys, time
plan = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for step in json.loads(sys.argv[2])["steps"]:
    print(json.dumps({"step": step}), flush=True)
    what = plan[step]
    if what == "crash":
        print("Fatal error in a kernel", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGILL)
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hang":
        time.sleep(3600)
    elif what == "leave":
        print('{"st', end="", flush=True)
        os._exit(7)
    elif isinstance(what, str):
        text, _, remedy = what.partition("; ")
        print(json.dumps({"step": step, "error": text, "remedy": remedy}), flush=True)
        time.sleep(3600)  # nothing more is asked
    else:
        print(json.dumps({"step": step, "facts": what}), flush=True)
"""


def replace_probe(monkeypatch: pytest.MonkeyPatch, plan: Mapping[str, Any]) -> None:
    """Replaces the probe by a program with fixed answers.

    `plan` maps each step to its facts, to the text of its error, or to CRASH, HANG, KILL or LEAVE.
    """
    command = [sys.executable, "-S", "-c", _PROGRAM, json.dumps(dict(plan))]
    monkeypatch.setattr(inquiry, "make_command", lambda: command)


def keep_places(plan: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns a plan whose caches are in `folder`, unless the step that finds them fails."""
    models = plan[probe.MODELS]
    if not isinstance(models, str):
        models = {**models, "cache": str(folder / "dinac"), "hub": str(folder / "hub")}
    return {**plan, probe.MODELS: models}
