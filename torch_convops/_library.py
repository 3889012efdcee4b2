"""Loads the compiled library and asks it about itself."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

PATH = Path(__file__).with_name("libtorch_convops.so")
OPERATORS = ("conv2d", "max_pool2d", "avg_pool2d", "max_unpool2d")
_REBUILD = "run `pip install --no-build-isolation .` in a checkout of torch_convops, or `make build`"


def _load() -> ctypes.CDLL:
    if not PATH.exists():
        raise ImportError(f"torch_convops: the compiled library {PATH} is missing; {_REBUILD}")
    try:
        torch.ops.load_library(str(PATH))
        return ctypes.CDLL(str(PATH))
    except (OSError, RuntimeError) as error:
        raise ImportError(
            f"torch_convops: the compiled library {PATH} does not load with torch {torch.__version__} "
            f"({str(error).splitlines()[0]}); {_REBUILD}"
        ) from error


_library = _load()


def _text(name: str, *arguments: object) -> str:
    function = getattr(_library, name)
    function.restype = ctypes.c_char_p
    return str(function(*arguments).decode())


@dataclass(frozen=True)
class BuildInfo:
    """How the library was built and what it runs with here.

    Attributes:
        isa: instruction set that the CPU kernels use on this machine: ``amx`` (AVX-512 with tiles of bfloat16),
            ``avx512``, ``avx2`` or ``baseline``.
        built_with_torch: version of torch whose headers it was compiled against.
        cuda_archs: CUDA architectures in the library, such as ``8.0;9.0a;9.0+PTX``; empty for a CPU-only build.
        no_cuda_reason: why a CPU-only build is one; empty otherwise.
    """

    isa: str
    built_with_torch: str
    cuda_archs: str
    no_cuda_reason: str


def build_info() -> BuildInfo:
    """Returns how the compiled library was built."""
    return BuildInfo(
        isa=_text("torch_convops_isa"),
        built_with_torch=_text("torch_convops_built_with_torch"),
        cuda_archs=_text("torch_convops_cuda_archs"),
        no_cuda_reason=_text("torch_convops_no_cuda_reason"),
    )


def algorithms(operator: str, device: str = "cpu") -> list[str]:
    """Returns the names of an operator's algorithms, of which ``"auto"`` takes the one that it expects to be fastest.

    Args:
        operator: ``"conv2d"``, ``"max_pool2d"``, ``"avg_pool2d"`` or ``"max_unpool2d"``; the others are built on these.
        device: ``"cpu"`` or ``"cuda"``; a CPU-only build has no CUDA algorithms.
    """
    names = _text("torch_convops_algorithms", operator.encode(), int(device == "cuda"))
    if not names and operator not in OPERATORS:
        raise ValueError(f"operator must be one of {', '.join(map(repr, OPERATORS))}, got {operator!r}")
    return names.split(",") if names else []


class allow_winograd:
    """Sets whether ``"auto"`` may take Winograd's algorithm for convolutions of float32 on the CPU; at first it may.

    F(4x4, 3x3) does a 3x3 convolution of stride 1 and its gradients with a quarter of the multiplications, F(3x3, 4x4)
    and F(2x2, 5x5) do 4x4 and 5x5 with 25 and 36 %, and a stride of s is one of s^2 phases with kernels as many times
    smaller: a 7x7 first layer of stride 2 takes a third. They round more coarsely: the error against float64 is at most
    5e-6 in relative Euclidean norm (2e-6 for 512 channels of normal data), where summing products as the definition
    does errs by 2e-7 to 7e-7. Other dtypes, and problems of fewer than 2^24 multiplications, never use it. The switch
    is for the whole process, all threads, and for what ``torch.compile`` and ``torch.export`` have traced before, too;
    ``algorithm="winograd"`` does not ask. As a context manager it sets back what was there when it was made::

        torch_convops.allow_winograd(False)
        with torch_convops.allow_winograd(False):
            ...

    S. Winograd, *Arithmetic Complexity of Computations*, 1980; A. Lavin and S. Gray, arXiv:1509.09308.

    Args:
        allowed: whether it may.
    """

    def __init__(self, allowed: bool) -> None:
        if not isinstance(allowed, bool):
            raise TypeError(f"allow_winograd: allowed must be a bool, got {allowed!r}")
        self.previous = bool(_library.torch_convops_allow_winograd(int(allowed)))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        _library.torch_convops_allow_winograd(int(self.previous))


def winograd_transform(name: str, taps: int, line: Sequence[float]) -> list[float]:
    """A matrix for 2 to 5 taps times a line; see ``torch_convops_winograd_transform`` in csrc/info.cpp."""
    source, target = (ctypes.c_double * 6)(*line), (ctypes.c_double * 6)()
    count = _library.torch_convops_winograd_transform(name.encode(), taps, source, target)
    return list(target[:count])


def _chosen(name: str) -> str:
    if name.startswith("error: "):
        raise ValueError(name.removeprefix("error: "))
    return name


def conv2d_choice(
    cuda: bool, pass_: int, dtype: int, sizes: Sequence[int], formats: tuple[bool, bool], allow_tf32: bool
) -> str:
    """The algorithm that ``"auto"`` takes; see ``torch_convops_conv2d_choice`` in csrc/info.cpp."""
    array = (ctypes.c_int64 * len(sizes))(*sizes)
    return _chosen(
        _text("torch_convops_conv2d_choice", int(cuda), pass_, dtype, array, *map(int, formats), int(allow_tf32))
    )


def pool2d_choice(op: str, cuda: bool, pass_: int, dtype: int, sizes: Sequence[int], channels_last: bool) -> str:
    """The algorithm that ``"auto"`` takes; see ``torch_convops_pool2d_choice`` in csrc/info.cpp."""
    array = (ctypes.c_int64 * len(sizes))(*sizes)
    return _chosen(
        _text("torch_convops_pool2d_choice", op.encode(), int(cuda), pass_, dtype, array, int(channels_last))
    )
