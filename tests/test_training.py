"""torch's tools around training, on converted models: the same numbers as with torch's layers."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
from conftest import DEVICES, assert_close, random
from torch.utils.checkpoint import checkpoint

import torch_convops
from torch_convops import nn


def network(dtype: torch.dtype = torch.float64) -> torch.nn.Sequential:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 8, 3, groups=4, stride=2),
        torch.nn.ConvTranspose2d(8, 4, 2, stride=2),
        torch.nn.AvgPool2d(2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    ).to(dtype)


def converted(model: torch.nn.Module) -> torch.nn.Module:
    model = copy.deepcopy(model)
    torch_convops.convert(model)
    return model


def gradients(
    model: torch.nn.Module, x: torch.Tensor, forward: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    output = forward(model, x)
    inputs = [x, *model.parameters()]
    output.square().sum().backward()
    return [output, *(tensor.grad for tensor in inputs)]


def assert_same(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)


# --- activation checkpointing ---


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_of_a_converted_model(reentrant: bool) -> None:
    x = random(2, 3, 14, 14, dtype=torch.float64)
    expected = gradients(network(), x, lambda model, x: model(x))
    actual = gradients(converted(network()), x, lambda model, x: checkpoint(model, x, use_reentrant=reentrant))
    assert_same(actual, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_override_inside_a_checkpoint(reentrant: bool) -> None:
    """What enters the mode itself is computed anew inside it."""
    records = []

    def forward(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        def segment(x: torch.Tensor) -> torch.Tensor:
            with torch_convops.override() as record:
                records.append(record)
                return model(x)

        return checkpoint(segment, x, use_reentrant=reentrant)

    x = random(2, 3, 14, 14, dtype=torch.float64)
    assert_same(gradients(network(), x, forward), gradients(network(), x, lambda model, x: model(x)))
    assert len(records) == 2
    assert [record.calls["conv2d"] for record in records] == [2, 2]


def test_override_around_a_checkpoint() -> None:
    again = torch_convops.override()

    def forward(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        with torch_convops.override():
            contexts = lambda: (contextlib.nullcontext(), again)  # noqa: E731
            return checkpoint(model, x, use_reentrant=False, context_fn=contexts)

    x = random(2, 3, 14, 14, dtype=torch.float64)
    assert_same(gradients(network(), x, forward), gradients(network(), x, lambda model, x: model(x)))
    assert again.calls["conv2d"] == 2


def test_reentrant_checkpoints_leave_the_mode() -> None:
    """They have no context_fn: what they compute anew outside of the block is torch's, and right."""

    def forward(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        with torch_convops.override() as record:
            output = checkpoint(model, x, use_reentrant=True)
        assert record.calls["conv2d"] == 2
        return output

    x = random(2, 3, 14, 14, dtype=torch.float64)
    assert_same(gradients(network(), x, forward), gradients(network(), x, lambda model, x: model(x)))


# --- mixed precision ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_with_a_scaler(device: str, dtype: torch.dtype) -> None:
    """Three steps of a converted model and of the model itself in float64."""
    model, exact = converted(network(torch.float32)).to(device), network()
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (model, exact)]
    for _ in range(3):
        x = random(4, 3, 14, 14)
        with torch.autocast(device, dtype):
            output = model(x.to(device))
        assert output.dtype is dtype
        scaler.scale(output.float().square().mean()).backward()
        scaler.step(optimizers[0])
        scaler.update()
        exact(x.double()).square().mean().backward()
        optimizers[1].step()
        for optimizer in optimizers:
            optimizer.zero_grad()
    assert scaler.get_scale() == 2.0**10, "no step was skipped"
    start = network()
    for actual, expected, before in zip(*(m.parameters() for m in (model, exact, start)), strict=True):
        assert actual.dtype is torch.float32
        moved = (expected - before).norm()
        # Each of the steps is rounded like a product of the dtype a few times on the way back.
        assert (actual.cpu().double() - expected).norm() < 30 * torch.finfo(dtype).eps * moved


