"""Start-up time: modules import torch and its compiler only if they need them."""

from __future__ import annotations

import subprocess
import sys

from .conftest import GOLDEN

TORCH_FREE = (
    *("aliases", "facts", "families", "identity", "interface", "registry", "tensor_file"),
    *("dinac.config", "dinac.model", "dinac.sizes", "dinac.source", "dinac.tensor_names"),
)

IMPORT_ALL = "; ".join(f"import dinac_cli.models.{name}" for name in TORCH_FREE)

LOAD_AND_ENCODE = f"""
import sys, torch
from dinac_cli.models.dinac.autoencoder import DinacAE
with torch.inference_mode():
    DinacAE.from_pretrained({str(GOLDEN / "tiny")!r}).reconstruct(torch.zeros(1, 3, 16, 16))
assert "torch._dynamo" not in sys.modules
"""


def run_python(code: str) -> None:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_torch_free_modules_import_no_torch() -> None:
    run_python(f"import sys, dinac_cli.models; {IMPORT_ALL}; assert 'torch' not in sys.modules")


def test_using_a_network_never_imports_the_compiler() -> None:
    run_python(LOAD_AND_ENCODE)
