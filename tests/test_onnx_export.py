"""torch.onnx.export of every operator, run by onnxruntime against the operators themselves."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from conftest import assert_close, random

import torch_convops
from torch_convops import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    blur_pool2d,
    conv2d,
    conv_transpose2d,
    convolve2d,
    global_avg_pool2d,
    global_max_pool2d,
    lp_pool2d,
    max_pool2d,
    max_unpool2d,
)

pytest.importorskip("onnxscript", reason="onnxscript is in the test extra; it is not installed here")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is in the test extra; it is not installed here")

ops = torch.ops.torch_convops
Case = Callable[[torch.Tensor], Any]
DYNAMIC = torch.export.Dim.DYNAMIC
# Odd and even sides, that strides and windows cut unevenly; what a model with dynamic sizes also has to take.
IMAGE, OTHERS = (2, 4, 12, 11), ((1, 4, 9, 16), (3, 4, 15, 14))


class Model(torch.nn.Module):
    """Calls every case on its input; a case's tensors are constants of the model."""

    def __init__(self, *cases: Case) -> None:
        super().__init__()
        self.cases = cases

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(tensor for case in self.cases for tensor in tensors(case(x)))


def tensors(result: Any) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def export(model: torch.nn.Module, x: torch.Tensor, dynamic: Sequence[int] = (), **options: Any) -> Any:
    table = torch_convops.onnx.translation_table()
    if dynamic:
        options["dynamic_shapes"] = (dict.fromkeys(dynamic, DYNAMIC),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside onnxscript
        return torch.onnx.export(
            model.eval(), (x,), dynamo=True, custom_translation_table=table, verbose=False, **options
        )


def run(program: Any, x: torch.Tensor) -> list[torch.Tensor]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (name,) = (argument.name for argument in session.get_inputs())
    return [torch.from_numpy(y) for y in session.run(None, {name: x.numpy()})]


def node_types(program: Any) -> list[str]:
    return [node.op_type for node in program.model.graph]


def check(
    cases: dict[str, Case],
    x: torch.Tensor,
    dynamic: Sequence[int] = (),
    others: Sequence[torch.Tensor] = (),
    **options: Any,
) -> None:
    """Exports one model of all cases, and compares it on every input."""
    program = export(Model(*cases.values()), x, dynamic, **options)
    for image in (x, *others):
        expected = [(name, tensor) for name, case in cases.items() for tensor in tensors(case(image))]
        for (name, e), y in zip(expected, run(program, image), strict=True):
            assert y.dtype == e.dtype, name
            if e.is_floating_point():
                assert_close(y, e, (name, tuple(image.shape)), roundings=4)
            else:
                assert torch.equal(y, e), (name, tuple(image.shape))


# --- the cases: every mode of every operator ---

KERNEL = random(6, 4, 3, 2)
GROUPED = random(8, 2, 2, 3)
DEPTHWISE = random(4, 1, 3, 3)
BIAS = random(8)
TRANSPOSED = random(4, 3, 3, 2)
FILTER = random(4, 3, 2)
PADS = {"none": 0, "int": 1, "pair": (2, 1), "four": ((2, 0), (1, 3)), "valid": "valid", "same": "same"}
PADS |= {"same_lower": "same_lower", "full": "full"}
BORDERS = ("zeros", "reflect", "replicate", "circular", "symmetric")


def convolutions() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for (name, pads), border in itertools.product(PADS.items(), BORDERS):
        cases[f"conv2d {name} {border}"] = lambda x, pads=pads, border=border: conv2d(
            x, KERNEL, None, (2, 3), pads, padding_mode=border
        )
    for (name, pads), (stride, dilation) in itertools.product(PADS.items(), ((1, (2, 1)), (2, 2), ((1, 3), (1, 2)))):
        cases[f"conv2d {name} {stride} {dilation}"] = lambda x, pads=pads, s=stride, d=dilation: conv2d(
            x, GROUPED, BIAS, s, pads, d, 2
        )
    cases["depthwise"] = lambda x: conv2d(x, DEPTHWISE, BIAS[:4], 2, 1, groups=4)
    cases["operator"] = lambda x: ops.conv2d(x, KERNEL, BIAS[:6], [2], [1, 0, 2, 1])
    cases["operator by name"] = lambda x: ops.conv2d(x, KERNEL, None, [2, 2], "same_lower", [1, 2])
    cases["convolve2d"] = lambda x: convolve2d(x, KERNEL[0, 0], "same", "symm")
    for border, size in itertools.product(BORDERS, (2, 3)):
        cases[f"blur_pool2d {border} {size}"] = lambda x, border=border, size=size: blur_pool2d(x, size, 2, border)
    cases["blur_pool2d operator"] = lambda x: ops.blur_pool2d(x, FILTER, [1, 2])
    return cases


def transposed_convolutions() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for (name, pads), (stride, dilation) in itertools.product(
        PADS.items(), ((1, 1), (2, 1), ((3, 2), 1), ((1, 2), (3, 2)))
    ):
        cases[f"conv_transpose2d {name} {stride} {dilation}"] = lambda x, pads=pads, s=stride, d=dilation: (
            conv_transpose2d(x, TRANSPOSED, BIAS[:3], s, pads, dilation=d)
        )
    for (stride, dilation), extra in itertools.product(((2, 1), (3, 1), (2, 3), (1, 3)), (1, 2)):
        if extra < max(stride, dilation):
            cases[f"output_padding {extra} {stride} {dilation}"] = lambda x, e=extra, s=stride, d=dilation: (
                conv_transpose2d(x, TRANSPOSED, BIAS[:3], s, ((0, 0), (1, 2)), e, dilation=d)
            )
    cases["output_size same, odd"] = lambda x: conv_transpose2d(
        x, TRANSPOSED, None, 2, "same", output_size=(2 * x.shape[-2] - 1, 2 * x.shape[-1])
    )
    cases["output_size same_lower, odd"] = lambda x: conv_transpose2d(
        x, TRANSPOSED, None, 2, "same_lower", output_size=(2 * x.shape[-2], 2 * x.shape[-1] - 1)
    )
    cases["output_size"] = lambda x: conv_transpose2d(
        x, TRANSPOSED, BIAS[:3], 3, 1, output_size=(3 * x.shape[-2], 3 * x.shape[-1] - 2)
    )
    cases["groups"] = lambda x: conv_transpose2d(x, TRANSPOSED, BIAS[:6], 2, 1, groups=2)
    cases["conv2d_grad_input"] = lambda x: ops.conv2d_grad_input(
        x, TRANSPOSED, [2 * x.shape[-2] + 1, 2 * x.shape[-1] - 1], [2], [1, 0, 0, 1], bias=BIAS[:3]
    )
    cases["conv2d_grad_bias"] = ops.conv2d_grad_bias
    return cases


WINDOWS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 2},
    "rectangular": {"kernel_size": (3, 2), "stride": (1, 3), "padding": (1, 0)},
    "four sides": {"kernel_size": (3, 4), "stride": 2, "padding": ((1, 0), (2, 1))},
    "dilated": {"kernel_size": (3, 2), "stride": 2, "padding": ((2, 1), (0, 1)), "dilation": (2, 3)},
    # onnxruntime has pads less than the kernel only.
    "wide pads": {"kernel_size": 2, "stride": 3, "padding": (2, 3), "dilation": 5},
    "ceil_mode": {"kernel_size": 3, "stride": (2, 3), "padding": ((0, 1), (1, 0)), "ceil_mode": True},
    "ceil_mode, dropped": {"kernel_size": 2, "stride": 5, "padding": 1, "ceil_mode": True},
    "ceil_mode, wide pads": {"kernel_size": 2, "stride": 4, "padding": (2, 1), "dilation": 4, "ceil_mode": True},
    "valid": {"kernel_size": 3, "stride": 2, "padding": "valid"},
    "same": {"kernel_size": (3, 2), "stride": (2, 1), "padding": "same"},
    "same_lower": {"kernel_size": (2, 4), "stride": (1, 3), "padding": "same_lower"},
}


