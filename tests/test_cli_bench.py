"""``convops bench`` and torch_convops.bench: what is measured, checked, written and refused; never how fast it is."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from conftest import assert_one_line_error
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import torch_convops
from torch_convops import bench
from torch_convops.bench.memory import _peak_of_child
from torch_convops.bench.plot import draw, spread
from torch_convops.bench.rows import (
    AdaptiveAvgPool2dRow,
    AdaptiveMaxPool2dRow,
    AvgPool2dRow,
    BorderedConv2dRow,
    Conv2dRow,
    ConvTranspose2dRow,
    MaxPool2dRow,
    PerSampleRow,
)
from torch_convops.bench.timing import interleaved_times
from torch_convops.cli import main
from torch_convops.cli._bench_report import MARKER

ROWS: list[bench.Row] = [
    Conv2dRow("conv", 2, 4, 9, 3, 2, 1, filters=6),
    Conv2dRow("depthwise", 2, 4, 7, 3, 1, 1, filters=4, groups=4),
    MaxPool2dRow("max", 2, 3, 9, 3, 2, 1),
    AvgPool2dRow("avg", 2, 3, 9, 3, 1, 1),
    AdaptiveAvgPool2dRow("global avg", 2, 3, 7, 1),
    AdaptiveMaxPool2dRow("adaptive max", 2, 3, 7, 3),
]
CONV, MAX = ROWS[0], ROWS[2]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command on tiny rows."""
    ceilings = bench.measure_ceilings
    overhead = bench.measure_overhead
    monkeypatch.setattr(bench, "rows", lambda device: ROWS)
    monkeypatch.setattr(
        bench, "measure_ceilings", lambda device, dtype: ceilings(device, dtype, matrix=32, copy_mib=1, repeats=1)
    )
    monkeypatch.setattr(bench, "measure_overhead", lambda device: overhead(device, calls=1, repeats=1))


@pytest.fixture
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model in place of torchvision's, with dropout as some of them have."""

    def build(name: str) -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3),
            torch.nn.BatchNorm2d(4),
            torch.nn.MaxPool2d(2),
            torch.nn.Dropout(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(4, bench.models.CLASSES),
        ).eval()

    monkeypatch.setattr(bench.models, "_build", build)
    monkeypatch.setattr(bench, "MODELS", ("tiny",))


