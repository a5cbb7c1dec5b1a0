"""Settings for all tests, made before the program is imported."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

from .collecting import pytest_collection, pytest_collection_finish  # noqa: F401  hooks
from .s3 import faulty_s3, s3_server  # noqa: F401  fixtures for all folders

# Otherwise torch's waiting threads spin, which is very slow on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Triton reads this on import. Its kernels are interpreted on the CPU, except by `pytest tests/gpu`.
_IS_FOR_GPU = any("gpu" in Path(argument).parts for argument in sys.argv[1:])
_COMPILES = _IS_FOR_GPU and "DINAC_TEST_DEVICE" not in os.environ
os.environ.setdefault("TRITON_INTERPRET", "0" if _COMPILES else "1")

# Tests use neither the user's caches nor the internet.
_CACHES = tempfile.mkdtemp(prefix="dinac-tests-")
atexit.register(shutil.rmtree, _CACHES, ignore_errors=True)
os.environ["DINAC_CACHE"] = os.path.join(_CACHES, "dinac")
os.environ["HF_HOME"] = os.path.join(_CACHES, "huggingface")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(_CACHES, "inductor")

# On a slow machine a run would print progress lines, which tests of other output do not expect.
os.environ["DINAC_NO_PROGRESS"] = "1"

# The same examples in every run, so that a failure comes from a change; no limit of time, so that
# it does not come from a busy machine.
settings.register_profile(
    "dinac", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("dinac")

_HUB = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN")
_COLOURS = ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS")  # Typer reads them on import
_OPTIONS = ("DINAC_MODEL", "DINAC_DEVICE", "DINAC_WORKERS")
for _name in (*_OPTIONS, *_HUB, *_COLOURS):
    os.environ.pop(_name, None)
