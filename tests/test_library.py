"""The compiled library: what it says about itself, how it fails to load, and its kernels for older processors."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import DEVICES, random

import torch_convops

PACKAGE = Path(torch_convops.__file__).parent
X86 = platform.machine().lower() in ("x86_64", "amd64")


def python(code: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter that imports torch_convops from ``path``."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(path), **environment},
        cwd=path,
        capture_output=True,
        text=True,
        check=False,
    )


def test_build_info() -> None:
    info = torch_convops.build_info()
    assert info.isa in ("amx", "avx512", "avx2", "baseline")
    assert info.built_with_torch.split(".")[0].isdigit()
    # Exactly one of the two says how things are with CUDA.
    assert bool(info.cuda_archs) != bool(info.no_cuda_reason)
    assert repr(info).startswith("BuildInfo(isa=")


@pytest.mark.parametrize("operator", ["conv2d", "max_pool2d", "avg_pool2d"])
def test_algorithms(operator: str) -> None:
    for device in DEVICES:
        names = torch_convops.algorithms(operator, device)
        assert names and len(set(names)) == len(names)
        assert "auto" not in names
    if not torch_convops.build_info().cuda_archs:
        assert torch_convops.algorithms(operator, "cuda") == []


def test_algorithms_of_an_unknown_operator() -> None:
    with pytest.raises(ValueError, match=r"operator must be one of 'conv2d', .*, got 'conv3d'"):
        torch_convops.algorithms("conv3d")


def test_unknown_algorithm_names_the_known_ones(device: str) -> None:
    x = random(1, 1, 4, 4, device=device)
    for operator, call in (
        ("conv2d", lambda: torch_convops.conv2d(x, x, algorithm="fastest")),
        ("max_pool2d", lambda: torch_convops.max_pool2d(x, 2, algorithm="fastest")),
        ("avg_pool2d", lambda: torch_convops.avg_pool2d(x, 2, algorithm="fastest")),
    ):
        known = ", ".join(map(repr, ["auto", *torch_convops.algorithms(operator, device)]))
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == f"{operator}: algorithm must be one of {known}; got 'fastest'"


def test_choice_is_what_auto_runs(device: str) -> None:
    names = torch_convops.algorithms("conv2d", device)
    for groups in (1, 4):
        x, w = random(2, 4, 9, 9, device=device), random(4, 4 // groups, 3, 3, device=device)
        for pass_ in ("forward", "grad_input", "grad_weight"):
            assert torch_convops.conv2d_choice(pass_, x, w, padding="same", groups=groups) in names
        chosen = torch_convops.conv2d_choice("forward", x, w, groups=groups)
        auto, forced = (torch_convops.conv2d(x, w, groups=groups, algorithm=name) for name in ("auto", chosen))
        assert torch.equal(auto, forced)


def test_choice_checks_its_arguments() -> None:
    x, w = random(1, 2, 4, 4), random(2, 2, 3, 3)
    with pytest.raises(ValueError, match="pass_ must be one of 'forward', 'grad_input', 'grad_weight', got 'backward'"):
        torch_convops.conv2d_choice("backward", x, w)
    with pytest.raises(ValueError, match="stride must be positive, got 0 for the height"):
        torch_convops.conv2d_choice("forward", x, w, stride=0)
    with pytest.raises(TypeError, match="input must be float32"):
        torch_convops.conv2d_choice("forward", x.int(), w)


def test_missing_library_says_what_to_run(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "torch_convops", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    result = python("import torch_convops", tmp_path)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: torch_convops: the compiled library ")
    assert " is missing; run `pip install" in last


def test_library_that_does_not_load_says_what_to_run(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "torch_convops", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "torch_convops" / "libtorch_convops.so").write_bytes(b"not a library")
    result = python("import torch_convops", tmp_path)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: torch_convops: the compiled library ")
    assert f"does not load with torch {torch.__version__}" in last and "; run `pip install" in last


CHECK = """
import torch, torch.nn.functional as F, torch_convops as t
torch.manual_seed(0)
for dtype, bound in ((torch.float32, 4e-6), (torch.float64, 1e-13), (torch.bfloat16, 6e-3), (torch.float16, 8e-4)):
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for groups, size in ((1, 6), (6, 1)):
            x = torch.randn(2, 6, 13, 37).to(dtype).contiguous(memory_format=memory_format)
            w = torch.randn(6, size, 3, 3).to(dtype)
            for ours, torchs in (
                (lambda x, w: t.conv2d(x, w, stride=2, padding=1, groups=groups),
                 lambda x, w: F.conv2d(x, w, stride=2, padding=1, groups=groups)),
                (lambda x, w: t.conv2d(x, w, groups=groups), lambda x, w: F.conv2d(x, w, groups=groups)),
                (lambda x, w: t.max_pool2d(x, 3, 2, 1), lambda x, w: F.max_pool2d(x, 3, 2, 1)),
                (lambda x, w: t.max_pool2d(x, 9, 1, 4), lambda x, w: F.max_pool2d(x, 9, 1, 4)),
                (lambda x, w: t.avg_pool2d(x, 3, 2, 1), lambda x, w: F.avg_pool2d(x, 3, 2, 1)),
                (lambda x, w: t.global_avg_pool2d(x), lambda x, w: F.adaptive_avg_pool2d(x, 1)),
            ):
                a = [v.detach().clone().requires_grad_() for v in (x, w)]
                b = [v.detach().double().contiguous().requires_grad_() for v in (x, w)]
                y, e = ours(*a), torchs(*b)
                dy = torch.randn_like(y)
                y.backward(dy), e.backward(dy.double().contiguous())
                for actual, expected in ((y, e), (a[0].grad, b[0].grad), (a[1].grad, b[1].grad)):
                    if expected is not None:
                        error = ((actual.double() - expected).norm() / expected.norm()).item()
                        assert error <= bound, (dtype, memory_format, groups, error)