@pytest.mark.parametrize("dtype", [torch.float16])
def test_a_scaler_skips_overflow(device: str, dtype: torch.dtype) -> None:
    model = converted(network(torch.float32)).to(device)
    before = copy.deepcopy(model.state_dict())
    scaler, optimizer = torch.amp.GradScaler(device, init_scale=2.0**100), torch.optim.SGD(model.parameters(), lr=1)
    with torch.autocast(device, dtype):
        output = model(random(2, 3, 14, 14, device=device))
    scaler.scale(output.sum().float()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**99
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- CUDA graphs: there is nothing to test without CUDA ---

if "cuda" in DEVICES:

    def test_cuda_graphs() -> None:
        model = converted(network(torch.float32)).cuda()
        x = random(4, 3, 14, 14, device="cuda", grad=True)
        graphed = torch.cuda.make_graphed_callables(copy.deepcopy(model), (x,))
        for _ in range(3):
            images = random(4, 3, 14, 14, device="cuda")
            forward = lambda model, x: model(x)  # noqa: E731
            model.zero_grad()
            graphed.zero_grad()
            assert_same(gradients(graphed, images, forward), gradients(model, images, forward))

    def test_cuda_graph_of_inference() -> None:
        model, x = converted(network(torch.float32)).cuda(), random(4, 3, 14, 14, device="cuda")
        stream = torch.cuda.Stream()
        with torch.no_grad(), torch.cuda.stream(stream):
            model(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph):
            output = model(x)
        x.copy_(random(4, 3, 14, 14))
        graph.replay()
        assert_close(output, model(x))


# --- per-sample gradients ---


def per_sample_gradients(model: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """One backward for each sample."""
    parameters = list(model.parameters())
    samples = [torch.autograd.grad(model(sample[None]).square().sum(), parameters) for sample in x]
    return [torch.stack(gradients) for gradients in zip(*samples, strict=True)]


def test_per_sample_gradients_by_transforms() -> None:
    model, x = converted(network()), random(4, 3, 14, 14, dtype=torch.float64)

    def loss(parameters: dict[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, parameters, sample[None]).square().sum()

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    actual = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    assert_same(list(actual.values()), per_sample_gradients(network(), x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("force_functorch", [False, True])
def test_per_sample_gradients_by_opacus(force_functorch: bool) -> None:
    """Its samplers go by the exact type of a layer; what has none, as these, it differentiates by torch.func."""
    from opacus.grad_sample import GradSampleModule

    wrapped = GradSampleModule(converted(network()), loss_reduction="sum", force_functorch=force_functorch)
    x = random(4, 3, 14, 14, dtype=torch.float64)
    wrapped(x).square().sum().backward()
    assert_same([p.grad_sample for p in wrapped.parameters()], per_sample_gradients(network(), x))


def test_expanded_weights_say_that_they_do_not_know_the_function() -> None:
    """Their rules are for the functions of torch.nn.functional: nothing is silently wrong."""
    from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

    forward = call_for_per_sample_grads(converted(network()))
    with pytest.raises(RuntimeError, match="cannot handle function conv2d"):
        forward(random(4, 3, 14, 14, dtype=torch.float64))


# --- what replaces or averages parameters ---


def test_exponential_moving_averages() -> None:
    averages = []
    for model in (network(), converted(network())):
        average = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(3)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(2, 3, 14, 14, dtype=torch.float64, generator=generator)).square().sum().backward()
            optimizer.step()
            average.update_parameters(model)
        averages.append(average)
    assert isinstance(averages[1].module[0], nn.Conv2d)
    x = random(2, 3, 14, 14, dtype=torch.float64)
    assert_close(averages[1](x), averages[0](x))


@pytest.mark.parametrize("when", ["before", "after"])
def test_pruning(when: str) -> None:
    from torch.nn.utils import prune

    model, stock = network(), network()
    if when == "after":
        torch_convops.convert(model)
    for m in (model, stock):
        for layer in (m[0], m[3], m[4]):
            prune.l1_unstructured(layer, "weight", 0.5)
    if when == "before":
        torch_convops.convert(model)
    x = random(2, 3, 14, 14, dtype=torch.float64)
    assert isinstance(model[0], nn.Conv2d)
    assert_same(*(gradients(m, x, lambda m, x: m(x)) for m in (model, stock)))
    prune.remove(model[0], "weight")
    assert (model[0].weight == 0).sum() == model[0].weight.numel() // 2
    assert_close(model(x), stock(x))


@pytest.mark.filterwarnings("ignore")
def test_fused_before_it_is_converted() -> None:
    """torch.ao's fusion goes by the exact types of torch.nn."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 3)).eval()
    model[1].running_mean.uniform_()
    x = random(2, 3, 9, 9)
    fused = torch.ao.quantization.fuse_modules(model, [["0", "1"]])
    assert list(torch_convops.convert(fused).converted) == ["0", "2"]
    assert_close(fused(x), model(x), roundings=2)