def max_pools() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for name, window in WINDOWS.items():
        cases[f"max_pool2d {name}"] = lambda x, window=window: max_pool2d(x, **window)
        cases[f"max_pool2d indices {name}"] = lambda x, window=window: max_pool2d(x, **window, return_indices=True)
    window: list[Any] = [[3, 2], [2], [1], [2, 1]]
    cases["offsets"] = lambda x: ops.max_pool2d_with_offsets(x, *window)
    cases["offsets of large windows"] = lambda x: ops.max_pool2d_with_offsets(x, [9, 2], [1, 2], [0], [1, 2])
    cases["indices of offsets"] = lambda x: ops.max_pool2d_indices(
        ops.max_pool2d_with_offsets(x, *window)[1] + 0, x.shape[-2:], *window
    )
    cases["gather"] = lambda x: ops.max_pool2d_gather(-x, ops.max_pool2d_with_offsets(x, *window)[1], *window)
    cases["grad_input"] = lambda x: ops.max_pool2d_grad_input(
        *ops.max_pool2d_with_offsets(x, *window), x.shape[-2:], *window
    )
    for name, pool in {"max_unpool2d": (2,), "max_unpool2d, overlapping": (3, 2, 1)}.items():
        cases[name] = lambda x, pool=pool: max_unpool2d(
            *max_pool2d(x, *pool, return_indices=True), *pool, output_size=x.shape[-2:]
        )
    cases["max_unpool2d of a layer"] = lambda x: max_unpool2d(*max_pool2d(x[..., :8, :6], 2, return_indices=True), 2)
    cases["accumulate"] = lambda x: ops.max_unpool2d(
        *max_pool2d(x, 3, 1, return_indices=True), x.shape[-2:], accumulate=True
    )
    cases["max_unpool2d_gather"] = lambda x: ops.max_unpool2d_gather(-x, max_pool2d(x, 3, 1, return_indices=True)[1])
    cases["global_max_pool2d"] = global_max_pool2d
    cases["global_max_pool2d operator"] = lambda x: ops.global_max_pool2d(x)
    cases["adaptive 1"] = lambda x: adaptive_max_pool2d(x, 1)
    cases["adaptive 1, indices"] = lambda x: adaptive_max_pool2d(x, 1, return_indices=True)
    return cases


