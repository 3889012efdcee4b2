"""``convops check``: that it passes here, and that it would notice what it looks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from torch_convops import algorithms
from torch_convops.cli import check, main
from torch_convops.cli.info import OPERATORS


def convops_check(*args: str) -> Result:
    return CliRunner().invoke(main, ["check", "--device", "cpu", "--quick", *args])


def case(operator: str, name: str) -> check.Case:
    return next(c for c in check.cases() if (c.operator, c.name) == (operator, name))


class _WrongGradient(torch.autograd.Function):
    """The identity, with a backward that is off by a hundredth."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return 1.01 * grad


def test_everything_passes_and_every_algorithm_is_named() -> None:
    result = convops_check()
    assert result.exit_code == 0, result.output
    assert " 0 failed" in result.output and "FAILED" not in result.output
    for operator in OPERATORS:
        assert operator in result.output
        assert all(name in result.output for name in algorithms(operator))


@pytest.mark.parametrize("operator, name", [("conv2d", "same"), ("conv2d", "1x1"), ("max_pool2d", "3s2p1")])
def test_entries_of_the_jacobian_are_checked_without_quick(operator: str, name: str) -> None:
    (algorithm,) = (a for a in algorithms(operator) if a in ("implicit_gemm", "separable"))
    verdicts = check.check(case(operator, name), algorithm, "cpu")
    assert [verdict.format for verdict in verdicts] == list(check.FORMATS)
    assert all(outcome == check.OK for verdict in verdicts for outcome in verdict.outcomes)


def test_wrong_value_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = case("avg_pool2d", "2s2")
    wrong = replace(right, reference=lambda image: right.reference(image) * 1.001)
    monkeypatch.setattr(check, "cases", lambda: [wrong])
    result = convops_check()
    assert result.exit_code == 1
    assert "FAILED" in result.output and "relative error" in result.output


def test_wrong_gradient_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = case("avg_pool2d", "2s2")
    wrong = replace(right, function=lambda image, algorithm: _WrongGradient.apply(right.function(image, algorithm)))
    for verdict in check.check(wrong, "separable", "cpu", quick=True):
        assert verdict.value == check.OK
        assert verdict.gradcheck not in (check.OK, check.NOT_APPLICABLE)
        assert verdict.failed


def test_exception_is_a_failure() -> None:
    def broken(*_: object) -> torch.Tensor:
        raise TypeError("broken")

    (verdict, *_) = check.check(replace(case("max_pool2d", "2s2"), passes=(broken, broken)), "separable", "cpu", True)
    assert verdict.failed and verdict.value == "TypeError: broken"


def test_unsupported_case_is_not_applicable_and_not_passed() -> None:
    (verdict,) = check.check(case("conv2d", "valid"), "depthwise", "cpu", quick=True)
    assert set(verdict.outcomes) == {check.NOT_APPLICABLE}
    assert not verdict.applies and not verdict.failed


def test_algorithm_that_no_case_uses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    used = [c for c in check.cases() if c.name == "unbatched"]  # nothing depthwise
    monkeypatch.setattr(check, "cases", lambda: used)
    result = convops_check()
    assert result.exit_code == 1
    assert "conv2d, all, depthwise, cpu, any: no case uses this algorithm" in result.output


def test_cuda_without_a_device_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(main, ["check", "--device", "cuda"])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: ")
