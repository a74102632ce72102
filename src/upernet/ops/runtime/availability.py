"""Which kinds of kernels can run in this process. Each function returns the reason why not, or an empty string.

State of this module: the answers, which are found once per process.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from upernet.ops.runtime.compiling import finish


@functools.cache
def numba_unavailable(module: str) -> str:
    """Check that the Numba kernels in a module of `upernet.ops` compile and run.

    This calls the module's `warm_up`, which compiles its kernels or loads them from Numba's cache. The first failure
    also issues a RuntimeWarning.
    """
    try:
        kernels = importlib.import_module(f"upernet.ops.{module}")
        with ThreadPoolExecutor(1) as pool:  # in another thread, modes such as FakeTensorMode do not apply
            pool.submit(finish, module).result()
            pool.submit(kernels.warm_up).result()
        return ""
    except Exception as error:  # whatever stops a compiler: missing packages, versions, processors
        reason = f"Numba does not run here ({type(error).__name__}: {error})"
        warnings.warn(f"{module} is several times slower than it could be: {reason}", RuntimeWarning, stacklevel=3)
        return reason


def compiled_kernels() -> dict[Path, list[Path]]:
    """Return the folders in which Numba keeps the compiled kernels that this process has imported, and their files."""
    from numba.core.dispatcher import Dispatcher

    modules = [module for name, module in list(sys.modules.items()) if name.startswith("upernet.ops.")]
    kernels = [value for module in modules for value in vars(module).values() if isinstance(value, Dispatcher)]
    places = {path for kernel in kernels if (path := kernel.stats.cache_path)}
    return {Path(place): sorted(Path(place).glob("*.nb[ci]")) for place in sorted(places)}


@functools.cache
def bfloat16_unavailable() -> str:
    """Check that products of bfloat16 are faster than those of float32 on this CPU."""
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "oneDNN does not multiply bfloat16 on this processor"
    if reason := numba_unavailable("runtime.matmul"):
        return reason
    from upernet.ops.runtime.matmul import HAS_BFLOAT16

    return "" if HAS_BFLOAT16 else "this processor has no AVX-512 instructions for bfloat16"


@functools.cache
def int8_unavailable() -> str:
    """Check that this CPU has instructions that multiply int8."""
    if reason := numba_unavailable("runtime.matmul"):
        return reason
    from upernet.ops.runtime.matmul import HAS_INT8

    return "" if HAS_INT8 else "this processor has neither VNNI nor AVX2, which multiply int8"


def triton_unavailable() -> str:
    """Check that Triton is installed and that the user opted in: its kernels have not been run on a GPU yet."""
    if os.environ.get("UPERNET_TRITON", "").lower() in ("", "0", "false", "no", "off"):
        return "the Triton kernels have not been tested on a GPU; UPERNET_TRITON=1 enables them"
    return "" if importlib.util.find_spec("triton") else "Triton is not installed"