def averages() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    counts: tuple[dict[str, Any], ...] = ({}, {"count_include_pad": False}, {"divisor_override": 5})
    for (name, window), count in itertools.product(WINDOWS.items(), counts):
        cases[f"avg_pool2d {name} {count}"] = lambda x, window=window, count=count: avg_pool2d(x, **window, **count)
    for (name, window), p in itertools.product(WINDOWS.items(), (2, 4.0, math.inf, -math.inf)):
        cases[f"lp_pool2d {p} {name}"] = lambda x, window=window, p=p: lp_pool2d(x, p, **window)
    for name, p in itertools.product(("plain", "four sides", "ceil_mode"), (1, 3, 2.5, -2)):
        cases[f"lp_pool2d {p} {name}"] = lambda x, p=p, window=WINDOWS[name]: lp_pool2d(x.abs() + 0.1, p, **window)
    cases["global_avg_pool2d"] = global_avg_pool2d
    cases["global_avg_pool2d operator"] = lambda x: ops.global_avg_pool2d(x)
    cases["adaptive 1"] = lambda x: adaptive_avg_pool2d(x, 1)
    return cases


def adaptive_pools() -> dict[str, Case]:
    """Windows that are the plane, divide it, are its pixels, or overlap."""
    cases: dict[str, Case] = {}
    for size in ((1, 1), (4, 11), (12, 1), (1, 4), (5, 4), (13, 12), (3, None)):
        cases[f"mean {size}"] = lambda x, size=size: adaptive_avg_pool2d(x, size)
        cases[f"maximum {size}"] = lambda x, size=size: adaptive_max_pool2d(x, size)
        cases[f"indices {size}"] = lambda x, size=size: adaptive_max_pool2d(x, size, return_indices=True)
    for size in ((1, 1), (4, 11), (5, 4)):
        cases[f"offsets {size}"] = lambda x, size=size: ops.adaptive_max_pool2d_with_offsets(x, size)
        cases[f"indices of offsets {size}"] = lambda x, size=size: ops.adaptive_max_pool2d_indices(
            ops.adaptive_max_pool2d_with_offsets(x, size)[1] + 0, x.shape[-2:]
        )
        cases[f"gather {size}"] = lambda x, size=size: ops.adaptive_max_pool2d_gather(
            -x, ops.adaptive_max_pool2d_with_offsets(x, size)[1]
        )
        cases[f"grad_input {size}"] = lambda x, size=size: ops.adaptive_max_pool2d_grad_input(
            *ops.adaptive_max_pool2d_with_offsets(x, size), x.shape[-2:]
        )
    return cases