def use_backend(monkeypatch: pytest.MonkeyPatch, backend: str | Callable[..., Any]) -> None:
    """Lets torch.compile trace as it does, and leave out the compiler of C++, which takes a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))


def failing_backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
    raise RuntimeError("no such instruction\nin line 3")


def convops_bench(*args: str) -> Result:
    return CliRunner().invoke(main, ["bench", "--repeats", "1", "--no-memory", *args])


# --- rows ---


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_rows_have_names_of_their_own_and_are_as_torch_computes_them(device: str) -> None:
    rows = bench.rows(device) + bench.wider_rows(device)
    assert len({row.name for row in rows}) == len(rows)
    assert len(bench.wider_rows(device)) > len(bench.rows(device))
    for row in rows:
        leaves = [torch.empty(shape, device="meta") for shape in row.leaf_shapes]
        assert tuple(row.reference(*leaves).shape) == row.output_shape
        for pass_ in row.passes:
            assert row.bytes(pass_, 4) > 0 and row.flops(pass_) >= 0


def test_unknown_kind_of_device() -> None:
    for rows in (bench.rows, bench.wider_rows):
        with pytest.raises(ValueError, match="'cpu' or 'cuda'"):
            rows("tpu")


@pytest.mark.parametrize("row", bench.rows() + bench.wider_rows(), ids=lambda row: row.name)
def test_every_row_names_what_auto_takes(row: bench.Row) -> None:
    """But for windows of unlike sizes and for rows of several convolutions, of which the library tells nothing."""
    leaves = [torch.empty(shape, device="meta") for shape in row.leaf_shapes]
    choices = {row.choice(pass_, *leaves) for pass_ in row.passes if pass_ != "training"}
    if isinstance(row, PerSampleRow) or (type(row).__name__.startswith("Adaptive") and row.kernel > 1):
        assert choices == {None}
    else:
        assert choices <= set(torch_convops.algorithms(row.operator))


def test_what_auto_takes_of_a_transposed_convolution_is_that_of_its_transpose() -> None:
    # What is forward to the one is grad_input to the other: only of its filters there is one a group.
    row = ConvTranspose2dRow("transposed", 2, 16, 9, 3, 2, 1, filters=8, groups=8)
    leaves = [torch.empty(shape) for shape in row.leaf_shapes]
    image, output = torch.empty(2, 16, 9, 9), torch.empty(row.output_shape)
    for pass_, other in (("forward", "grad_input"), ("grad_input", "forward"), ("grad_weight", "grad_weight")):
        expected = torch_convops.conv2d_choice(other, output, leaves[1], 2, 1, 1, 8)
        assert row.choice(pass_, image, leaves[1]) == expected


def test_flops_and_bytes() -> None:
    # 2 images of 6 planes of 5 x 5, from 4 planes with 3 x 3 taps
    assert CONV.flops("forward") == 2 * (2 * 6 * 25) * (4 * 9)
    assert CONV.flops("training") == 3 * CONV.flops("forward")
    image, weight, output = 2 * 4 * 81, 6 * 4 * 9, 2 * 6 * 25
    assert CONV.bytes("grad_input", 4) == 4 * (image + weight + output)
    assert CONV.bytes("training", 2) == 2 * 3 * (image + weight + output)
    assert MAX.bytes("forward", 4) == 4 * (2 * 3 * 81 + 2 * 3 * 25)
    assert MAX.bytes("grad_input", 4) == MAX.bytes("forward", 4) + 2 * 3 * 25  # an offset of a byte


def test_only_the_pixels_that_a_window_covers_are_read() -> None:
    row = Conv2dRow("1x1s2", 1, 1, 8, 1, 2, filters=1)
    assert row.bytes("forward", 1) == 16 + 1 + 16
    assert row.bytes("grad_input", 1) == 16 + 1 + 64


def test_pixels_between_dilated_taps_are_not_read() -> None:
    row = Conv2dRow("3x3d2", 1, 1, 9, 3, 4, 0, 2, filters=1)  # rows 0 2 4 and 4 6 8
    assert row.output == 2
    assert row.bytes("forward", 1) == 25 + 9 + 4


# --- timing ---


def test_calls_take_turns_and_are_compared_round_by_round() -> None:
    calls: list[str] = []
    seconds = {"a": iter([0, 0, 1.0, 10.0, 1.0]), "b": iter([0, 0, 2.0, 20.0, 3.0])}

    def time(call: Callable[[], object]) -> float:
        return next(seconds[str(call())])

    def record(name: str) -> str:
        calls.append(name)
        return name

    both = [functools.partial(record, name) for name in "ab"]
    times = interleaved_times(time, both, seconds=0, repeats=3)
    assert "".join(calls) == "abab" + "abbaab"  # after two rounds to warm up
    assert times.rounds == ((1.0, 2.0), (10.0, 20.0), (1.0, 3.0))
    assert times.median(1) == 3
    assert (times.ratio(1), times.ratio(0, over=1)) == (2, 0.5)


@pytest.mark.parametrize(("each", "warm_ups"), [(100.0, 2), (1.0, 4), (0.001, 10)])
def test_warms_up_for_half_of_the_time(each: float, warm_ups: int) -> None:
    calls: list[float] = []

    def time(call: Callable[[], object]) -> float:
        calls.append(each)
        return each

    interleaved_times(time, [lambda: None], seconds=8, repeats=1)
    assert len(calls) == warm_ups + 1


# --- one measurement ---


@pytest.mark.parametrize("format_", bench.FORMATS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_pass_is_measured(row: bench.Row, format_: str) -> None:
    for pass_ in row.passes:
        m = bench.measure(row, pass_, format=format_, repeats=2)
        assert (m.row, m.format, m.pass_, m.pairs) == (row.name, format_, pass_, 2)
        assert m.ours_ms > 0 and m.torch_ms > 0 and m.ratio > 0
        assert m.checked_against == "torch"
        assert (m.saved_bytes is not None) == (pass_ == "training")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    for row in ROWS:
        assert bench.measure(row, "training", dtype=dtype, repeats=1).dtype == str(dtype).removeprefix("torch.")


def test_at_least_seven_pairs_without_repeats() -> None:
    assert bench.measure(MAX, seconds=1e-9).pairs == 7


def test_saved_bytes() -> None:
    m = bench.measure(MAX, "training", repeats=1)
    assert m.saved_bytes == 2 * 3 * 25
    assert m.torch_saved_bytes == 4 * (2 * 3 * 81) + 8 * (2 * 3 * 25)


@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_wrong_result_is_not_timed(pass_: str) -> None:
    wrong = {
        "value": lambda image, weight: CONV.ours(image, weight) * 1.01,
        "shape": lambda image, weight: CONV.ours(image, weight)[:1].expand(2, -1, -1, -1)[..., :-1],
        "nan": lambda image, weight: CONV.ours(image, weight) * float("nan"),
    }
    for name, function in wrong.items():
        if (name, pass_) != ("shape", "training"):  # torch itself refuses a gradient of another shape
            with pytest.raises(bench.WrongResultError):
                bench.measure(CONV, pass_, function=function, repeats=1)


def test_wrong_gradient_is_noticed() -> None:
    def half(image: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        output = CONV.ours(image, weight)
        return output.detach() + (output - output.detach()) / 2

    bench.measure(CONV, "forward", function=half, repeats=1)
    for pass_ in ("grad_input", "grad_weight", "training"):
        with pytest.raises(bench.WrongResultError):
            bench.measure(CONV, pass_, function=half, repeats=1)


def test_float64_decides_where_torch_is_wrong() -> None:
    class WrongTorch(MaxPool2dRow):
        def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
            right = super().reference(*leaves)
            return right + 1 if right.dtype is torch.float32 else right

    m = bench.measure(WrongTorch("max", 2, 3, 9, 3, 2, 1), repeats=1)
    assert (m.checked_against, m.error) == ("float64", 0)


def test_unknown_pass_and_unsupported_algorithm() -> None:
    with pytest.raises(ValueError, match="'forward', 'grad_input', 'training'"):
        bench.measure(MAX, "grad_weight")
    for pass_ in CONV.passes:
        with pytest.raises(bench.UnsupportedError):
            bench.measure(CONV, pass_, algorithm="depthwise", repeats=1)


@pytest.mark.parametrize(
    "row",
    [
        CONV,
        MAX,
        BorderedConv2dRow("bordered", 2, 4, 9, 3, 1, 1, filters=4),
        ConvTranspose2dRow("transposed", 2, 4, 7, 3, 2, 1, filters=3),
        PerSampleRow("per-sample", 2, 4, 7, 3, 1, 1, filters=4),
    ],
    ids=lambda row: row.name,
)
def test_torch_compile_is_a_peer(row: bench.Row, monkeypatch: pytest.MonkeyPatch) -> None:
    use_backend(monkeypatch, "aot_eager")
    for pass_ in row.passes:
        m = bench.measure(row, pass_, repeats=2, compiled=True)
        assert m.compile_error is None
        assert m.compile_ms is not None and m.compile_ms > 0
        assert m.compile_ratio is not None and m.compile_ratio > 0


def test_any_number_of_rows_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    use_backend(monkeypatch, "eager")
    for size in range(3, 3 + 2 * torch._dynamo.config.recompile_limit):
        row = MaxPool2dRow("max", 1, 1, size, 2)
        assert bench.measure(row, repeats=1, compiled=True).compile_error is None


def test_failures_of_torch_compile_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        return lambda *args: tuple(2 * output for output in graph(*args))

    for backend, message in ((failing_backend, "no such instruction"), (twice, "wrong result: the relative error is")):
        with monkeypatch.context() as patch:
            use_backend(patch, backend)
            m = bench.measure(CONV, repeats=1, compiled=True)
        assert m.compile_error is not None and message in m.compile_error and "\n" not in m.compile_error
        assert (m.compile_ms, m.compile_ratio) == (None, None)
        assert m.torch_ms > 0


# --- memory ---

MEGA = 1e6


def test_peak_memory_is_the_results_where_nothing_else_is_needed() -> None:
    row = AvgPool2dRow("avg", 4, 64, 128, 2, 2)  # 16.8 MB to 4.2 MB
    forward, training = (bench.measure_peak_memory(row, pass_) for pass_ in ("forward", "training"))
    assert forward is not None and training is not None
    output, image = 4 * row.output_numel, 4 * row.input_numel
    for peak in (forward.ours, forward.torch):
        assert peak == pytest.approx(output, abs=MEGA)
    for peak in (training.ours, training.torch):
        assert peak == pytest.approx(output + image, abs=MEGA)


def test_peak_memory_counts_what_is_freed_before_the_end() -> None:
    row = BorderedConv2dRow("circular", 2, 32, 128, 3, 1, 16, filters=1)
    peak = bench.measure_peak_memory(row)
    assert peak is not None
    padded_copy = 4 * 2 * 32 * (128 + 32) ** 2  # 6.6 MB, of torch alone
    assert peak.torch > padded_copy
    assert peak.torch - peak.ours > padded_copy / 2


def test_peak_memory_of_a_child_that_ends_or_fails() -> None:
    with pytest.raises(RuntimeError, match="ended early"):
        _peak_of_child(functools.partial(os._exit, 3))
    with pytest.raises(ZeroDivisionError):
        _peak_of_child(functools.partial(divmod, 1, 0))


# --- algorithms ---


def test_choice_times_every_algorithm_that_does_the_pass() -> None:
    row = Conv2dRow("depthwise", 2, 4, 7, 3, 1, 1, filters=4, groups=4)
    for pass_ in ("forward", "grad_input", "grad_weight"):
        choice = bench.measure_choice(row, pass_, repeats=2)
        assert choice is not None
        assert {"depthwise", "implicit_gemm"} <= choice.ms.keys() and all(ms > 0 for ms in choice.ms.values())
        assert choice.chosen == row.choice(pass_, *row.operands(torch.float32, "cpu", "nchw").leaves)
        assert choice.best == min(choice.ms, key=lambda name: choice.ms[name])
        assert choice.loss == 0 or choice.chosen != choice.best


def test_choice_that_the_library_does_not_tell_is_timed_as_auto() -> None:
    choice = bench.measure_choice(AdaptiveMaxPool2dRow("adaptive", 1, 2, 7, 3), format="channels_last", repeats=1)
    assert choice is not None
    assert choice.chosen == "auto" and choice.ms.keys() == {"auto", "direct", "separable"}
    assert choice.best in ("direct", "separable")


def test_no_choice_where_one_algorithm_does_it() -> None:
    assert bench.measure_choice(MaxPool2dRow("large", 1, 1, 40, 30), repeats=1) is None


def test_wrong_algorithm_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Conv2dRow.ours
    factor = {"implicit_gemm": 2}
    monkeypatch.setattr(
        Conv2dRow,
        "ours",
        lambda row, *leaves, algorithm: factor.get(algorithm, 1) * right(row, *leaves, algorithm=algorithm),
    )
    with pytest.raises(bench.WrongResultError):
        bench.measure_choice(ROWS[1], repeats=1)


# --- models ---


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_model_is_measured(pass_: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    use_backend(monkeypatch, "aot_eager")
    m = bench.measure_model("tiny", pass_, batch=2, image_size=8, dtype=dtype, repeats=2, compiled=True)
    assert (m.row, m.pass_, m.N, m.image_size, m.layers, m.pairs) == ("tiny", pass_, 2, 8, 3, 2)
    assert m.ours_ms > 0 and m.torch_ms > 0 and m.ratio > 0 and 0 <= m.error < 1e-3
    assert m.compile_error is None and m.compile_ratio is not None


@pytest.mark.usefixtures("tiny_models")
def test_model_with_other_outputs_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(model: torch.nn.Sequential) -> torch_convops.Conversion:
        model[0].weight.data *= -1
        return torch_convops.convert(model)

    monkeypatch.setattr(bench.models, "convert", convert)
    with pytest.raises(bench.WrongResultError, match="tiny, converted"):
        bench.measure_model("tiny", batch=2, image_size=8, repeats=1)


def test_unknown_pass_of_a_model() -> None:
    with pytest.raises(ValueError, match="'forward', 'training'"):
        bench.measure_model("resnet18", "grad_input", batch=1, image_size=32)


def test_models_are_known_to_torchvision() -> None:
    import torchvision

    assert set(bench.MODELS) <= set(torchvision.models.list_models(module=torchvision.models))
    m = bench.measure_model("resnet18", batch=1, image_size=64, repeats=1)
    assert m.layers == 22 and m.error < 1e-3


# --- the picture ---


def test_places_are_spread_and_stay_within_bounds() -> None:
    assert spread([0.1, 0.5, 0.9], 0.1) == [0.1, 0.5, 0.9]
    for places in ([0.5] * 10, [0.97, 0.98, 0.99], [-0.2, 0.0, 0.01], [0.0, 1.0, 1.3]):
        moved = spread(places, 0.1)
        assert min(moved) >= -1e-9 and max(moved) <= 1
        assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(moved))


def invented(rows: list[bench.Row]) -> list[bench.Measurement]:
    """Measurements of rows with times that nobody took, many of them the same."""
    m = bench.measure(CONV, repeats=1)
    return [
        dataclasses.replace(
            m, row=row.name, family=row.family, format=format_, pass_=pass_, ours_ms=1.0 + index % 3, torch_ms=2.0,
            compile_ms=1.5, flops=row.flops(pass_), bytes=row.bytes(pass_, 4),
        )
        for index, row in enumerate(rows)
        for format_ in bench.FORMATS
        for pass_ in ("forward", "training")
        if pass_ in row.passes
    ]  # fmt: skip


def text_extent(label: Text) -> Bbox:
    """Of the text alone, without the line from it to its point."""
    return Text.get_window_extent(label)


@pytest.mark.parametrize("wide", [False, True])
def test_labels_of_the_roofline_do_not_overlap(wide: bool) -> None:
    rows = bench.rows() + (bench.wider_rows() if wide else [])
    figure = draw(invented(rows), bench.Ceilings(copy_bytes=40e9, matmul_flops=215e9), "a title")
    figure.draw_without_rendering()
    names = {row.name for row in rows}
    drawn = []
    for axes in figure.axes:
        labels = [text for text in (*axes.texts, *axes.get_yticklabels()) if text.get_text() in names]
        drawn += [label.get_text() for label in labels]
        for label in labels:
            box = text_extent(label)
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, label
        heights = sorted((box.y0 + box.y1) / 2 for box in map(text_extent, labels))
        tallest = max((text_extent(label).height for label in labels), default=0)
        assert all(b - a >= 0.9 * tallest for a, b in itertools.pairwise(heights))
    assert sorted(drawn) == sorted(
        row.name for row in rows for _ in bench.FORMATS for pass_ in ("forward", "training") if pass_ in row.passes
    )


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("suffix, start", [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_command_draws_and_links_the_picture(tmp_path: Path, suffix: str, start: bytes) -> None:
    picture, page = tmp_path / f"roofline{suffix}", tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    result = convops_bench("--plot", str(picture), "--markdown", str(page), "--rows", "conv", "--rows", "max")
    assert result.exit_code == 0, result.output
    assert picture.read_bytes().startswith(start)
    assert f"](../roofline{suffix})" in page.read_text()


# --- numbers ---


def test_ceilings_and_the_time_that_they_allow() -> None:
    measured = bench.measure_ceilings("cpu", torch.float32, matrix=32, copy_mib=1, repeats=1)
    assert measured.copy_bytes > 0 and measured.matmul_flops > 0
    ceilings = bench.Ceilings(copy_bytes=10, matmul_flops=100)
    assert ceilings.floor_seconds(flops=300, bytes_=10) == 3
    assert ceilings.floor_seconds(flops=300, bytes_=50) == 5
    assert ceilings.is_bound_by_flops(300, 10) and not ceilings.is_bound_by_flops(300, 50)


def test_summary() -> None:
    m = bench.measure(MAX, repeats=1)
    fast, slow = (dataclasses.replace(m, row=name, ratio=ratio) for name, ratio in (("fast", 8.0), ("slow", 0.5)))
    family, everything = bench.summarize([fast, slow])
    assert (family.family, family.rows, family.worst, family.worst_row) == ("max_pool2d", 2, 0.5, "slow")
    assert family.geomean == pytest.approx(2)
    assert everything.family == "all"


# --- the command ---


@pytest.mark.usefixtures("tiny")
def test_command_writes_what_it_prints(tmp_path: Path) -> None:
    result = convops_bench("--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md"), "--threads", "1")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "a.json").read_text())
    assert set(report) == {
        *("date", "machine", "versions", "settings", "ceilings", "measurements", "summary", "overhead"),
        *("models", "models_summary", "choices", "wrong", "skipped", "remarks"),
    }
    assert report["machine"]["threads"] == 1
    assert report["settings"]["dtype"] == "float32"
    lines = [(m["row"], m["format"], m["pass"]) for m in report["measurements"]]
    assert lines == [(row.name, f, p) for row in ROWS for f in bench.FORMATS for p in ("forward", "training")]
    assert all(m["share_of_ceiling"] > 0 for m in report["measurements"])
    assert [(o["operator"], o["grad"]) for o in report["overhead"]] == [
        (operator, grad) for operator in ("conv2d", "max_pool2d", "avg_pool2d") for grad in (False, True)
    ]
    markdown = (tmp_path / "a.md").read_text()
    for m in report["measurements"]:
        assert f"{m['ours_ms']:.3f}" in result.output and f"{m['ours_ms']:.3f}" in markdown
    assert markdown.count("###") == 4
    assert f"convops bench --repeats 1 --threads 1 --no-memory --json {tmp_path}/a.json" in markdown
    assert "…" not in result.output + markdown


def test_a_real_row() -> None:
    result = convops_bench("--rows", "3->32", "--format", "channels_last", "--pass", "forward")
    assert result.exit_code == 0, result.output
    assert "3x3 3->32 @128" in result.output and "one eager call" not in result.output


@pytest.mark.usefixtures("tiny")
def test_wrong_result_is_reported_and_the_exit_code_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Conv2dRow.ours
    monkeypatch.setattr(Conv2dRow, "ours", lambda row, *leaves, algorithm: 2 * right(row, *leaves, algorithm=algorithm))
    result = convops_bench("--pass", "forward", "--format", "nchw")
    assert result.exit_code == 1
    assert "conv, nchw, forward: wrong result" in result.output
    assert "global avg" in result.output  # the others go on


@pytest.mark.usefixtures("tiny")
def test_algorithm_keeps_the_rows_that_have_it() -> None:
    result = convops_bench("--algorithm", "depthwise", "--pass", "grad_weight", "--format", "nchw", "--rows", "*")
    assert result.exit_code == 0, result.output
    assert "conv, nchw, grad_weight: not done by algorithm 'depthwise'" in result.output
    assert "max" not in result.output


@pytest.mark.usefixtures("tiny")
def test_overhead_alone() -> None:
    result = convops_bench("--overhead")
    assert result.exit_code == 0, result.output
    assert "one eager call" in result.output and "depthwise" not in result.output


@pytest.mark.usefixtures("tiny")
def test_peak_memory_is_counted_unless_it_is_refused(tmp_path: Path) -> None:
    arguments = ("--rows", "avg", "--format", "nchw", "--json", str(tmp_path / "a.json"))
    for options, counted in (((), False), (("--memory",), True)):
        result = convops_bench(*arguments, *options)
        assert result.exit_code == 0, result.output
        measurements = json.loads((tmp_path / "a.json").read_text())["measurements"]
        assert all((m["peak_bytes"] is not None) == counted for m in measurements)
        assert all((m["torch_peak_bytes"] is not None) == counted for m in measurements)
        assert "memory in MB" in result.output  # in any case what is saved for backward


@pytest.mark.usefixtures("tiny")
def test_suite_all_has_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "wider_rows", lambda device: [AvgPool2dRow("another", 1, 2, 5, 2)])
    for suite, has_more in (("core", False), ("all", True)):
        result = convops_bench("--suite", suite, "--pass", "forward", "--format", "nchw")
        assert result.exit_code == 0, result.output
        assert "adaptive max" in result.output and ("another" in result.output) == has_more


@pytest.mark.usefixtures("tiny", "tiny_models")
def test_suite_models(tmp_path: Path) -> None:
    arguments = ("--suite", "models", "--batch", "2", "--image-size", "64", "--json", str(tmp_path / "a.json"))
    result = convops_bench(*arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["measurements"] == report["overhead"] == []
    lines = [(m["row"], m["format"], m["pass"], m["N"], m["image_size"]) for m in report["models"]]
    assert lines == [("tiny", f, p, 2, 64) for f in bench.FORMATS for p in ("forward", "training")]
    assert {s["family"] for s in report["models_summary"]} == {"model"}
    assert "whole models, 64 x 64 pictures" in result.output and "inference" in result.output


@pytest.mark.usefixtures("tiny", "tiny_models")
def test_suites_together() -> None:
    result = convops_bench("--suite", "core", "--suite", "models", "--pass", "forward", "--image-size", "64")
    assert result.exit_code == 0, result.output
    assert all(text in result.output for text in ("depthwise", "whole models", "one eager call"))


@pytest.mark.usefixtures("tiny")
def test_torch_compile_beside_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--peer", "compile", "--rows", "avg", "--pass", "forward", "--json", str(tmp_path / "a.json"))
    for backend, failed in (("eager", False), (failing_backend, True)):
        with monkeypatch.context() as patch:
            use_backend(patch, backend)
            result = convops_bench(*arguments, "--markdown", str(tmp_path / "a.md"))
        assert result.exit_code == 0, result.output
        measurements = json.loads((tmp_path / "a.json").read_text())["measurements"]
        assert all((m["compile_ratio"] is None) == failed for m in measurements)
        for text in (result.output, (tmp_path / "a.md").read_text()):
            assert "torch.compile / ours" in text
            assert ("avg, nchw, forward: torch.compile failed: " in text) == failed
            assert ("geomean of torch.compile" in text) != failed


@pytest.mark.usefixtures("tiny")
def test_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = convops_bench("--choices", "--json", str(tmp_path / "a.json"))
    assert result.exit_code == 0, result.output
    choices = json.loads((tmp_path / "a.json").read_text())["choices"]
    assert {c["pass"] for c in choices} == {"forward", "grad_input", "grad_weight"}
    assert {c["row"] for c in choices} >= {"depthwise", "max"}
    assert all(c["flagged"] == (c["loss"] > 0.15) and c["chosen"] in c["ms"] for c in choices)
    assert 'what "auto" takes' in result.output and "one eager call" not in result.output

    found = bench.measure_choice(ROWS[1], repeats=1)
    assert found is not None
    losses = {"forward": 0.16, "grad_input": 0.14}

    def measure_choice(row: bench.Row, pass_: str, **_: Any) -> bench.Choice | None:
        if pass_ not in losses:
            return None
        return dataclasses.replace(found, pass_=pass_, loss=losses[pass_])

    monkeypatch.setattr(bench, "measure_choice", measure_choice)
    result = convops_bench("--choices", "--rows", "depthwise", "--format", "nchw")
    assert "1 of 2 lose more than 15%" in result.output
    assert "1 more passes have one algorithm each" in result.output
    assert [line.split()[6:8] for line in result.output.splitlines() if "depthwise   2" in line] == [
        ["16%", "!"],
        ["14%", found.ms and next(iter(found.ms))],
    ]


@pytest.mark.usefixtures("tiny")
def test_markdown_keeps_what_was_written_above_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert convops_bench("--overhead", "--markdown", str(page)).exit_code == 0
    first = page.read_text()
    assert first.startswith("# Benchmarks\n") and first.count(MARKER) == 1
    page.write_text("# Speed\n\nBy hand.\n" + first[first.index(MARKER) :])
    assert convops_bench("--rows", "max", "--pass", "forward", "--markdown", str(page)).exit_code == 0
    second = page.read_text()
    assert second.startswith("# Speed\n\nBy hand.\n") and second.count(MARKER) == 1
    assert "one eager call" not in second and "--rows max" in second


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--overhead", "--choices"], "--overhead does not go with --choices"),
        (["--overhead", "--suite", "core"], "--overhead does not go with --suite"),
        (["--choices", "--peer", "compile"], "--choices does not go with --peer"),
        (["--choices", "--suite", "models"], "--choices does not go with --suite models"),
        (["--choices", "--pass", "training"], "none of these rows has a training pass"),
        (["--suite", "models", "--algorithm", "direct"], "--suite models does not go with --algorithm"),
        (["--suite", "models", "--plot", "a.png"], "--plot is of rows"),
        (["--suite", "models", "--pass", "grad_input"], "none of these rows has a grad_input pass"),
        (["--suite", "models", "--rows", "vgg"], "no row matches 'vgg'; the rows are 'resnet18', "),
        (["--batch", "2"], "--batch and --image-size are for --suite models"),
        (["--plot", "a.pdf"], "must end in .png or .svg"),
        (["--plot", "no/such/folder/a.png"], "directory no/such/folder does not exist"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], message: str) -> None:
    assert_one_line_error(convops_bench(*arguments), message)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--rows", "5x5"], "no row matches '5x5'; the rows are '7x7s2 3->64 @224', "),
        (["--algorithm", "magic"], "no chosen row has an algorithm 'magic'; there are depthwise"),
        (["--rows", "max", "--pass", "grad_weight"], "none of these rows has a grad_weight pass"),
        (["--seconds", "0"], "'--seconds'"),
        (["--repeats", "0"], "'--repeats'"),
        (["--threads", "0"], "'--threads'"),
        (["--dtype", "int8"], "'--dtype'"),
        (["--json", "no/such/folder/a.json"], "directory no/such/folder does not exist"),
        (["--device", "cuda"], "CUDA"),
    ],
)
def test_bad_arguments_end_in_one_line(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = convops_bench(*arguments)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: ") and message in result.stderr.splitlines()[-1]
