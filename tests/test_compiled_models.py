"""Whole models, converted: torch.compile, torch.export and AOTInductor give what eager gives."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import random

import torch_convops
from torch_convops.cli import zoo


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Residual(torch.nn.Module):
    """What a ResNet is made of, small enough for a C++ compiler to run in a test."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(3, 2, 1),
        )
        self.block = torch.nn.Sequential(
            torch.nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
        )
        self.head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = self.stem(images)
        output: torch.Tensor = self.head(images + self.block(images))
        return output


def residual(device: str) -> torch.nn.Module:
    torch.manual_seed(1)
    model = Residual().to(device, torch.float64)
    assert not torch_convops.convert(model).left
    return model


def resnet18(device: str) -> torch.nn.Module:
    model = zoo.build("resnet18").to(device)
    assert not torch_convops.convert(model).left
    return model


def assert_trains_like_eager(model: torch.nn.Module, images: torch.Tensor, backend: str) -> None:
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    results = []
    for call, parameters in ((compiled, model.parameters()), (eager, eager.parameters())):
        output = call(images)
        results.append([output, *torch.autograd.grad(output.square().sum(), list(parameters))])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)  # batch norm sums in another order
    for actual, expected in zip(model.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(actual, expected)


def test_compile_resnet18(device: str) -> None:
    assert_trains_like_eager(resnet18(device), random(2, 3, 64, 64, device=device, dtype=torch.float64), "aot_eager")


def test_compile_by_inductor(device: str) -> None:
    assert_trains_like_eager(residual(device), random(2, 3, 24, 24, device=device, dtype=torch.float64), "inductor")


def test_export_resnet18(device: str) -> None:
    """Saved and loaded, with a batch of any size."""
    model = resnet18(device).eval()
    images = random(2, 3, 64, 64, device=device, dtype=torch.float64)
    shapes = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model, (images,), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    targets = [str(node.target) for node in loaded.graph.nodes if node.op == "call_function"]
    assert sum("torch_convops.conv2d" in target for target in targets) == 20
    for batch in (images, random(3, 3, 64, 64, device=device, dtype=torch.float64)):
        assert torch.equal(loaded.module()(batch), model(batch))


def test_ahead_of_time_resnet18(device: str, tmp_path: Path) -> None:
    model = resnet18(device).eval()
    images = random(2, 3, 64, 64, device=device, dtype=torch.float64)
    with torch.no_grad():
        program = torch.export.export(model, (images,))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
        loaded = torch._inductor.aoti_load_package(package)
        torch.testing.assert_close(loaded(images), model(images))
