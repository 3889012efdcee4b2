"""What the operator tests share: devices, tolerances, and inputs in every memory layout."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import click.testing
import pytest
import torch

import torch_convops

DEVICES = ["cpu"]
# A CPU-only build cannot run on a GPU; the header says so rather than leaving it unseen.
if torch.cuda.is_available() and torch_convops.build_info().cuda_archs:
    DEVICES.append("cuda")

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

# Largest relative error of a whole tensor, in the Euclidean norm, against float64 on the same inputs.
TOLERANCE = {
    # Sums of up to a few thousand products in float32: rounding of 6e-8 each, grown by cancellation between them.
    torch.float32: 4e-6,
    # The same with a rounding of 1.1e-16, and the oracle itself sums in another order.
    torch.float64: 1e-13,
    # Sums are float32; what counts is that the result is rounded once to 8 bits, at most 2^-9 = 2e-3 each way.
    torch.bfloat16: 6e-3,
    # Rounded once to 11 bits, at most 2^-12 to 2^-11 = 4.9e-4.
    torch.float16: 8e-4,
}

# "sliced" is a view into a larger buffer with gaps in every dimension, which no kernel may read in place.
LAYOUTS = ("contiguous", "channels_last", "sliced")


def pytest_report_header() -> str:
    info = torch_convops.build_info()
    return f"torch_convops: devices {', '.join(DEVICES)}; {info}"


def algorithm_params(operator: str) -> list[tuple[str, str]]:
    """Every (device, algorithm) that can run here."""
    return [(device, name) for device in DEVICES for name in torch_convops.algorithms(operator, device)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> None:
    """The same numbers in every run, others in every test."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def exact_float32(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keeps float32 convolutions off the TF32 tensor cores; tests of TF32 itself switch it on."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def threads() -> Iterator[None]:
    """Gives the number of threads back after a test that changes it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of ``expected``, in float64; infinite if shapes differ or NaN turns up."""
    if actual.shape != expected.shape:
        return float("inf")
    actual, expected = (tensor.detach().to("cpu", torch.float64) for tensor in (actual, expected))
    difference, norm = (actual - expected).norm().item(), expected.norm().item()
    if difference == 0:
        return 0.0
    return difference / norm if norm > 0 and difference == difference else float("inf")


def assert_close(
    actual: torch.Tensor,
    expected: torch.Tensor,
    what: object = "",
    dtype: torch.dtype | None = None,
    roundings: int = 1,
) -> None:
    """Asserts that ``actual`` is as near to ``expected`` as its dtype allows, after so many roundings to it."""
    error, bound = relative_error(actual, expected), TOLERANCE[dtype or actual.dtype] * roundings
    assert error <= bound, f"{what}: relative error {error:.2e} > {bound:.0e} for {actual.dtype} {tuple(actual.shape)}"


def in_layout(values: torch.Tensor, layout: str) -> torch.Tensor:
    """A copy of the values, laid out as asked. Unbatched images have no channels_last format: they are contiguous."""
    values = values.detach()
    if layout == "channels_last" and values.dim() == 4:
        return values.clone(memory_format=torch.channels_last)
    if layout == "sliced":
        # NaN around every value shows in any result that read it.
        filler = float("nan") if values.is_floating_point() else 77
        buffer = values.new_full([2 * size + 3 for size in values.shape], filler)
        view = buffer[tuple(slice(1, 1 + 2 * size, 2) for size in values.shape)]
        view.copy_(values)
        return view
    return values.clone(memory_format=torch.contiguous_format)


def random(
    *shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu", layout: str = "contiguous", grad: bool = False
) -> torch.Tensor:
    """Normally distributed numbers, or integers over the whole range of an integer dtype."""
    if dtype.is_floating_point:
        values = torch.randn(shape, dtype=torch.float64).to(dtype)
    else:
        limits = torch.iinfo(dtype)
        values = torch.randint(limits.min, limits.max, shape, dtype=dtype)
    return in_layout(values.to(device), layout).requires_grad_(grad)


def exact(tensor: torch.Tensor, grad: bool = False) -> torch.Tensor:
    """A float64 copy on the CPU, for the oracle."""
    copy = tensor.detach().to("cpu", torch.float64).clone(memory_format=torch.contiguous_format)
    return copy.requires_grad_(grad)


def is_channels_last(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def assert_one_line_error(result: click.testing.Result, *fragments: str) -> None:
    """A command that was refused says why in one line of stderr."""
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit)
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith("Error: ")
    assert "Traceback" not in result.output
    for fragment in fragments:
        assert fragment in error