GROUPS = {
    "convolutions": convolutions,
    "transposed_convolutions": transposed_convolutions,
    "max_pools": max_pools,
    "averages": averages,
    "adaptive_pools": adaptive_pools,
}


@pytest.mark.parametrize("group", GROUPS)
def test_dynamic_batch(group: str) -> None:
    check(GROUPS[group](), random(*IMAGE), dynamic=[0], others=[random(5, *IMAGE[1:]), random(1, *IMAGE[1:])])


@pytest.mark.parametrize("group", GROUPS)
def test_unbatched(group: str) -> None:
    check(GROUPS[group](), random(*IMAGE[1:]))


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "adaptive_pools"])
def test_dynamic_height_and_width(group: str) -> None:
    check(GROUPS[group](), random(*IMAGE), dynamic=[0, 2, 3], others=[random(*size) for size in OTHERS])


@pytest.mark.parametrize("opset", [18, 23])
def test_opsets(opset: int) -> None:
    """Opset 18 has neither dilated means nor circular pads."""
    cases = {name: case for name, case in convolutions().items() if "circular" in name}
    cases |= {name: case for name, case in averages().items() if "avg_pool2d" in name or "lp_pool2d 2" in name}
    check(cases, random(*IMAGE), dynamic=[0], opset_version=opset)


