"""Chooses how a GPU computes: the first step of a ladder that works on this GPU.

The steps, from the fastest: CUDA graphs of Triton's kernels, the same kernels one by one, torch's
operations, and the plain network. The choice is made once, before the first image, because the
steps round differently. Only graphs and kernels give the same bytes.
"""

from __future__ import annotations

import functools
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from dinac_cli.errors import DeviceError, UsageError, first_line
from dinac_cli.models.device import runs_kernels
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.fast import torch_operations
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.dinac.fast.self_check import OperationCheck, check_operations
from dinac_cli.models.interface import GRAPHS, PLAIN, STEP_VARIABLE, STEPS, TORCH, GpuStep

_HEADERS = "install a C compiler and the headers of Python (on Debian: gcc and python3-dev)"
_REPORT = "report it with the output of `dinac doctor`"
_CUT = 120

_lock = threading.Lock()


@dataclass(frozen=True)
class Choice:
    """The chosen step, and the checks that were made.

    `reason` says why this is not the first step, and `remedy` says what the user can do. Both are
    empty for the first step, and for a step that the user named.
    """

    step: str
    reason: str = ""
    remedy: str = ""
    checks: tuple[OperationCheck, ...] = ()

    @property
    def operations(self) -> Operations | None:
        """The operations of the fast network, or None for the plain network."""
        if self.step == PLAIN:
            return None
        return torch_operations if self.step == TORCH else _import_triton_operations()

    def describe(self) -> str | None:
        """Returns one line for the user, or None if the step is the first one or was named."""
        if not self.reason:
            return None
        how = "the plain network" if self.step == PLAIN else "torch's operations"
        line = f"the GPU computes with {how}, which is slower: {self.reason}"
        return f"{line}; {self.remedy}" if self.remedy else line


@dataclass(frozen=True)
class _Trial:
    """Whether the operations of a step work on the device: they do if `reason` is empty."""

    reason: str = ""
    remedy: str = ""
    checks: tuple[OperationCheck, ...] = ()


def find_operations(step: GpuStep | None) -> Operations | None:
    """Returns the operations of a step, or None for the plain network.

    Without a step, these are torch's operations: those of devices other than CUDA.
    """
    if not isinstance(step, Choice):
        return torch_operations
    return step.operations


def choose_step(
    config: DinacAEConfig, device: torch.device, dtype: torch.dtype, *, compiled: bool = False
) -> Choice:
    """Checks the operations on a CUDA device, and chooses the step for a model.

    A compiled model uses torch's operations. Raises DeviceError if the device fails, or if the step
    that `DINAC_CUDA` names does not work. Raises UsageError if there is no such step.
    """
    if compiled:
        return Choice(TORCH)
    with _lock:
        return _choose(_read_named(), config, device, dtype)


@functools.cache
def _choose(
    named: str | None, config: DinacAEConfig, device: torch.device, dtype: torch.dtype
) -> Choice:
    if named == PLAIN:
        return Choice(PLAIN)
    trials: list[_Trial] = []
    for step in (GRAPHS, TORCH) if named is None else (named,):
        trial = _try_step(step, config, device, dtype)
        trials.append(trial)
        first = trials[0]
        if not trial.reason:
            return Choice(step, first.reason, first.remedy, first.checks or trial.checks)
    if named is not None:
        raise DeviceError(
            "; ".join(filter(None, (f"{STEP_VARIABLE}={named}: {first.reason}", first.remedy)))
        )
    return Choice(PLAIN, trials[-1].reason, trials[-1].remedy, trials[-1].checks)


def _read_named() -> str | None:
    named = os.environ.get(STEP_VARIABLE) or None
    if named is not None and named not in STEPS:
        raise UsageError(f"{STEP_VARIABLE}={named}: no such step; choose one of {', '.join(STEPS)}")
    return named


def _try_step(step: str, config: DinacAEConfig, device: torch.device, dtype: torch.dtype) -> _Trial:
    # Triton launches kernels on the current device, even for tensors on another device.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return _try_on_current_device(step, config, device, dtype)


def _try_on_current_device(
    step: str, config: DinacAEConfig, device: torch.device, dtype: torch.dtype
) -> _Trial:
    if step == TORCH:
        return _judge(step, check_operations(torch_operations, config, device, dtype), device)
    if find_spec("triton") is None:
        return _Trial("Triton is not installed", "pip install triton")
    if not runs_kernels(device):
        name = torch.cuda.get_device_name(device)
        return _Trial(f"Triton's kernels do not support this GPU ({name})")
    try:
        with _stderr_muted():  # compilers write there
            operations = _import_triton_operations()
            checks = check_operations(operations, config, device, dtype)
    except ImportError as exc:
        return _Trial(*_explain(step, exc))
    return _judge(step, checks, device)


def _judge(step: str, checks: tuple[OperationCheck, ...], device: torch.device) -> _Trial:
    failed = next((check for check in checks if not check.holds), None)
    if failed is None:
        return _Trial(checks=checks)
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as exc:  # from now on, the GPU refuses all work of this process
        raise DeviceError(
            f"{device} failed in {failed.name}: {_quote_briefly(exc)}; set "
            f"{STEP_VARIABLE}={TORCH} to compute without Triton's kernels, and {_REPORT}"
        ) from exc
    if failed.cause is not None:
        return _Trial(*_explain(step, failed.cause), checks)
    wrong = f"{failed.name} is wrong by {failed.error:.1g} (limit {failed.limit:.0e})"
    return _Trial(wrong, _REPORT, checks)


def _explain(step: str, exc: Exception) -> tuple[str, str]:
    """Returns why an operation raised an error, and what the user can do about it."""
    text = _quote_briefly(exc)
    if isinstance(exc, torch.OutOfMemoryError):
        raise DeviceError("out of memory on the GPU; free some memory there") from exc
    if step == TORCH:
        return f"torch failed: {text}", _REPORT
    if isinstance(exc, subprocess.CalledProcessError) and isinstance(exc.cmd, list):
        # Without its temporary files: all processes of a run give the same reason, told once.
        text = f"{os.path.basename(exc.cmd[0])} ended with exit code {exc.returncode}"
    if isinstance(exc, (subprocess.SubprocessError, FileNotFoundError)) or "C compiler" in text:
        return f"Triton cannot compile its launcher: {text}", _HEADERS
    if isinstance(exc, OSError):
        return f"Triton cannot write its cache: {text}", "set TRITON_CACHE_DIR to another folder"
    return f"Triton failed: {text}", _REPORT


def _quote_briefly(exc: BaseException) -> str:
    line = first_line(exc)
    return line if len(line) <= _CUT else f"{line[:_CUT]}…"


def _import_triton_operations() -> Operations:
    from dinac_cli.models.dinac.fast import triton_operations

    return triton_operations


@contextmanager
def _stderr_muted() -> Iterator[None]:
    """Discards what this process and its children write to standard error, descriptor 2."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
