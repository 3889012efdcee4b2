"""bfloat16 convolutions where the processor has AMX: what the grid of tests/test_conv2d.py is too small for."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import LAYOUTS, in_layout, random, relative_error
from test_conv2d import PASSES, Case, as_pair, example, run_pass

import torch_convops
from torch_convops import conv2d

ops = torch.ops.torch_convops
ALGORITHM = "implicit_gemm_amx"

pytestmark = pytest.mark.skipif(
    ALGORITHM not in torch_convops.algorithms("conv2d"), reason="the processor has no AMX, or TORCH_CONVOPS_ISA is set"
)

# Channels and pixels around multiples of 16 and 32, the sizes of a tile.
CASES = [
    Case((2, 64, 15, 17), (48, 64, 3, 3), padding=1),
    Case((2, 33, 9, 33), (65, 33, 3, 3), padding=((1, 0), (0, 2))),
    Case((1, 96, 6, 70), (16, 96, 1, 3), padding=((0, 0), (1, 1))),
    Case((2, 32, 12, 13), (80, 32, 3, 2)),
    # Images that are read in place where they are channels_last, with a stride and without, and joined rows.
    Case((2, 64, 14, 14), (40, 64, 1, 1)),
    Case((2, 64, 15, 30), (40, 64, 1, 1), stride=2),
    Case((2, 64, 9, 9), (32, 64, 1, 1), padding=1, stride=(1, 2)),
    # Sums that are cut, of packed pixels and of those in the image.
    Case((1, 160, 12, 33), (40, 160, 3, 3), padding=1),
    Case((2, 160, 11, 20), (40, 160, 3, 3), stride=2, padding=1),
    Case((1, 640, 20, 17), (40, 640, 1, 1)),
    # Few channels, joined with the columns of the kernel.
    Case((2, 3, 31, 45), (64, 3, 7, 7), stride=2, padding=3),
    Case((2, 5, 9, 40), (33, 5, 5, 9), padding=4, dilation=(1, 3)),
    Case((2, 24, 9, 18), (24, 24, 3, 3), padding=1),
    Case((2, 3, 20, 20), (16, 3, 3, 12), stride=(1, 5), padding=6),
    # Phases of the gradient, some without taps, some with fewer targets than a tile has rows.
    Case((2, 32, 17, 21), (32, 32, 3, 3), stride=2, padding=1),
    Case((2, 32, 13, 37), (64, 32, 2, 2), stride=(3, 4)),
    Case((2, 40, 16, 16), (40, 40, 3, 3), stride=3, dilation=2, padding=2),
    Case((2, 64, 11, 11), (96, 32, 3, 3), groups=2, padding=1),
    Case((2, 64, 10, 20), (64, 16, 3, 3), groups=4, padding=1, stride=2),
    # Small images, of which grad_weight takes several at a time, and one that it cuts.
    Case((9, 64, 5, 5), (64, 64, 3, 3), padding=1),
    Case((1, 128, 40, 100), (32, 128, 3, 3), padding=1),
    Case((1, 32, 1, 3000), (32, 32, 1, 3)),
    Case((2, 64, 21, 20), (2, 64, 3, 3), padding=1),
    Case((3, 300, 7, 7), (290, 300, 1, 1)),
    *(
        Case((2, 48, 7, 18), (32, 48, 3, 4), padding=((2, 1), (3, 2)), padding_mode=border)
        for border in ("reflect", "replicate", "circular", "symmetric")
    ),
    Case((2, 8, 7, 18), (32, 8, 3, 4), 2, ((2, 1), (3, 2)), padding_mode="circular"),
]  # fmt: skip

# Pairs of vectors of 16 channels and what is left of them, blocks at the sides of images and between.
DEPTHWISE = [
    Case((2, 64, 9, 33), (64, 1, 3, 3), padding=1, groups=64),
    Case((2, 70, 15, 17), (70, 1, 3, 3), stride=2, padding=1, groups=70),
    Case((1, 40, 12, 60), (40, 1, 5, 5), padding=((1, 2), (3, 0)), groups=40),
    Case((2, 48, 14, 14), (48, 1, 7, 7), padding=3, groups=48),
    Case((2, 33, 8, 30), (33, 1, 3, 2), stride=(1, 3), dilation=(2, 1), padding=2, groups=33),
    Case((1, 96, 20, 31), (96, 1, 9, 13), padding=((4, 4), (6, 6)), groups=96),
    Case((2, 80, 7, 18), (80, 1, 3, 4), padding=((2, 1), (3, 2)), groups=80, padding_mode="reflect"),
]
TAKEN = [*((case, ALGORITHM) for case in CASES), *((case, "depthwise") for case in DEPTHWISE)]


def test_is_what_bfloat16_convolutions_take() -> None:
    x, w = random(2, 64, 14, 14, dtype=torch.bfloat16), random(64, 64, 3, 3, dtype=torch.bfloat16)
    for name in PASSES:
        assert torch_convops.conv2d_choice(name, x, w, padding=1) == ALGORITHM
        assert torch_convops.conv2d_choice(name, x[:, :3], w[:3, :3], padding=1) == ALGORITHM
        assert torch_convops.conv2d_choice(name, x.float(), w.float(), padding=1) != ALGORITHM
    # Depthwise kernels have nothing to multiply in tiles.
    assert torch_convops.conv2d_choice("forward", x, w[:, :1], padding=1, groups=64) == "depthwise"


def run(
    case: Case, name: str, x: torch.Tensor, w: torch.Tensor, dy: torch.Tensor, algorithm: str = ALGORITHM
) -> torch.Tensor:
    window = (as_pair(case.stride), case.sides, as_pair(case.dilation), case.groups)
    options = {"padding_mode": case.padding_mode, "algorithm": algorithm}
    if name == "forward":
        return conv2d(x, w, None, *case.arguments, algorithm=algorithm)
    if name == "grad_input":
        return ops.conv2d_grad_input(dy, w, x.shape[-2:], *window, **options)
    return ops.conv2d_grad_weight(dy, x, w.shape[-2:], *window, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case, algorithm", TAKEN, ids=str)
def test_matches_torch(case: Case, algorithm: str, layout: str) -> None:
    e = example(case, torch.bfloat16)
    for name in PASSES:
        for weight_layout in ("contiguous", "channels_last"):
            result = run_pass(case, name, e, "cpu", layout, weight_layout, algorithm)
            # Sums are float32 and rounded once, by 2^-9 at most; the folded gradient of a padded image is twice.
            assert relative_error(result, getattr(e, name)) < 2e-3 * case.roundings(name), name


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("case, algorithm", TAKEN, ids=str)
def test_infinity_reaches_exactly_what_reads_it(case: Case, algorithm: str, layout: str) -> None:
    """What fills channels, pixels and taps up to whole tiles meets no value of a tensor."""
    e = example(case, torch.bfloat16)
    ones = {"x": torch.ones_like(e.input), "w": torch.ones_like(e.weight), "dy": torch.ones_like(e.grad_output)}
    # An infinite gradient meets the zeros of the padding in grad_weight, which is not a number.
    infinite = {"forward": ["x"], "grad_input": ["dy"], "grad_weight": ["x"] if any(case.sides) else ["x", "dy"]}
    for name in PASSES:
        for operand in infinite[name]:
            size = ones[operand].shape
            for index in ((0, 0, 0, 0), (-1, -1, -1, -1), tuple(n // 2 for n in size), (0, 0, -1, size[3] // 2)):
                values = {key: tensor.clone() for key, tensor in ones.items()}
                values[operand][index] = math.inf
                values = {key: in_layout(tensor, layout) for key, tensor in values.items()}
                marks = {key: tensor.double() for key, tensor in ones.items()}
                marks[operand].zero_()[index] = 1
                result = run(case, name, **values, algorithm=algorithm)
                assert torch.equal(result == math.inf, run(case, name, **marks, algorithm="auto") > 0), (name, index)
                assert not result.isnan().any()


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("case, algorithm", TAKEN, ids=str)
def test_nothing_outside_is_read(case: Case, algorithm: str, layout: str) -> None:
    """Operands between NaN give what they give alone."""
    e = example(case, torch.bfloat16)

    def surrounded(values: torch.Tensor) -> torch.Tensor:
        buffer = values.new_full([values.numel() + 2 * 4096], math.nan)
        return buffer.as_strided(values.shape, values.stride(), 4096).copy_(values)

    operands = [in_layout(tensor, layout) for tensor in (e.input, e.weight, e.grad_output)]
    for name in PASSES:
        alone = run(case, name, *operands, algorithm=algorithm)
        assert torch.equal(run(case, name, *map(surrounded, operands), algorithm=algorithm), alone), name


@pytest.mark.parametrize("case", CASES[:12], ids=str)
@pytest.mark.usefixtures("threads")
def test_bitwise_equal_for_any_thread_count(case: Case) -> None:
    """Also where an infinite weight meets the padding, which is not the same as leaving the padding out."""
    e = example(case, torch.bfloat16)
    w = e.weight.clone()
    w[0, 0, 0, 0] = math.inf
    for name in PASSES:
        results = []
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            results.append(run(case, name, e.input, w, e.grad_output).view(torch.int16))
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2]), name


def test_denormals_count_as_zero() -> None:
    tiny = torch.full((1, 32, 4, 4), torch.finfo(torch.bfloat16).smallest_normal / 2, dtype=torch.bfloat16)
    weight = torch.full((16, 32, 1, 1), 2.0**20, dtype=torch.bfloat16)
    assert tiny.count_nonzero() == tiny.numel()
    assert conv2d(tiny, weight, algorithm=ALGORITHM).count_nonzero() == 0


def test_results_of_depthwise_that_are_denormal_become_zero() -> None:
    normal = torch.finfo(torch.bfloat16).smallest_normal
    image = torch.full((1, 32, 8, 8), normal, dtype=torch.bfloat16)
    image[:, 16:] *= 2
    for layout in LAYOUTS:
        weight = torch.full((32, 1, 1, 1), 0.5, dtype=torch.bfloat16)
        result = conv2d(in_layout(image, layout), weight, groups=32, algorithm="depthwise")
        assert result[:, :16].count_nonzero() == 0
        assert (result[:, 16:] == normal).all()


def test_depthwise_rounds_to_nearest_even_and_keeps_what_is_no_number() -> None:
    # Halfway between two neighbours of bfloat16, and a little beside it: 1 + 2^-8 lies between 1 and 1 + 2^-7.
    sums = [(1, 2.0**-8), (1 + 2.0**-7, 2.0**-8), (1, 2.0**-8 + 2.0**-15), (math.inf, 1), (-math.inf, 1), (math.nan, 1)]
    image = torch.tensor(sums, dtype=torch.bfloat16).repeat(8, 1).reshape(1, 48, 1, 2)
    for layout in LAYOUTS:
        weight = torch.ones(48, 1, 1, 2, dtype=torch.bfloat16)
        result = conv2d(in_layout(image, layout), weight, groups=48, algorithm="depthwise").flatten()
        expected = image.float().sum(3).flatten().bfloat16()
        torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)
