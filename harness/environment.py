"""What a run ran on: versions, processor, commit of this package. Never anything secret, never a network call."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..results.record import Scalar
from .registry import ROOT

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "datasets",
    "tokenizers",
    "numpy",
    "lm-eval",
    "peft",
    "flash-linear-attention",
)
VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TRITON_INTERPRET", "HF_HUB_OFFLINE", "HEDGEBENCH_MIRROR")


@cache
def host_environment() -> dict[str, Scalar]:
    """Versions, processor and commit, without importing any of the libraries it names."""
    from .. import __version__

    environment: dict[str, Scalar] = {
        "hedgebench": __version__,
        **git_state(ROOT),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count() or 0,
    }
    environment |= {name: package_version(name) for name in PACKAGES}
    environment |= {name: os.environ[name] for name in VARIABLES if name in os.environ}
    return environment


def package_version(name: str) -> str | None:
    """Installed version of a distribution; None when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_state(root: Path) -> dict[str, Scalar]:
    """Commit of the checkout that this package runs from, and whether files differ; None when it is installed."""
    if not (root / ".git").exists():
        return {"git_commit": None, "git_dirty": None}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_dirty": None}
    return {"git_commit": commit, "git_dirty": dirty}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def device_environment(device_type: str) -> dict[str, Scalar]:
    """What torch says of the device that it computes on; imports torch."""
    import torch

    processors = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    environment: dict[str, Scalar] = {
        "device": device_type,
        "threads": torch.get_num_threads(),
        "processors": processors,
    }
    if device_type == "cuda" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        environment |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "gpu_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "driver": _driver_version(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    return environment


def _driver_version() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split("\n")[0].strip()


def has_cuda_device() -> bool:
    """Whether an NVIDIA device is visible, told without importing torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return Path("/proc/driver/nvidia/gpus").exists() or Path("/dev/nvidia0").exists()


def gpu_name() -> str:
    """The first NVIDIA device's name, told without importing torch; empty where the driver does not say."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return ""
