"""`bench env`: versions, devices, Triton, and the sources of data. Imports torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import registry
from ..config import RunConfig
from ..environment import device_environment, host_environment, package_version
from ..plan import make_sources


def environment_report(mirror: str | None) -> dict[str, Any]:
    """The environment that a run would have, by section."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sources = make_sources(RunConfig(models=(), tasks=(), mirror=mirror))
    return {
        "host": dict(host_environment()),
        "device": device_environment(device),
        "triton": _triton(device),
        "sources": {
            "mirror": str(sources.mirror) if sources.mirror else None,
            "mirror data sets": _mirrored(sources.mirror, "datasets"),
            "mirror models": _mirrored(sources.mirror, "models"),
            "hub": "off (HF_HUB_OFFLINE=1)" if sources.offline else os.environ.get("HF_ENDPOINT", "on"),
            "cache": str(sources.cache),
        },
        "plugins": {"broken": {**registry.mechanisms().broken, **registry.tasks().broken}},
    }


def print_environment(report: dict[str, Any], console: Console) -> None:
    """Prints the report, a line for each fact."""
    for section, facts in report.items():
        console.print(section, style="bold")
        for name, value in facts.items():
            console.print(f"  {name}: {', '.join(value) if isinstance(value, list) else value}", markup=False)


def _triton(device: str) -> dict[str, Any]:
    version = package_version("triton")
    if version is None:
        return {"version": None, "usable": "no: not installed"}
    return {"version": version, "usable": "yes" if device == "cuda" else "no: there is no CUDA device"}


def _mirrored(mirror: Path | None, kind: str) -> list[str]:
    folder = mirror / kind if mirror else None
    if folder is None or not folder.is_dir():
        return []
    return sorted(f"{path.parent.name}/{path.name}" for path in folder.glob("*/*") if path.is_dir())