values = torch.arange(-64, 64, dtype=torch.int8).reshape(1, 2, 8, 8)
assert torch.equal(t.max_pool2d(values, 3, 2, 1), F.max_pool2d(values.double(), 3, 2, 1).to(torch.int8))
print(t.build_info().isa)
"""


@pytest.mark.parametrize("wanted", ["baseline", "avx2", "avx512", "amx"])
def test_kernels_of_every_instruction_set(wanted: str) -> None:
    """The environment variable narrows the instruction set; it never claims one that the processor lacks."""
    order = ["baseline", "avx2", "avx512", "amx"]
    best = python("import torch_convops; print(torch_convops.build_info().isa)", PACKAGE.parent, TORCH_CONVOPS_ISA="")
    result = python(CHECK, PACKAGE.parent, TORCH_CONVOPS_ISA=wanted)
    assert result.returncode == 0, result.stderr
    expected = min(wanted, best.stdout.strip(), key=order.index) if X86 else "baseline"
    assert result.stdout.strip() == expected


CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(not X86 or not CPUINFO.exists(), reason="asks Linux what an x86-64 processor has")
def test_instruction_set_is_the_best_that_linux_knows_of() -> None:
    flags = set(next(line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")).split())
    needs = {
        "amx": {"amx_tile", "amx_bf16", "avx512_bf16", "avx512f", "avx512bw", "avx512dq", "avx512vl"},
        "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
        "avx2": {"avx2", "fma", "f16c"},
    }
    best = next((isa for isa, needed in needs.items() if needed <= flags), "baseline")
    result = python("import torch_convops; print(torch_convops.build_info().isa)", PACKAGE.parent, TORCH_CONVOPS_ISA="")
    assert result.stdout.strip() == best
    for isa in needs:
        code = "import torch_convops; print('implicit_gemm_amx' in torch_convops.algorithms('conv2d'))"
        result = python(code, PACKAGE.parent, TORCH_CONVOPS_ISA=isa)
        assert result.stdout.strip() == str(best == isa == "amx")


def test_pooling_choice_is_among_the_algorithms_and_runs(device: str) -> None:
    x = torch.randn(2, 16, 9, 9, device=device)
    for image in (x, x.to(memory_format=torch.channels_last)):
        for kernel in (2, 9, 5):
            for op, pool, choose, passes in (
                ("max_pool2d", torch_convops.max_pool2d, torch_convops.max_pool2d_choice, ("forward", "grad_input")),
                ("avg_pool2d", torch_convops.avg_pool2d, torch_convops.avg_pool2d_choice, ("forward", "grad_input")),
            ):
                for pass_ in passes:
                    assert choose(pass_, image, kernel) in torch_convops.algorithms(op, device)
                chosen = choose("forward", image, kernel)
                assert (chosen == "global") == (kernel == 9)
                assert torch.equal(pool(image, kernel, algorithm=chosen), pool(image, kernel))
    with pytest.raises(ValueError, match="pass_ must be one of"):
        torch_convops.max_pool2d_choice("backward", x, 2)
    with pytest.raises(ValueError, match="kernel height must be positive"):
        torch_convops.avg_pool2d_choice("forward", x, 0)
