"""What figures depend on: `about()` goes into every file of results."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

THREADS = 2  # of every search and product on the CPU, ours and the peers'
ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "numpy", "triton", "faiss-cpu", "usearch", "sentence-transformers", "onnxruntime",
            "onnxruntime-gpu", "tensorrt", "transformers", "flashlib", "jax")  # fmt: skip


def about(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Device, commit, date, versions, threads and load, as plain values.

    dirty: whether tracked files differ from the commit, but for results.
    """
    device = torch.device(device)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "commit": _git("rev-parse", "--short", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results")),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "cuda": str(torch.version.cuda) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load": os.getloadavg(),
        "versions": versions(PACKAGES),
    }  # fmt: skip


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The processor's name and its number of cores."""
    name = platform.processor() or platform.machine()
    file = Path("/proc/cpuinfo")
    if file.is_file():
        found = re.search(r"model name\s*: (.+)", file.read_text(encoding="utf-8"))
        name = found[1].strip() if found else name
    return f"{name}, {os.cpu_count()} cores"


def _git(*arguments: str) -> str:
    """What git prints, or nothing where there is no git or no repository."""
    try:
        child = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return child.stdout.strip() if child.returncode == 0 else ""
