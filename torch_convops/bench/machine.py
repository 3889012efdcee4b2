"""Which machine and which versions a result is from."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from .. import __version__, build_info


def cpu_model() -> str:
    """The processor's name, as exactly as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def cuda_devices() -> list[dict[str, str]]:
    """Name and compute capability of each CUDA device that torch sees."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [
        {
            "name": torch.cuda.get_device_name(index),
            "capability": ".".join(map(str, torch.cuda.get_device_capability(index))),
        }
        for index in range(count)
    ]


def versions() -> dict[str, str]:
    return {
        "torch_convops": __version__,
        "torch": str(torch.__version__),
        "built with torch": build_info().built_with_torch,
        "python": platform.python_version(),
    }


def machine(device: str) -> dict[str, Any]:
    description: dict[str, Any] = {"cpu": cpu_model(), "isa": build_info().isa, "threads": torch.get_num_threads()}
    if device == "cuda":
        description |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return description
