"""``convops info``: that what it says is so."""

from __future__ import annotations

import json
import platform

import pytest
import torch
from click.testing import CliRunner

import torch_convops
from torch_convops import _library
from torch_convops.cli import info, main


def convops_info(*args: str) -> str:
    result = CliRunner().invoke(main, ["info", *args])
    assert result.exit_code == 0, result.output
    return result.output


def test_table_names_versions_library_and_algorithms() -> None:
    output = convops_info()
    for text in (torch.__version__, platform.python_version(), str(_library.PATH), torch_convops.build_info().isa):
        assert str(text) in output
    for operator in info.OPERATORS:
        assert f"{operator} on cpu" in output
        assert ", ".join(torch_convops.algorithms(operator)) in output


def test_json_says_what_the_library_says() -> None:
    facts = json.loads(convops_info("--json"))
    build = torch_convops.build_info()
    assert facts["versions"]["built with torch"] == build.built_with_torch
    assert facts["cpu"]["threads"] == torch.get_num_threads()
    assert bool(facts["cuda"]["architectures"]) == bool(build.cuda_archs)
    assert (facts["cuda"]["not built because"] is None) == bool(build.cuda_archs)
    assert facts["algorithms"]["conv2d"]["cpu"] == torch_convops.algorithms("conv2d")


def test_missing_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert info.NO_DEVICE in convops_info()
    assert json.loads(convops_info("--json"))["cuda"]["devices"] == []


def test_override_of_the_instruction_set_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    isa = torch_convops.build_info().isa
    monkeypatch.setenv("TORCH_CONVOPS_ISA", isa)
    assert f"{isa} (TORCH_CONVOPS_ISA={isa})" in convops_info()
    monkeypatch.setenv("TORCH_CONVOPS_ISA", "mmx")
    assert "TORCH_CONVOPS_ISA=mmx, not in effect" in convops_info()
