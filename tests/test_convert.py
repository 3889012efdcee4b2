"""Conversion of models: nothing but the type of layers changes, and with it the kernels."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import assert_close, random
from test_layers import LAYERS
from torch.nn.utils import fusion, parametrizations, parametrize

import torch_convops
from torch_convops import nn
from torch_convops.cli import zoo

MODELS = (
    "resnet18",
    "mobilenet_v3_small",
    "densenet121",
    "googlenet",
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "convnext_tiny",
    "efficientnet_b0",
    zoo.DETECTION,
    zoo.SEGMENTATION,
)


@pytest.mark.parametrize("name", MODELS)
def test_models_of_torchvision(name: str) -> None:
    """Outputs and all gradients, also of pooling that is called as a function."""
    comparison = zoo.compare(name)
    assert comparison.output_error < 1e-6
    assert 0 < comparison.gradient_error < 1e-6
    assert comparison.swapped > 20
    assert comparison.left == 0


def network(module: Any = torch.nn) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        module.Conv2d(3, 4, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        module.MaxPool2d(2),
        torch.nn.Sequential(module.ConvTranspose2d(4, 4, 2, stride=2), module.AvgPool2d(2)),
        module.LPPool2d(2, 2, ceil_mode=True),
        module.AdaptiveMaxPool2d(3),
        module.AdaptiveAvgPool2d((1, 1)),
    )


NAMES = ["0", "3", "4.0", "4.1", "5", "6", "7"]


def types(model: torch.nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


@pytest.mark.parametrize("name, options", LAYERS, ids=str)
def test_every_layer_becomes_ours_and_torchs_again(name: str, options: dict[str, Any]) -> None:
    layer, built = getattr(torch.nn, name)(**options), getattr(nn, name)(**options)
    attributes = {key: value for key, value in vars(layer).items() if not key.startswith("_")}
    built.load_state_dict(layer.state_dict())
    x = random(2, options.get("in_channels", 3), 9, 10)
    expected = layer(x)
    report = torch_convops.convert(layer)
    assert report.converted == {"": getattr(nn, name)}
    assert type(layer) is getattr(nn, name)
    assert {key: value for key, value in vars(layer).items() if not key.startswith("_")} == attributes
    assert repr(layer) == repr(built)
    assert first(layer(x)).equal(first(built(x)))
    for reverted in (layer, built):
        torch_convops.revert(reverted)
        assert type(reverted) is getattr(torch.nn, name)
        assert first(reverted(x)).equal(first(expected))


def first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def test_unpooling() -> None:
    pool, unpool = torch.nn.MaxPool2d(2, return_indices=True), torch.nn.MaxUnpool2d(2)
    x = random(2, 3, 6, 8)
    expected = unpool(*pool(x))
    torch_convops.convert(unpool)
    assert type(unpool) is nn.MaxUnpool2d
    assert torch.equal(unpool(*pool(x)), expected)


def test_parameters_are_the_same_and_optimizers_go_on() -> None:
    """Converted in the middle of training, by a model that was not."""
    models = [network().double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    x = random(4, 3, 16, 16, dtype=torch.float64)
    for step, model in enumerate(models):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for epoch in range(4):
            if step == 1 and epoch == 2:
                before = dict(model.named_parameters()), copy.deepcopy(model.state_dict())
                model[0].eval()
                torch_convops.convert(model)
                assert not model[0].training
                model[0].train()
                assert all(parameter is before[0][name] for name, parameter in model.named_parameters())
                assert list(model.state_dict()) == list(before[1])
                assert all(torch.equal(value, before[1][key]) for key, value in model.state_dict().items())
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    for ours, torchs in zip(*(model.state_dict().values() for model in reversed(models)), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-9, atol=1e-12)


def test_the_report_and_reverting() -> None:
    model = network()
    before = types(model)
    report = torch_convops.convert(model)
    assert list(report.converted) == NAMES
    assert report.converted["4.0"] is nn.ConvTranspose2d
    assert not report.left
    assert str(report).startswith("7 layers swapped (1 torch_convops.nn.AdaptiveAvgPool2d, 1 ")
    assert types(model) == types(network(nn))
    again = torch_convops.convert(model)
    assert str(again) == "0 layers swapped, 0 left"
    assert list(torch_convops.revert(model).converted) == NAMES
    assert types(model) == before
    assert not torch_convops.revert(model).converted


@pytest.mark.parametrize(
    "options, names",
    [
        ({"include": "4.*"}, ["4.0", "4.1"]),
        ({"include": "4"}, ["4.0", "4.1"]),
        ({"include": ["0", torch.nn.AvgPool2d]}, ["0", "4.1"]),
        ({"include": torch.nn.Sequential, "exclude": "[3-6]*"}, ["0", "7"]),
        ({"exclude": (torch.nn.Conv2d, "4")}, ["3", "5", "6", "7"]),
        ({"include": ()}, []),
    ],
    ids=str,
)
def test_selection(options: dict[str, Any], names: list[str]) -> None:
    report = torch_convops.convert(network(), **options)
    assert list(report.converted) == names
    assert list(report.left) == [name for name in NAMES if name not in names]
    assert set(report.left.values()) <= {"excluded", "not included"}


def test_shared_layers_are_one() -> None:
    pool = torch.nn.MaxPool2d(2)
    model = torch.nn.Sequential(pool, torch.nn.Sequential(pool))
    assert torch_convops.convert(model, exclude="1").left == {"0": "excluded"}
    assert torch_convops.convert(model, include="1").converted == {"0": nn.MaxPool2d}
    assert type(model[1][0]) is nn.MaxPool2d


class SameConv2d(torch.nn.Conv2d):
    """What libraries of models do."""


class OwnConv2d(nn.Conv2d):
    pass


def test_what_is_not_known_is_left_and_said() -> None:
    replaced, integers = torch.nn.MaxPool2d(2), torch.nn.Conv2d(3, 3, 3)
    replaced.forward = lambda input: input  # type: ignore[method-assign]
    integers.weight = torch.nn.Parameter(torch.ones(3, 3, 3, 3, dtype=torch.int64), requires_grad=False)
    subclass = torch.nn.Conv2d(3, 3, 3)
    subclass.weight = torch.nn.Parameter(torch.ones(3, 3, 3, 3).as_subclass(Weight))
    model = torch.nn.Sequential(
        SameConv2d(3, 3, 3),
        replaced,
        integers,
        subclass,
        torch.ao.nn.quantized.Conv2d(3, 3, 3),
        OwnConv2d(3, 3, 3),
        torch.nn.Conv1d(3, 3, 3),
    )
    report = torch_convops.convert(model)
    assert not report.converted
    assert report.left == {
        "0": f"{__name__}.SameConv2d is a subclass of torch.nn.Conv2d",
        "1": "its forward is replaced",
        "2": "its weight is int64",
        "3": f"its weight is a {__name__}.Weight",
        "4": "torch.ao.nn.quantized.modules.conv.Conv2d is not torch.nn's",
    }
    assert f"\n  0: {__name__}.SameConv2d is" in str(report)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3)))
    assert torch_convops.convert(scripted).left == {"0": "compiled by TorchScript"}


class Weight(torch.Tensor):
    pass


def test_what_torch_cannot_say_is_left() -> None:
    model = torch.nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=((1, 0), (0, 1))),
        nn.Conv2d(3, 3, 3, stride=2, padding="same"),
        nn.Conv2d(3, 3, 3, padding="same_lower"),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="symmetric"),
        nn.ConvTranspose2d(3, 3, 3, padding="valid"),
        nn.MaxPool2d(2, padding="same"),
        nn.AvgPool2d(3, padding=(1, 0, 0, 1)),
        nn.ConvBlurPool2d(3, 3, 3),
        OwnConv2d(3, 3, 3),
    )
    before = types(model)
    report = torch_convops.revert(model)
    assert not report.converted
    assert list(report.left) == ["0", "1", "2", "3", "4", "5", "6", "7", "7.blur", "8"]
    assert report.left["1"] == "padding='same' is not torch's"
    assert report.left["3"] == "padding_mode='symmetric' is not torch's"
    assert report.left["7"] == "torch.nn has no ConvBlurPool2d"
    assert report.left["8"] == f"{__name__}.OwnConv2d is a subclass of torch_convops.nn.Conv2d"
    assert types(model) == before


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got 3"):
        torch_convops.convert(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="include must be glob patterns of names or types, got 3"):
        torch_convops.convert(network(), include=[3])  # type: ignore[list-item]


def test_hooks_still_run() -> None:
    layer, ran = torch.nn.Conv2d(3, 4, 3), []
    layer.register_forward_pre_hook(lambda *_: ran.append("before"))
    layer.register_forward_hook(lambda *_: ran.append("after"))
    layer.register_full_backward_hook(lambda *_: ran.append("backward"))
    layer.register_state_dict_post_hook(lambda *_: ran.append("state_dict"))
    layer.register_load_state_dict_post_hook(lambda *_: ran.append("load"))
    torch_convops.convert(layer)
    layer(random(1, 3, 8, 8, grad=True)).sum().backward()
    layer.load_state_dict(layer.state_dict())
    assert ran == ["before", "after", "backward", "state_dict", "load"]


PARAMETRIZATIONS = [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_parametrizations(parametrization: Callable[[torch.nn.Module], torch.nn.Module], when: str) -> None:
    layer = torch.nn.Conv2d(3, 4, 3).eval()
    if when == "after":
        torch_convops.convert(layer)
    parametrization(layer)
    copied = copy.deepcopy(layer)
    if when == "before":
        report = torch_convops.convert(layer)
        assert report.converted == {"": nn.Conv2d}
    x = random(2, 3, 8, 8)
    assert type(layer).__name__ == "ParametrizedConv2d"
    assert isinstance(layer, nn.Conv2d)
    assert_close(layer(x), copied(x))
    assert list(layer.state_dict()) == list(copied.state_dict())
    layer(x).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    torch_convops.revert(copied)
    assert type(copied).__bases__ == (torch.nn.Conv2d,)
    assert_close(layer(x), copied(x))
    for module, kind in ((layer, nn.Conv2d), (copied, torch.nn.Conv2d)):
        expected = module(x)
        parametrize.remove_parametrizations(module, "weight")
        assert type(module) is kind
        assert_close(module(x), expected)


def test_weight_norm_by_hooks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = torch.nn.utils.weight_norm(torch.nn.ConvTranspose2d(3, 4, 3))
    x = random(2, 3, 8, 8)
    expected = layer(x)
    torch_convops.convert(layer)
    assert_close(layer(x), expected)
    torch.nn.utils.remove_weight_norm(layer)
    assert type(layer) is nn.ConvTranspose2d
    assert_close(layer(x), expected)


def test_fusing_with_batch_norm() -> None:
    model = network().eval()
    x = random(2, 3, 16, 16)
    expected = model[1](model[0](x))
    torch_convops.convert(model)
    fused = fusion.fuse_conv_bn_eval(model[0], model[1])
    assert type(fused) is nn.Conv2d
    assert_close(fused(x), expected)


def test_copies_and_files() -> None:
    model, x = network(), random(2, 3, 16, 16)
    torch_convops.convert(model)
    model.eval()
    file = io.BytesIO()
    torch.save(model, file)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded, averaged.module):
        assert types(other) == types(model)
        assert torch.equal(other.eval()(x), model(x))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    stock = network()
    stock.load_state_dict(torch.load(file, weights_only=True))
    assert_close(stock.eval()(x), model(x))


@pytest.mark.parametrize("when", ["before", "after"])
def test_lazy_layers(when: str) -> None:
    model = torch.nn.Sequential(torch.nn.LazyConv2d(4, 3, padding=1), torch.nn.LazyConvTranspose2d(2, 3))
    x = random(2, 3, 8, 8)
    if when == "after":
        model(x)
    report = torch_convops.convert(model)
    assert len(report.converted) == 2
    y = model(x)
    assert types(model)[1:] == [nn.Conv2d, nn.ConvTranspose2d]
    torch_convops.revert(model)
    assert_close(y, model(x))


def test_lazy_layers_take_what_torchs_do_not() -> None:
    layer = nn.LazyConv2d(4, 3, stride=2, padding="same", padding_mode="symmetric")
    assert layer(random(2, 3, 9, 9)).shape == (2, 4, 5, 5)
    assert type(layer) is nn.Conv2d


def test_borders_of_reverted_layers() -> None:
    """torch keeps the pads of its padded copy aside."""
    x = random(2, 3, 9, 9)
    for options in ({"padding": "same", "dilation": 2}, {"padding": "valid"}, {"padding": (1, 2)}):
        layer = nn.Conv2d(3, 4, (4, 3), padding_mode="circular", **options)
        expected = layer(x)
        assert list(torch_convops.revert(layer).converted.values()) == [torch.nn.Conv2d]
        assert_close(layer(x), expected)


def test_meta_device() -> None:
    with torch.device("meta"):
        model = network()
    torch_convops.convert(model)
    assert model(torch.empty(2, 3, 16, 16, device="meta")).shape == (2, 4, 1, 1)
    model.to_empty(device="cpu")
    stock = network()
    model.load_state_dict(stock.state_dict())
    x = random(2, 3, 16, 16)
    assert_close(model(x), stock(x))


def test_symbolic_traces() -> None:
    """Layers stay leaves where they are torch.nn's while the trace is made; ours are traced, to their functions."""
    model, x = network().eval(), random(2, 3, 16, 16)
    expected = model(x)
    graph = torch.fx.symbolic_trace(copy.deepcopy(model))
    assert len(torch_convops.convert(graph).converted) == len(NAMES)
    assert [node.op for node in graph.graph.nodes].count("call_module") == len(types(model)) - 2
    torch_convops.convert(model)
    for traced in (graph, torch.fx.symbolic_trace(model)):
        for other in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
            assert_close(other(x), expected)
            assert list(other.state_dict()) == list(model.state_dict())
    functions = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert [function.__name__ for function in functions] == [
        "conv2d",
        "max_pool2d",
        "conv_transpose2d",
        "avg_pool2d",
        "lp_pool2d",
        "adaptive_max_pool2d",
        "adaptive_avg_pool2d",
    ]


def test_compiled_models_see_the_conversion() -> None:
    torch._dynamo.reset()
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(sum("convops" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    model, x = network().eval(), random(2, 3, 16, 16)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    expected = compiled(x)
    torch_convops.convert(compiled)
    assert_close(compiled(x), expected)
    assert graphs[0] == 0
    assert graphs[1] >= len(NAMES)
    torch._dynamo.reset()
