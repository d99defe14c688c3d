"""The environment of a run: versions, processor, commit of this package. Nothing here reads secrets or the network."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..results.record import Scalar
from .registry import ROOT

PACKAGES = (
    *("torch", "triton", "transformers", "datasets", "tokenizers", "numpy"),
    *("lm-eval", "peft", "flash-linear-attention"),
)
VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TRITON_INTERPRET", "HF_HUB_OFFLINE", "HEDGEBENCH_MIRROR")

_GPUS = Path("/proc/driver/nvidia/gpus")


@cache
def host_environment() -> dict[str, Scalar]:
    """Versions, processor and commit; no library is imported to find its version."""
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
    """Installed version of a distribution; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's name."""
    return _kernel_field([Path("/proc/cpuinfo")], "model name") or platform.processor() or platform.machine()


def gpu_name() -> str:
    """The name of the first NVIDIA device that `CUDA_VISIBLE_DEVICES` shows, found without importing torch.

    Devices count in the order of their bus addresses. CUDA may count the fastest first (`CUDA_DEVICE_ORDER`), which
    makes a difference only between unlike devices. Empty if the driver does not state the name, and for parts of a
    device.
    """
    files = sorted(_GPUS.glob("*/information"))
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    if first.isdecimal():
        shown = files[int(first) :][:1]
    else:
        shown = [file for file in files if first and _kernel_field([file], "GPU UUID").startswith(first)]
    return _kernel_field(shown, "Model")


def has_cuda_device() -> bool:
    """Whether an NVIDIA device is visible, found without importing torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return _GPUS.exists() or Path("/dev/nvidia0").exists()


def git_state(root: Path) -> dict[str, Scalar]:
    """Commit of the checkout that this package runs from, its date, and whether files differ; None if installed."""
    commit = _output_of("git", "-C", str(root), "rev-parse", "HEAD") if (root / ".git").exists() else None
    date = None if commit is None else commit_date(root, commit)
    changes = None if commit is None else _output_of("git", "-C", str(root), "status", "--porcelain")
    return {
        "git_commit": commit,
        "git_commit_date": date,
        "git_dirty": None if changes is None else bool(changes),
    }


def commit_date(root: Path, commit: str) -> str | None:
    """When a commit of a checkout was made, as ISO 8601 in UTC; None if the checkout does not have the commit."""
    seconds = _output_of("git", "-C", str(root), "show", "-s", "--format=%ct", commit, "--")
    return datetime.fromtimestamp(int(seconds), UTC).isoformat() if seconds and seconds.isdecimal() else None


def _kernel_field(files: Iterable[Path], name: str) -> str:
    """The value of the first line `NAME: VALUE` in the kernel's files; empty if no file has one."""
    lines = (line for file in files if file.exists() for line in file.read_text("utf-8", "replace").splitlines())
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _output_of(*command: str) -> str | None:
    """The output of a command; None if it is not installed, fails or takes more than a minute."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def device_environment(device_type: str) -> dict[str, Scalar]:
    """The device that torch computes on, and its versions; imports torch."""
    import torch

    processors = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    environment: dict[str, Scalar] = {
        "device": device_type,
        "threads": torch.get_num_threads(),
        "processors": processors,
    }
    if device_type == "cuda" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        driver = _output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        environment |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "gpu_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "driver": driver and driver.splitlines()[0],
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    return environment
