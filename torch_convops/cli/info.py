"""``convops info``: what is installed, and what it runs on here."""

from __future__ import annotations

import json
import os
from typing import Any

import click
import torch
from rich.table import Table

from .. import _library, algorithms, build_info
from .._library import OPERATORS
from ..bench.machine import cpu_model, cuda_devices, versions
from ._tables import make_console, print_table

NO_DEVICE = "no CUDA device"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show versions, devices and the operators of the compiled library."""
    facts = _facts()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        print_table(make_console(), _table(facts))


def _facts() -> dict[str, Any]:
    build = build_info()
    return {
        "versions": versions(),
        "library": str(_library.PATH),
        "cpu": {
            "model": cpu_model(),
            "isa": build.isa,
            "TORCH_CONVOPS_ISA": os.environ.get("TORCH_CONVOPS_ISA"),
            "threads": torch.get_num_threads(),
        },
        "cuda": {
            "architectures": build.cuda_archs.split(";") if build.cuda_archs else [],
            "not built because": build.no_cuda_reason or None,
            "cuda of torch": torch.version.cuda,
            "devices": cuda_devices(),
        },
        "algorithms": {
            operator: {device: algorithms(operator, device) for device in ("cpu", "cuda")} for operator in OPERATORS
        },
    }


def _table(facts: dict[str, Any]) -> Table:
    cpu, cuda = facts["cpu"], facts["cuda"]
    table = Table(title="torch_convops", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, version in facts["versions"].items():
        table.add_row(name, version)
    table.add_row("library", facts["library"])
    table.add_section()
    table.add_row("CPU", cpu["model"])
    table.add_row("instruction set", _instruction_set(cpu["isa"], cpu["TORCH_CONVOPS_ISA"]))
    table.add_row("threads", str(cpu["threads"]))
    table.add_section()
    table.add_row("CUDA architectures", ", ".join(cuda["architectures"]) or f"none: {cuda['not built because']}")
    table.add_row("CUDA of torch", cuda["cuda of torch"] or "none")
    devices = [f"{device['name']} ({device['capability']})" for device in cuda["devices"]]
    table.add_row("CUDA devices", "\n".join(devices) or NO_DEVICE)
    table.add_section()
    for operator, by_device in facts["algorithms"].items():
        for device, names in by_device.items():
            if names:
                table.add_row(f"{operator} on {device}", ", ".join(names))
    return table


def _instruction_set(isa: str, override: str | None) -> str:
    """The variable can only ask for less than the machine has."""
    if override is None:
        return isa
    return f"{isa} (TORCH_CONVOPS_ISA={override}{'' if override == isa else ', not in effect'})"