# --- element types ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_floats(dtype: torch.dtype) -> None:
    """What onnxruntime runs on a CPU: all in float16, maxima in float64."""
    cases: dict[str, Case] = {
        "max_pool2d": lambda x: max_pool2d(x, 3, 2, 1, return_indices=True),
        "max_pool2d, wide pads": lambda x: max_pool2d(x, **WINDOWS["wide pads"], return_indices=True),
        "max_unpool2d": lambda x: max_unpool2d(*max_pool2d(x, 2, return_indices=True), 2, output_size=x.shape[-2:]),
        "adaptive_max_pool2d": lambda x: adaptive_max_pool2d(x, (5, 4)),
    }
    if dtype == torch.float16:
        kernel, transposed, bias = KERNEL.half(), TRANSPOSED.half(), BIAS.half()
        cases |= {
            "conv2d": lambda x: conv2d(x, kernel, bias[:6], 2, "same", padding_mode="symmetric"),
            "conv_transpose2d": lambda x: conv_transpose2d(x, transposed, bias[:3], 1, 0, 2, dilation=3),
            "adaptive_avg_pool2d": lambda x: adaptive_avg_pool2d(x, (5, 4)),
            "global": lambda x: (global_avg_pool2d(x), global_max_pool2d(x)),
            "blur_pool2d": lambda x: blur_pool2d(x, 3),
            "lp_pool2d": lambda x: lp_pool2d(x, 2, 3, 2),
        }
        cases |= {name: case for name, case in averages().items() if name.startswith("avg_pool2d")}
    check(cases, random(*IMAGE, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integers(dtype: torch.dtype) -> None:
    cases: dict[str, Case] = {
        "global_max_pool2d": global_max_pool2d,
        "adaptive_max_pool2d": lambda x: adaptive_max_pool2d(x, (5, 4)),
        "adaptive_max_pool2d, even": lambda x: adaptive_max_pool2d(x, (6, 11)),
        "max_unpool2d": lambda x: ops.max_unpool2d(
            x, torch.arange(132).flip(0).reshape(1, 1, 12, 11).expand(2, 4, 12, 11), [13]
        ),
    }
    if dtype != torch.int64:
        cases["max_pool2d"] = lambda x: max_pool2d(x, 3, 2, 1)
        cases["max_pool2d, wide pads"] = lambda x: max_pool2d(x, **WINDOWS["wide pads"])
        cases["max_pool2d, indices"] = lambda x: max_pool2d(x, 2, return_indices=True)
    x = torch.arange(2 * 4 * 12 * 11, dtype=torch.float64)[torch.randperm(1056)].reshape(
        IMAGE
    )  # no ties within a window
    limits = torch.iinfo(dtype)
    check(cases, (x * ((limits.max - limits.min) // 1056 or 1) + limits.min).clamp(limits.min, limits.max).to(dtype))


# --- whole models ---


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_converted_models(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    model = getattr(torchvision.models, name)(weights=None).eval()
    torch_convops.convert(model)
    program = export(model, random(2, 3, 64, 64), dynamic=[0])
    assert {node.domain for node in program.model.graph} == {""}
    for batch in (1, 2, 3):
        x = random(batch, 3, 64, 64)
        with torch.no_grad():
            expected = model(x)
        assert_close(run(program, x)[0], expected, name, roundings=4)


def test_layers_of_any_size() -> None:
    nn = torch_convops.nn
    model = torch.nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding="same", padding_mode="reflect"),
        torch.nn.ReLU(),
        nn.MaxBlurPool2d(2),
        nn.ConvTranspose2d(8, 4, 3, stride=2, padding="same"),
        nn.AvgPool2d(3, 1, padding="same", count_include_pad=False),
        nn.LPPool2d(2, 2),
        nn.GlobalAvgPool2d(),
    )
    program = export(model, random(2, 3, 24, 20), dynamic=[0, 2, 3])
    for size in ((2, 3, 24, 20), (1, 3, 31, 17), (3, 3, 18, 33)):
        x = random(*size)
        with torch.no_grad():
            assert_close(run(program, x)[0], model(x), size, roundings=4)


# --- what is exported, and what is not ---

NODES: dict[str, tuple[Case, list[str]]] = {
    "conv2d": (lambda x: conv2d(x, KERNEL, None, 2, "same"), ["Conv"]),
    "border": (lambda x: conv2d(x, KERNEL, padding=1, padding_mode="reflect"), ["Pad", "Conv"]),
    "wrap": (lambda x: conv2d(x, KERNEL, padding=1, padding_mode="circular"), ["Pad", "Conv"]),
    "conv_transpose2d": (lambda x: conv_transpose2d(x, TRANSPOSED, None, 2, "same"), ["ConvTranspose"]),
    "output_padding": (lambda x: conv_transpose2d(x, TRANSPOSED, None, 2, 0, 1), ["ConvTranspose"]),
    "max_pool2d": (lambda x: max_pool2d(x, 3, 2, 1, ceil_mode=True), ["MaxPool"]),
    "with a gradient": (lambda x: max_pool2d(conv2d(x, torch.nn.Parameter(KERNEL)), 2), ["Conv", "MaxPool"]),
    "return_indices": (lambda x: max_pool2d(x, 2, return_indices=True), ["MaxPool", "Mod"]),
    "avg_pool2d": (lambda x: avg_pool2d(x, 3, 2, 1, ceil_mode=True, dilation=2), ["AveragePool"]),
    "divisor_override": (lambda x: avg_pool2d(x, 3, 2, 1, divisor_override=2), ["AveragePool", "Mul"]),
    "lp_pool2d": (lambda x: lp_pool2d(x, 2, 3, padding=1), ["LpPool"]),
    "global_avg_pool2d": (global_avg_pool2d, ["GlobalAveragePool"]),
    "adaptive 1": (lambda x: adaptive_max_pool2d(x, 1), ["GlobalMaxPool"]),
    "adaptive": (lambda x: adaptive_max_pool2d(x, (4, 11)), ["MaxPool"]),
    "blur_pool2d": (lambda x: blur_pool2d(x, 3, padding_mode="zeros"), ["Conv"]),
}


def test_nodes() -> None:
    """One node for what ONNX says in one, and no trace of what is not used."""
    expected = sorted(node for _, nodes in NODES.values() for node in nodes)
    program = export(Model(*(case for case, _ in NODES.values())), random(*IMAGE), dynamic=[0])
    kinds = [node for node in node_types(program) if node != "Constant"]
    assert sorted(kinds) == expected


def test_automatic_pads_of_dynamic_sizes() -> None:
    model = Model(*(lambda x, mode=mode: conv2d(x, KERNEL, None, 2, mode) for mode in ("same", "same_lower", "full")))
    program = export(model, random(*IMAGE), dynamic=[2, 3])
    pads = [
        node.attributes["auto_pad"].value if "auto_pad" in node.attributes else None for node in program.model.graph
    ]
    assert pads == ["SAME_UPPER", "SAME_LOWER", "NOTSET"]


REFUSED: dict[str, tuple[Case, str]] = {
    "int64": (lambda x: max_pool2d(x.long(), 2), "max_pool2d: an input of int64 cannot be exported to ONNX: MaxPool"),
    "window of the plane": (
        lambda x: avg_pool2d(x, x.shape[-2:]),
        "avg_pool2d: kernel_size cannot be exported to ONNX: it depends on a dynamic size.*global_avg_pool2d",
    ),
    "adaptive": (lambda x: adaptive_max_pool2d(x, (4, 4)), "adaptive_max_pool2d: output_size cannot be exported"),
    "adaptive mean": (lambda x: adaptive_avg_pool2d(x, (2, None)), "adaptive_avg_pool2d: output_size cannot be exp"),
    "border of a gradient": (
        lambda x: ops.conv2d_grad_input(x, KERNEL[:4], x.shape[-2:], [1], [1, 1, 0, 1], padding_mode="reflect"),
        "conv2d_grad_input: padding_mode 'reflect' cannot be exported to ONNX: ConvTranspose has no border but zeros",
    ),
    "gradient": (
        lambda x: ops.avg_pool2d_grad_input(x, [2 * x.shape[-2], 2 * x.shape[-1]], [2]),
        "avg_pool2d_grad_input: grad_output cannot be exported to ONNX: ONNX has no operator for this gradient",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_onnx_cannot_say(name: str) -> None:
    case, message = REFUSED[name]
    with pytest.raises(torch.onnx.OnnxExporterError, match=message) as raised:
        export(Model(case), random(*IMAGE), dynamic=[0, 2, 3])
    causes = [raised.value.__cause__]
    while causes[-1] is not None:
        causes.append(causes[-1].__cause__)
    assert isinstance(causes[-2], NotImplementedError)


def test_every_operator_has_a_translation() -> None:
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("torch_convops::")}
    assert {operator.name() for operator in torch_convops.onnx.translation_table()} == registered


def test_without_onnxscript(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r'pip install "torch_convops\[onnx\]"'):
        torch_convops.onnx.translation_table()


def test_the_library_imports_nothing_of_onnx() -> None:
    script = "import sys, torch_convops; sys.exit(bool({'onnx', 'onnx_ir', 'onnxscript'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
