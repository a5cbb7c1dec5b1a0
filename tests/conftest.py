"""What holds for every test, before anything of the program is imported."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

from hypothesis import settings

# Torch's waiting threads would spin, which on a machine with other work is very slow.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Triton's kernels run on the processor, interpreted; must be known before Triton is imported. On a
# GPU machine set it to 0, and they are compiled.
os.environ.setdefault("TRITON_INTERPRET", "1")

# Nothing comes from or goes to the caches of whoever runs the tests, and nothing from the network.
_CACHES = tempfile.mkdtemp(prefix="dinac-tests-")
atexit.register(shutil.rmtree, _CACHES, ignore_errors=True)
os.environ["DINAC_CACHE"] = os.path.join(_CACHES, "dinac")
os.environ["HF_HOME"] = os.path.join(_CACHES, "huggingface")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(_CACHES, "inductor")
# The same examples in every run: a failure is the change's, and what is slow is a busy machine.
settings.register_profile("dinac", deadline=None, derandomize=True)
settings.load_profile("dinac")

for _name in ("DINAC_MODEL", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
    os.environ.pop(_name, None)
