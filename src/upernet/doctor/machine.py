"""Processor, cores, memory, devices, and the build of torch."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from upernet.doctor.finding import Facts, Finding

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's index of builds without CUDA."""
FEATURES = (
    *("avx2", "fma", "f16c", "avx512f", "avx512bf16", "avx512vnni", "amx-bf16", "amx-int8"),
    *("neon", "fullfp16", "bf16", "i8mm", "sve", "sve2"),
)
"""Features of x86 and ARM processors that decide on the speed of networks, by LLVM's names."""
LITTLE_MEMORY = 2**30
"""Bytes of available memory below which parsing large photos may fail."""
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
"""Exists on Linux where the driver of an NVIDIA GPU is loaded."""


def examine_machine() -> tuple[Facts, list[Finding]]:
    """Return the processor and the memory."""
    from upernet.scaffold.defaults import usable_memory

    memory = {"total": usable_memory(), "available": available_memory()}
    findings: list[Finding] = []
    if memory["available"] is not None and memory["available"] < LITTLE_MEMORY:
        findings.append(
            Finding(
                f"only {memory['available'] / 2**20:.0f} MiB of memory are available",
                "end other programs, or give the container more memory",
                broken=False,
            )
        )
    return {"processor": processor_name(), "memory": memory}, findings


def examine_torch() -> tuple[Facts, list[Finding]]:
    """Return what torch was built for and its size on disk, the CPU's features, and the number of threads."""
    import torch

    from upernet.ops.runtime.cores import THREAD_VARIABLES, affinity, cpu_quota, usable_cores
    from upernet.ops.runtime.openmp import openmp

    folder = Path(torch.__file__).parent
    sizes = {name: size_of(folder.parent / name) for name in ("torch", "nvidia", "triton")}
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "CPU"
    facts: Facts = {
        "torch": {
            "version": torch.__version__,
            "build": build,
            "folder": str(folder),
            "bytes": {name: size for name, size in sizes.items() if size},
        },
        "cpu": {"capability": torch.backends.cpu.get_cpu_capability(), "features": cpu_features()},
        "threads": {
            "used": torch.get_num_threads(),
            "usable_cores": usable_cores(),
            "cores": os.cpu_count(),
            "affinity": len(affinity()),
            "cgroup_quota": cpu_quota(),
            "gnu_openmp": openmp() is not None,
        },
    }
    findings: list[Finding] = []
    has_gpu = torch.cuda.is_available()
    if build != "CPU" and not has_gpu and not NVIDIA_DRIVER.exists() and not torch.version.hip:
        findings.append(
            Finding(
                f"torch is built for {build} and takes {sum(sizes.values()) / 1e9:.1f} GB of disk, but there is no GPU",
                f"in a new virtual environment: pip install torch torchvision --index-url {CPU_INDEX}, then upernet",
                broken=False,
            )
        )
    if NVIDIA_DRIVER.exists() and not has_gpu:
        fix = (
            "pip install --force-reinstall torch torchvision"
            if build == "CPU"
            else "python -c 'import torch; torch.zeros(1).cuda()' prints the reason; usually, the driver is too old"
        )
        findings.append(
            Finding(f"there is an NVIDIA GPU, but torch (built for {build}) does not use it", fix, broken=False)
        )
    if torch.get_num_threads() > usable_cores():
        chosen = next((name for name in THREAD_VARIABLES if os.environ.get(name)), None)
        findings.append(
            Finding(
                f"{torch.get_num_threads()} threads share {usable_cores()} cores, which makes all of them slower",
                f"unset {chosen}" if chosen else "call upernet.ops.set_threads() without a number",
                broken=False,
            )
        )
    return facts, findings


def examine_devices() -> tuple[Facts, list[Finding]]:
    """Return the devices that torch can compute on, the default one first."""
    import torch

    from upernet.devices import default_device

    found: list[Facts] = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(number)
        found.append({"device": f"cuda:{number}", "name": about.name, "memory": about.total_memory})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU", "memory": None})
    found.append({"device": "cpu", "name": processor_name(), "memory": None})
    found.sort(key=lambda row: not str(row["device"]).startswith(str(default_device())))
    return {"devices": found}, []


def processor_name() -> str:
    """Return the name of the processor as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # macOS and Windows
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """Return those of `FEATURES` that this processor has."""
    try:
        from llvmlite.binding import get_host_cpu_features

        has = get_host_cpu_features()
    except (ImportError, RuntimeError):  # LLVM does not know the features of every processor
        return []
    return [name for name in FEATURES if has.get(name)]


def available_memory() -> int | None:
    """Return the bytes of memory that programs can take without swapping, or None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder, without following links; 0 if there is no such folder."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
