"""The CUDA kernels without a GPU: compiled as C++, run by an emulation of one, compared with plain loops in double.

tests/cuda_emulation/ has the emulation and says what it finds. It does not find what only a GPU has: launch limits but
for shared memory, the rounding of its instructions, races between blocks, and speed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HERE = ROOT / "tests" / "cuda_emulation"
BUILD = ROOT / "build" / "cuda_emulation"

# Undefined behaviour that a GPU answers with a fault or a wrong number ends the process.
FLAGS = (
    "-std=c++20 -O1 -march=native -fPIE -fno-extern-tls-init -fno-strict-aliasing -w -U_FORTIFY_SOURCE "
    "-fsanitize=alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero "
    f"-fsanitize-undefined-trap-on-error -DCONVOPS_CUDA -DCONVOPS_PLANNED_SMS=3 "
    f"-I{ROOT / 'csrc'} -I{HERE / 'include'}"
)


@pytest.fixture(scope="session")
def emulation() -> Path:
    """The directory of the programs, built by ninja, which compiles only what changed."""
    kernels = sorted((ROOT / "cuda").rglob("*.cu"))
    objects = {source: BUILD / source.relative_to(ROOT).with_suffix(".o") for source in kernels}
    for name in ("emulation.cpp", "problems.cpp", "faults.cu"):
        objects[HERE / name] = BUILD / f"{name}.o"
    lines = [
        "rule compile",
        f"  command = {os.environ.get('CXX', 'g++')} {FLAGS} -MMD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {os.environ.get('CXX', 'g++')} -pie -o $out $in",
        *(f"build {target}: compile {source}" for source, target in objects.items()),
    ]
    common = [objects[HERE / "emulation.cpp"]]
    problems = [*common, objects[HERE / "problems.cpp"], *(objects[source] for source in kernels)]
    for name, parts in {"problems": problems, "faults": [*common, objects[HERE / "faults.cu"]]}.items():
        lines.append(f"build {BUILD / name}: link {' '.join(map(str, parts))}")
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "build.ninja").write_text("\n".join(lines) + "\n")
    ninja = shutil.which("ninja")
    assert ninja is not None, "ninja, which builds the library, is not on PATH"
    built = subprocess.run([ninja, "-C", str(BUILD)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return BUILD


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=600)


FAULTS = {
    "no_barrier": "a wrong result",
    "half_a_barrier": "barriers that the others never reach",
    "misaligned": "a misaligned access",
    "read_past_end": "an access outside of every buffer",
    "write_past_end": "outside of",
    "unset_shared": "a wrong result",
    "no_wait": "a wrong result",
    "shared_past_end": "past the dynamic shared memory",
    "too_much_shared": "CUDA error: invalid argument",
    "no_phase": "a wrong result",
    "no_product_wait": "a wrong result",
    "byte_too_many": "barriers that the others never reach",
    "misplaced_tile": "not on a multiple of the swizzle's 1024 bytes",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(emulation: Path, fault: str) -> None:
    for sound in ("none", "no_fault"):
        assert run(emulation / "faults", sound).returncode == 0
    result = run(emulation / "faults", fault)
    assert result.returncode == 1
    assert FAULTS[fault] in result.stderr


CONTRACTIONS = ("forward", "grad_input", "grad_weight")
MAX_POOL_PASSES = ("forward", "forward_with_offsets", "grad_input", "gather", "indices")

# What the lists in cuda/*/*_cuda.cu have, by pass: an algorithm that no problem meets is a failure.
ALGORITHMS = {
    "conv2d": {
        "few_channels": ("forward", "grad_weight"),
        "depthwise": CONTRACTIONS,
        "implicit_gemm_wgmma": CONTRACTIONS,
        "implicit_gemm_tensor_core": CONTRACTIONS,
        "implicit_gemm": CONTRACTIONS,
        "reduction": ("grad_bias",),
        "fold": ("fold",),
    },
    "max_pool2d": dict.fromkeys(("global", "separable", "direct"), MAX_POOL_PASSES),
    "avg_pool2d": dict.fromkeys(("global", "separable", "direct"), ("forward", "grad_input")),
    "max_unpool2d": {"direct": ("scatter", "scatter_add", "gather")},
}
# (operator, problems, the one algorithm that runs if any): seconds rather than minutes. With other seeds,
# `build/cuda_emulation/problems OPERATOR SEED COUNT [ALGORITHM]` goes on.
RUNS = [
    ("conv2d", 150, None),
    ("conv2d", 2500, "depthwise"),
    ("conv2d", 200, "implicit_gemm_wgmma"),
    ("conv2d", 300, "implicit_gemm_tensor_core"),
    ("conv2d", 400, "few_channels"),
    ("max_pool2d", 800, None),
    ("avg_pool2d", 600, None),
    ("max_unpool2d", 300, None),
]


@pytest.mark.parametrize("operator, count, algorithm", RUNS)
def test_kernels_match_plain_loops(emulation: Path, operator: str, count: int, algorithm: str | None) -> None:
    result = run(emulation / "problems", operator, 1, count, *([] if algorithm is None else [algorithm]))
    assert result.returncode == 0, result.stderr
    compared = {line.rsplit(" ", 1)[0] for line in result.stdout.splitlines()}
    algorithms = ALGORITHMS[operator].items() if algorithm is None else [(algorithm, ALGORITHMS[operator][algorithm])]
    assert compared == {f"{name} {kernel_pass}" for name, passes in algorithms for kernel_pass in passes}
