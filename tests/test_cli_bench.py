"""``convops bench`` and torch_convops.bench: what is measured, checked, written and refused; never how fast it is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from torch_convops import bench
from torch_convops.bench.rows import AdaptiveAvgPool2dRow, AdaptiveMaxPool2dRow, AvgPool2dRow, Conv2dRow, MaxPool2dRow
from torch_convops.cli import main

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


def convops_bench(*args: str) -> Result:
    return CliRunner().invoke(main, ["bench", "--repeats", "1", *args])


# --- rows ---


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_rows_have_names_of_their_own_and_are_as_torch_computes_them(device: str) -> None:
    rows = bench.rows(device)
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        leaves = [torch.empty(shape, device="meta") for shape in row.leaf_shapes]
        assert tuple(row.reference(*leaves).shape) == row.output_shape
        for pass_ in row.passes:
            assert row.bytes(pass_, 4) > 0 and row.flops(pass_) >= 0


def test_unknown_kind_of_device() -> None:
    with pytest.raises(ValueError, match="'cpu' or 'cuda'"):
        bench.rows("tpu")


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
        *("wrong", "skipped"),
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
    assert markdown.count("###") == 3
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
