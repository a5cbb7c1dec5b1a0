"""Checks that torch can be loaded, which devices it sees, and which compilers there are."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from pathlib import Path
from typing import Any

from dinac_cli.doctor.finding import Facts, Finding, fail, note, ok
from dinac_cli.doctor.installation import find_version
from dinac_cli.doctor.places import inspect_place
from dinac_cli.errors import quote_error

_DRIVER = Path("/proc/driver/nvidia/version")


def measure_device(device: str) -> Facts:
    """Loads torch and resolves `device`. `problem` is the error if torch has no such device."""
    import torch

    from dinac_cli.errors import DinacError
    from dinac_cli.models.device import resolve_device
    from dinac_cli.models.registry import may_use_gpu

    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "asked": device,
        "devices": _list_devices(),
        "threads": torch.get_num_threads(),
        "gpu_driver": may_use_gpu("auto"),
        "driver": read_driver(_DRIVER),
    }
    try:
        place = resolve_device(device)
    except DinacError as exc:
        return facts | {"device": None, "kind": None, "problem": str(exc)}
    name = str(place)
    index = place.index or 0
    if place.type == "cuda" and (why := facts["devices"][f"cuda:{index}"].get("problem")):
        problem = f"{name} failed: {why}; use --device cpu"
        return facts | {"device": None, "kind": None, "problem": problem}
    if name == "cuda":
        name = f"cuda:{torch.cuda.current_device()}"
    return facts | {"device": name, "kind": place.type, "problem": None}


def _list_devices() -> dict[str, Facts]:
    """Returns each device that torch sees, with its properties or its `problem`."""
    import torch

    devices: dict[str, Facts] = {}
    for index in range(torch.cuda.device_count()):
        try:
            properties = torch.cuda.get_device_properties(index)
        except RuntimeError as exc:  # such as a driver that is too old for torch
            devices[f"cuda:{index}"] = {"problem": quote_error(exc)}
            continue
        devices[f"cuda:{index}"] = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
        }
    others = ("mps", "cpu") if torch.backends.mps.is_available() else ("cpu",)
    return devices | {name: {} for name in others}


def read_driver(path: Path) -> str | None:
    """Returns the version of NVIDIA's driver, such as `580.65.06`; None if it is not known."""
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return None
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)", text)
    return None if found is None else found[1]


def judge_torch(facts: Facts) -> Finding:
    """Names the build of torch."""
    build = f"CUDA {facts['cuda']}" if facts["cuda"] else None
    build = f"ROCm {facts['hip']}" if facts["hip"] else build
    text = f"{facts['torch']}, built for {build or 'CPUs'}"
    names = ("torch", "cuda", "hip", "threads")
    return ok("torch", text, {name: facts[name] for name in names})


def judge_device(facts: Facts) -> Finding:
    """Says which device computes, and why."""
    kind, asked = facts["kind"], facts["asked"]
    known = {name: facts[name] for name in ("asked", "device", "devices", "gpu_driver", "driver")}
    has_build = bool(facts["cuda"] or facts["hip"])
    missing = (
        "check the driver: nvidia-smi (ROCm: rocminfo) must list the GPU"
        if has_build
        else "install a torch with CUDA or ROCm, as pytorch.org says"
    )
    if kind is None:
        text, _, remedy = str(facts["problem"]).rpartition("; ")
        is_cuda = asked.startswith("cuda") or text.startswith("cuda")
        remedy = f"{missing}; or {remedy}" if is_cuda else remedy
        return fail("device", text, remedy, known)
    if kind != "cpu":
        return ok("device", _describe_gpu(facts), known)
    if asked == "cpu":
        return ok("device", "the CPU computes, because --device or DINAC_DEVICE is cpu", known)
    if facts["gpu_driver"]:
        text = "the CPU computes: there is a GPU driver, but torch sees no GPU"
        return note("device", text, missing, known)
    remedy = "if this machine has a GPU, install its driver and a torch for it; if not, do nothing"
    return note("device", "the CPU computes, because no GPU was found", remedy, known)


def _describe_gpu(facts: Facts) -> str:
    properties = facts["devices"].get(facts["device"], {})
    if not properties:
        return f"{facts['device']} computes"
    parts = [properties["name"], f"capability {properties['capability']}"]
    parts.append(f"{properties['memory_bytes'] / 2**30:.0f} GiB")
    if facts["driver"]:
        parts.append(f"driver {facts['driver']}")
    return f"{facts['device']} computes: {', '.join(parts)}"


def measure_compilers() -> Facts:
    """Finds the compilers that torch.compile and Triton call, Python's headers, and Triton."""
    cache = os.environ.get("TRITON_CACHE_DIR") or os.path.expanduser("~/.triton/cache")
    return {
        "c": _find_program("CC", ("gcc", "clang", "cc")),
        "c++": _find_program("CXX", ("g++", "clang++", "c++")),
        "python_headers": Path(sysconfig.get_path("include"), "Python.h").is_file(),
        "triton": find_version("triton") or find_version("pytorch-triton-rocm"),
        "triton_cache": inspect_place(Path(cache)).facts,
    }


def _find_program(variable: str, names: tuple[str, ...]) -> str | None:
    named = os.environ.get(variable, "").split()
    return next(filter(None, map(shutil.which, (*named[:1], *names))), None)


def judge_compilers(facts: Facts, kind: str) -> Finding:
    """Says whether the compilers for the device `kind` are there. Without them, work is slower."""
    if kind != "cuda":
        known = {"c++": facts["c++"]}
        if facts["c++"] is None:
            text = "no C++ compiler; only --compile needs one"
            return note("compiler", text, "install g++ or clang++", known)
        return ok("compiler", f"{facts['c++']}, for --compile", known)
    cache = facts["triton_cache"]
    needs = {
        "Triton": (facts["triton"], "pip install triton"),
        "a C compiler": (facts["c"], "install gcc"),
        "Python's headers": (facts["python_headers"], "install python3-dev"),
        "a writable cache folder": (cache["writable"], "set TRITON_CACHE_DIR to another folder"),
    }
    missing = {name: remedy for name, (found, remedy) in needs.items() if not found}
    if missing:
        text = f"fast GPU kernels need {' and '.join(missing)}; without them, the GPU is slower"
        return note("compiler", text, "; ".join(missing.values()), facts)
    text = f"Triton {facts['triton']}, {facts['c']}, Python's headers, cache {cache['folder']}"
    return ok("compiler", text, facts)
