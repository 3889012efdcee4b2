"""Equivariance measured where the answer is known."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import torch_convops
from torch_convops.equivariance import (
    BORDERS,
    ConsistencyCurve,
    EquivarianceErrors,
    consistency_curve,
    crop,
    equivariance_errors,
    equivariance_map,
    fourier_shift,
    shift,
    shift_consistency,
)

WHOLE = [(1, 0), (0, 1), (-2, 3), (5, -4), (16, 0), (37, -20)]
PARTS = [(0.5, 0), (0, 0.25), (-1.75, 2.5), (1, 0.5), (0.1, math.pi)]
EXACT = 1e-13  # float64
Function = Callable[[Tensor], Tensor]


def pictures(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype)


def convolution(padding_mode: str = "circular", dtype: torch.dtype = torch.float64) -> Function:
    weight, bias = torch.randn(4, 3, 5, 3, dtype=dtype), torch.randn(4, dtype=dtype)
    return lambda x: torch_convops.conv2d(x, weight, bias, padding=(2, 1), padding_mode=padding_mode)


def circular_pad(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="circular")


def worst(function: Function, x: Tensor, shifts: Any, **options: Any) -> float:
    return equivariance_errors(function, x, shifts, **options).worst


# ---- shifts ------------------------------------------------------------------------------------------------


def test_a_pixel_goes_down_and_right() -> None:
    x = torch.zeros(1, 1, 5, 6)
    x[..., 1, 2] = 1
    assert shift(x, (2, 1))[0, 0].nonzero().tolist() == [[3, 3]]
    assert shift(x, (-2, 4))[0, 0].nonzero().tolist() == [[4, 0]]


@pytest.mark.parametrize(("border", "row"), [
    ("circular", [3, 4, 1, 2]),
    ("reflect", [3, 2, 1, 2]),
    ("replicate", [1, 1, 1, 2]),
    ("zeros", [0, 0, 1, 2]),
])  # fmt: skip
def test_borders(border: str, row: list[int]) -> None:
    line = torch.tensor([1.0, 2, 3, 4])
    assert shift(line.expand(1, 1, 4, 4), (0, 2), border)[0, 0, 0].tolist() == row
    assert shift(line.flip(0).expand(1, 1, 4, 4), (0, -2), border)[0, 0, 0].tolist() == row[::-1]
    assert shift(line.expand(1, 1, 4, 4).mT, (2, 0), border)[0, 0, :, 0].tolist() == row


@pytest.mark.parametrize("border", BORDERS)
def test_borders_agree_inside_and_shifts_of_none_change_nothing(border: str) -> None:
    x = pictures(2, 3, 9, 8)
    assert torch.equal(shift(x, (0, 0), border), x)
    assert torch.equal(shift(x, (2, -3), border)[..., 2:, :-3], x[..., :-2, 3:])


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (8, 5), (1, 6), (1, 1), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fourier_shift_by_whole_pixels_is_roll(size: tuple[int, int], dtype: torch.dtype) -> None:
    x = pictures(2, 3, *size, dtype=dtype)
    for by in WHOLE:
        moved = fourier_shift(x, by)
        assert moved.dtype == dtype
        torch.testing.assert_close(moved, x.roll(by, (-2, -1)), atol=1e-5 if dtype == torch.float32 else EXACT, rtol=0)


@pytest.mark.parametrize("size", [16, 15])
def test_fourier_shift_is_that_of_the_waves(size: int) -> None:
    i = torch.arange(size, dtype=torch.float64)
    for k, d in product(range(-(-size // 2)), (0.3, -2.5, 100.7)):
        wave, moved = (torch.sin(2 * math.pi * k * (i - at) / size + 0.4) for at in (0, d))
        actual = fourier_shift(wave.expand(1, 1, 3, size), (0, d))[0, 0, 0]
        torch.testing.assert_close(actual, moved, atol=1e-12, rtol=0)
        actual = fourier_shift(wave.expand(1, 1, 3, size).mT, (d, 0))[0, 0, :, 0]
        torch.testing.assert_close(actual, moved, atol=1e-12, rtol=0)


def test_nyquist_frequency_is_multiplied_by_a_cosine() -> None:
    checks = torch.ones(1, 1, 6, 8, dtype=torch.float64)
    checks[..., 1::2] = -1
    for d in (0.0, 0.25, 0.5, 1.0, 1.4, 9.3):
        torch.testing.assert_close(fourier_shift(checks, (0.3, d)), math.cos(math.pi * d) * checks, atol=EXACT, rtol=0)
    assert fourier_shift(checks, (0, 0.5)).abs().max() < EXACT


def test_fourier_shifts_add_up_without_nyquist() -> None:
    x = pictures(1, 2, 9, 7)
    torch.testing.assert_close(fourier_shift(fourier_shift(x, (0.3, 1.9)), (-1.3, 0.6)), fourier_shift(x, (-1, 2.5)))


def test_parts_of_a_pixel_are_fouriers() -> None:
    x = pictures(1, 2, 8, 8)
    assert torch.equal(shift(x, (1, 0.5)), fourier_shift(x, (1, 0.5)))


def test_crop_is_a_window_over_a_moving_picture() -> None:
    x = pictures(2, 3, 12, 11)
    window = crop(x, (0, 0), (8, 6))
    assert torch.equal(window, x[..., 2:10, 2:8]) and window.data_ptr() == x[..., 2:, 2:].data_ptr()
    for by in [(2, 0), (-2, 1), (1, -3)]:
        assert torch.equal(crop(x, by, (8, 6)), shift(x, by)[..., 2:10, 2:8])


# ---- layers ------------------------------------------------------------------------------------------------


def test_circular_convolution_is_equivariant() -> None:
    result = equivariance_errors(convolution(), pictures(3, 3, 16, 12), WHOLE + PARTS)
    assert result.worst < EXACT
    assert result.shifts == tuple(WHOLE + PARTS) and result.stride == (1, 1) and result.margin == 0
    assert worst(convolution(dtype=torch.float32), pictures(2, 3, 16, 12, dtype=torch.float32), WHOLE + PARTS) < 1e-6


@pytest.mark.parametrize("border", ["zeros", "reflect", "replicate"])
def test_other_borders_break_it_up_to_a_margin(border: str) -> None:
    function, x = convolution(border), pictures(2, 3, 20, 20)
    assert worst(function, x, [(3, -2)]) > 0.05
    assert worst(function, x, [(3, -2), (0, 1)], margin=2 + 3) < EXACT
    assert worst(function, x, [(3, 0)], margin=4) > 1e-3
    error = equivariance_map(function, x, (3, 0))
    # Within 2 rows of the edge and of the seam at row 3. The columns at the left and right edge move along.
    assert set((error > EXACT).nonzero()[:, 0].tolist()) == {0, 1, 2, 3, 4, 18, 19}


def test_map_is_the_error_by_pixel() -> None:
    function, x = convolution("zeros"), pictures(5, 3, 12, 10)
    for batch_size in (2, 64):
        error = equivariance_map(function, x, (0.5, 2), batch_size=batch_size)
        assert error.shape == (12, 10) and error.dtype == torch.float64
        assert float(error.square().mean().sqrt()) == pytest.approx(worst(function, x, [(0.5, 2)]))
    assert not equivariance_map(convolution(), x, (0, 0)).any()


def test_max_pool_of_stride_1_is_equivariant_by_whole_pixels_alone() -> None:
    def function(x: Tensor) -> Tensor:
        return torch_convops.max_pool2d(circular_pad(x), 3, 1)

    x = pictures(2, 3, 10, 12)
    assert worst(function, x, WHOLE) == 0
    assert min(equivariance_errors(function, x, PARTS).errors) > 0.01


@pytest.mark.parametrize("pool", [torch_convops.max_pool2d, torch_convops.avg_pool2d])
def test_stride_2_is_equivariant_by_even_shifts_alone(pool: Any) -> None:
    x = pictures(2, 3, 12, 16)
    result = equivariance_errors(lambda x: pool(x, 2), x, [(2, 0), (-4, 6), (12, 16)])
    assert result.worst == 0 and result.stride == (2, 2)
    assert min(equivariance_errors(lambda x: pool(x, 2), x, [(1, 0), (0, 3), (2, 1)]).errors) > 0.1


def test_stride_1_down_and_4_right() -> None:
    x = pictures(1, 2, 9, 16)
    result = equivariance_errors(lambda x: torch_convops.avg_pool2d(x, (1, 4)), x, [(1, 0), (-3, 8), (0, 1)])
    assert result.stride == (1, 4) and result.errors[:2] == (0, 0) and result.errors[2] > 0.1


def test_stride_is_exact_for_what_the_output_can_hold() -> None:
    def function(x: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(x)
        for dim in (-2, -1):
            frequencies = torch.fft.fftfreq(x.shape[dim], 1 / x.shape[dim])
            kept = (frequencies.abs() < x.shape[dim] / 4).to(x)
            spectrum = spectrum * (kept[:, None] if dim == -2 else kept)
        return torch.fft.ifft2(spectrum).real[..., ::2, ::2]

    assert worst(function, pictures(2, 3, 16, 12), WHOLE + PARTS) < EXACT


def test_blur_before_the_stride_lowers_the_error() -> None:
    x = pictures(4, 3, 32, 32)
    shifts = [(0, d / 4) for d in range(1, 8)]

    def max_blur(x: Tensor) -> Tensor:
        return torch_convops.blur_pool2d(torch_convops.max_pool2d(x, 2, 1, "same"), 4, padding_mode="circular")

    for plain, blurred in (
        (lambda x: torch_convops.max_pool2d(x, 2), max_blur),
        (lambda x: x[..., ::2, ::2], lambda x: torch_convops.blur_pool2d(x, 3, padding_mode="circular")),
        (
            lambda x: torch_convops.avg_pool2d(x, 2),
            lambda x: torch_convops.blur_pool2d(x, 4, padding_mode="circular"),
        ),
    ):
        errors = (equivariance_errors(function, x, shifts).errors for function in (plain, blurred))
        assert all(b < 0.9 * a for a, b in zip(*errors, strict=True))


def test_without_pixels_it_is_invariance() -> None:
    x = pictures(3, 2, 8, 6)
    for function in (lambda x: x.mean((2, 3)), lambda x: x.mean((1, 2, 3)), torch_convops.global_avg_pool2d):
        assert worst(function, x, WHOLE + PARTS) < EXACT
    result = equivariance_errors(lambda x: x[:, :, 0, 0], x, [(1, 0)])
    assert result.stride is None
    assert result.worst == pytest.approx(float((x[:, :, -1, 0] - x[:, :, 0, 0]).norm() / x[:, :, 0, 0].norm()))


def test_a_given_stride_is_used() -> None:
    x = pictures(2, 3, 14, 14)
    weight = torch.randn(4, 3, 3, 3, dtype=x.dtype)
    valid = equivariance_errors(lambda x: torch_convops.conv2d(x, weight), x, [(2, 0)], stride=1, margin=3)
    assert valid.worst < EXACT and valid.stride == (1, 1)
    assert worst(lambda x: torch_convops.conv2d(x, weight), x, [(2, 0)], margin=3) > 1e-3


def test_batches_change_nothing() -> None:
    function, x = convolution("zeros"), pictures(7, 3, 8, 8)
    results = [equivariance_errors(function, x, WHOLE + PARTS, batch_size=size).errors for size in (1, 3, 7, 20, 1000)]
    for errors in results:
        assert errors == pytest.approx(results[0], abs=1e-14)
    sizes: list[int] = []
    equivariance_errors(lambda x: (sizes.append(len(x)), x)[1], x, WHOLE, batch_size=14)
    assert sizes == [7, 14, 14, 14]


def test_zero_outputs() -> None:
    x = pictures(1, 1, 4, 4)
    assert worst(torch.zeros_like, x, WHOLE) == 0
    assert not equivariance_map(torch.zeros_like, x, (1, 0)).any()
    impulse = torch.zeros_like(x)
    impulse[..., 0, 0] = 1
    assert worst(lambda x: x[..., 1:2, :].clone(), impulse, [(1, 0)]) == math.inf


def test_runs_where_the_images_are(device: str) -> None:
    x = pictures(3, 1, 9, 10, dtype=torch.float32)

    def smooth(x: Tensor) -> Tensor:
        return torch_convops.blur_pool2d(x, 3, 1, padding_mode="circular")

    assert worst(smooth, x.to(device), WHOLE + PARTS) < 1e-6
    assert equivariance_map(smooth, x.to(device), (0.5, 0)).device.type == "cpu"
    for measure in (lambda x: shift_consistency(read_pixel, x, 4), lambda x: consistency_curve(read_pixel, x, [1, 2])):
        assert measure(x.to(device)) == measure(x)


def test_no_graph_is_built() -> None:
    weight = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    seen: list[bool] = []

    def function(x: Tensor) -> Tensor:
        output = torch_convops.conv2d(x, weight, padding=1)
        seen.append(output.requires_grad)
        return output

    equivariance_errors(function, pictures(1, 1, 6, 6), WHOLE)
    assert not any(seen)


# ---- classifiers -------------------------------------------------------------------------------------------


def read_pixel(x: Tensor) -> Tensor:
    """Class 1 where the pixel at row 4, column 4 is positive, else 0."""
    value = x[:, 0, 4, 4]
    return torch.stack([torch.zeros_like(value), value], 1)


@pytest.mark.parametrize("border", [*BORDERS, "crop"])
def test_constant_classifier_is_consistent(border: str) -> None:
    def function(x: Tensor) -> Tensor:
        return torch.tensor([0.0, 2.0, 1.0]).expand(len(x), 3)

    x = pictures(5, 3, 12, 12)
    result = shift_consistency(function, x, 4, border=border, repeats=3)
    assert (result.consistency, result.standard_error) == (1, 0)
    assert (result.pictures, result.repeats, result.max_shift, result.border) == (5, 3, 4, border)
    curve = consistency_curve(function, x, [0, 1, 3], border=border)
    assert curve == ConsistencyCurve((0, 1, 3), (1, 1, 1), 5, border)


@pytest.mark.parametrize("border", [*BORDERS, "crop"])
def test_reader_of_one_pixel(border: str) -> None:
    # Pixels (4, 0..8) of 9: the classes a view moved by d to the right reads at (4, 4) are those of (4, 4 - d).
    x = -torch.ones(1, 1, 9, 9)
    x[..., 4, 5] = 1
    x[..., 6, 4] = 1
    if border == "crop":
        x = F.pad(x, (2, 2, 2, 2))
    curve = consistency_curve(read_pixel, x, [0, 1, 2], border=border)
    # At 1 pixel one move of four, to the left, shows another class; at 2 pixels one, up.
    assert curve.consistency == (1, 0.75, 0.75)


def test_consistency_of_stripes_is_that_of_two_fair_coins() -> None:
    # One row in two is positive: two views agree where they moved by the same parity. Of 4 offsets two are even.
    x = torch.ones(2000, 1, 9, 9)
    x[:, :, 1::2] = -1
    result = shift_consistency(read_pixel, x, 3, border="reflect", repeats=4)
    assert result.consistency == pytest.approx(0.5, abs=4 * result.standard_error)
    # A share of 4 fair coins has a variance of 1/16.
    assert result.standard_error == pytest.approx(0.25 / 2000**0.5, rel=0.1)
    # Of 3 offsets, -1, 0 and 1, one is even: (2/3)^2 + (1/3)^2.
    result = shift_consistency(read_pixel, x, 2, border="circular", repeats=4)
    assert result.consistency == pytest.approx(5 / 9, abs=0.02)
    assert consistency_curve(read_pixel, x[:1], range(4)).consistency == (1, 0.5, 1, 0.5)


@pytest.mark.parametrize("border", ["reflect", "crop"])
def test_shifts_are_drawn_up_to_the_largest(border: str) -> None:
    size = 9 + (3 if border == "crop" else 0)
    x = torch.zeros(400, 1, size, size)
    x[:, :, 4 + (2 if border == "crop" else 0), 4 + (2 if border == "crop" else 0)] = 1
    seen: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        assert x.shape[1:] == (1, 9, 9)
        seen.append(x[:, 0])
        return x[:, 0, 0]

    shift_consistency(function, x, 3, border=border, repeats=1)
    places = torch.cat(seen).nonzero()[:, 1:] - 4
    assert len(places) == 800
    assert {tuple(place) for place in places.tolist()} == set(product(range(-1, 3), repeat=2))


def test_consistency_follows_the_generator() -> None:
    x = pictures(50, 1, 9, 9)

    def consistency(seed: int | None) -> float:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return shift_consistency(read_pixel, x, 4, generator=generator).consistency

    state = torch.get_rng_state()
    assert consistency(None) == consistency(0) == consistency(0)
    assert len({consistency(seed) for seed in range(4)}) > 1
    assert torch.equal(torch.get_rng_state(), state)
    sizes = [shift_consistency(read_pixel, x, 4, batch_size=size).consistency for size in (1, 7, 1000)]
    assert len(set(sizes)) == 1
    assert math.isnan(shift_consistency(read_pixel, x[:1], 4).standard_error)
    assert shift_consistency(read_pixel, x, 0).consistency == 1


# ---- arguments ---------------------------------------------------------------------------------------------


IMAGES = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: shift([1], (0, 0)), TypeError, "shift: images must be a tensor, got list"),
        (lambda: shift(IMAGES.half(), (0, 0)), TypeError, "must be float32 or float64, got float16"),
        (lambda: shift(IMAGES[0], (0, 0)), ValueError, r"must be \[N, C, H, W\] and not be empty"),
        (lambda: shift(IMAGES[:0], (0, 0)), ValueError, "not be empty"),
        (lambda: shift(IMAGES, 1), TypeError, "by must be a pair, got 1"),
        (lambda: shift(IMAGES, (1, 2, 3)), TypeError, "by must be a pair"),
        (lambda: shift(IMAGES, (1, "2")), TypeError, "by must be two numbers"),
        (lambda: shift(IMAGES, (True, 0)), TypeError, "by must be two numbers"),
        (lambda: shift(IMAGES, (math.nan, 0)), ValueError, "by must be finite"),
        (lambda: fourier_shift(IMAGES, (0, math.inf)), ValueError, "fourier_shift: by must be finite"),
        (lambda: shift(IMAGES, (0, 0), "mirror"), ValueError, "border must be one of 'circular', 'reflect'"),
        (lambda: shift(IMAGES, (0, 0.5), "zeros"), ValueError, "whole pixels for the border 'zeros'"),
        (lambda: shift(IMAGES, (0, -8), "reflect"), ValueError, "reaches at most 7 pixels, got 8"),
        (lambda: crop(IMAGES, (0, 3), (4, 4)), ValueError, "does not lie in images of"),
        (lambda: crop(IMAGES, (0, 0), (9, 4)), ValueError, "does not lie in images of"),
        (lambda: crop(IMAGES, (0, 0), (0, 4)), ValueError, "does not lie in images of"),
        (lambda: crop(IMAGES, (0, 0.5), (4, 4)), TypeError, "by must be whole numbers, got 0.5"),
        (lambda: crop(IMAGES, (0, 0), 4), TypeError, "size must be a pair"),
        (lambda: equivariance_errors(abs, IMAGES, []), ValueError, "shifts must not be empty"),
        (lambda: equivariance_errors(abs, IMAGES, [(0,)]), TypeError, "by must be a pair"),
        (lambda: equivariance_errors(abs, IMAGES, [(0, 1)], margin=4), ValueError, "a margin of 4 leaves nothing"),
        (lambda: equivariance_errors(abs, IMAGES, [(0, 1)], margin=-1), ValueError, "margin must be at least 0"),
        (lambda: equivariance_errors(abs, IMAGES, [(0, 1)], stride=0), ValueError, "stride must be one or two"),
        (lambda: equivariance_errors(abs, IMAGES, [(0, 1)], stride=(1, 1, 1)), ValueError, "stride must be one or two"),
        (lambda: equivariance_errors(abs, IMAGES, [(0, 1)], batch_size=0), ValueError, "batch_size must be at least 1"),
        (lambda: equivariance_errors(lambda x: 1, IMAGES, [(0, 1)]), TypeError, "must return a tensor, got int"),
        (lambda: equivariance_errors(lambda x: x[0], IMAGES, [(0, 1)]), ValueError, "for N images, got size"),
        (lambda: equivariance_errors(lambda x: x[:1], IMAGES, [(0, 1)]), ValueError, r"size \(1, 3, 8, 8\) for 2"),
        (lambda: equivariance_errors(torch.fft.fft2, IMAGES, [(0, 1)]), TypeError, "must return real numbers"),
        (lambda: equivariance_errors(lambda x: x.sum((2, 3)), IMAGES, [(0, 1)], margin=1), ValueError, "margin must"),
        (lambda: equivariance_map(lambda x: x.sum((2, 3)), IMAGES, (0, 1)), ValueError, "output has no pixels"),
        (lambda: shift_consistency(read_pixel, IMAGES, -1), ValueError, "max_shift must be at least 0"),
        (lambda: shift_consistency(read_pixel, IMAGES, 1.5), TypeError, "max_shift must be an int, got 1.5"),
        (lambda: shift_consistency(read_pixel, IMAGES, 15), ValueError, "reaches at most 7 pixels, got 8"),
        (lambda: shift_consistency(read_pixel, IMAGES, 8, border="crop"), ValueError, "are empty"),
        (lambda: shift_consistency(read_pixel, IMAGES, 1, border="none"), ValueError, "border must be one of"),
        (lambda: shift_consistency(read_pixel, IMAGES, 1, repeats=0), ValueError, "repeats must be at least 1"),
        (lambda: shift_consistency(abs, IMAGES, 1), ValueError, r"must return scores \[N, K\] for N images, got size"),
        (lambda: shift_consistency(lambda x: None, IMAGES, 1), ValueError, "got NoneType"),
        (lambda: consistency_curve(read_pixel, IMAGES, []), ValueError, "distances must not be empty"),
        (lambda: consistency_curve(read_pixel, IMAGES, [1, -1]), ValueError, "distances must be at least 0"),
        (lambda: consistency_curve(read_pixel, IMAGES, [8]), ValueError, "reaches at most 7 pixels, got 8"),
        (lambda: consistency_curve(read_pixel, IMAGES, [4], border="crop"), ValueError, "are empty"),
    ],
)  # fmt: skip
def test_hostile_arguments_are_named(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# ---- figures -----------------------------------------------------------------------------------------------


def test_module_needs_no_matplotlib() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; import torch_convops.equivariance"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_figures() -> None:
    from torch_convops.equivariance import plots

    x = pictures(2, 3, 12, 12)
    right = equivariance_errors(convolution(), x, [(0, d / 2) for d in range(-4, 5)])
    pooled = equivariance_errors(lambda x: x[..., ::2, ::2], x, [(0, d / 2) for d in range(-4, 5)])
    figure = plots.error_curves({"conv": right, "stride": pooled})
    assert figure.axes[0].get_yscale() == "symlog" and "to the right (pixels)" in figure.axes[0].get_xlabel()
    assert plots.error_curves({"stride": pooled}).axes[0].get_yscale() == "linear"
    grid = equivariance_errors(lambda x: x[..., ::2, ::2], x, list(product((-1, 0, 1), (0, 0.5))))
    curve = consistency_curve(lambda x: x[:, 0, 0], x, range(4))
    figures = [
        figure,
        plots.error_map(grid),
        plots.pixel_error_map(equivariance_map(convolution("zeros"), x, (1, 0))),
        plots.consistency_curves({"plain": curve}),
        plots.summary({"plain": curve}, {"stride": pooled}, "a title"),
    ]
    for drawn in figures:
        drawn.canvas.draw()
        for axes in drawn.axes:
            assert axes.get_ylabel() and (axes.get_title() or axes.get_label() == "<colorbar>")
    with pytest.raises(ValueError, match="no grid"):
        plots.error_map(EquivarianceErrors(((0, 0), (1, 1)), (0, 0), (1, 1), 0))
    with pytest.raises(ValueError, match="shifts must be down"):
        plots.error_curves({"stride": EquivarianceErrors(((1, 0), (0, 1)), (0, 0), (1, 1), 0)})
