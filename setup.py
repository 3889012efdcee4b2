"""Builds the one shared library of torch_convops and packs it into a ``py3-none-<platform>`` wheel.

The library is written against the LibTorch Stable ABI and holds no Python symbols, so it is built once for every
Python and every torch >= 2.10. ``ninja`` drives the build, in ``build/``.

Environment:
  TORCH_CONVOPS_CUDA    0 builds without CUDA, 1 fails if nvcc is missing; by default CUDA is built where nvcc is found
  TORCH_CUDA_ARCH_LIST  CUDA architectures, as for every torch extension; by default "8.0+PTX;9.0a"
  CXX                   the C++ compiler, by default g++
  MAX_JOBS              compile jobs at once
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import torch
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from torch.utils import cpp_extension

ROOT = Path(__file__).parent
LIBRARY = "libtorch_convops.so"
# Symbols newer than this are never used: the library runs on this torch and all later ones.
TORCH_TARGET_VERSION = "0x020a000000000000ULL"
# Not 9.0 beside 9.0a: of two kernels that a GPU can run the driver might take the one without wgmma.
DEFAULT_CUDA_ARCHS = "8.0+PTX;9.0a"

# Kernel files are compiled once per instruction set. baseline comes first: the linker keeps the first copy of an
# inline function of the standard library, which must be the one that every processor can run.
ISAS = {"baseline": ""}
if platform.machine() in ("x86_64", "AMD64"):
    ISAS["avx2"] = "-mavx2 -mfma -mf16c"
    ISAS["avx512"] = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512"
    # Only for files of its own, whose tiles are for products of bfloat16, and for AMX_TOO.
    ISAS["amx"] = ISAS["avx512"] + " -mavx512bf16 -mamx-tile -mamx-bf16"

# Kernels that spend much of their time in rounding to bfloat16, for which processors with AMX have an instruction.
AMX_TOO = ("depthwise_kernels",)


def compiled_for(stem: str, isa: str) -> bool:
    """Whether the kernel file of that name is compiled for an instruction set."""
    if isa == "amx":
        return stem.endswith("_amx_kernels") or stem in AMX_TOO
    return stem.endswith("_kernels") and not stem.endswith("_amx_kernels")


def find_nvcc() -> str | None:
    """The CUDA compiler, or None where the build is to be CPU-only."""
    wanted = os.environ.get("TORCH_CONVOPS_CUDA", "auto")
    if wanted not in ("0", "1", "auto"):
        raise SystemExit(f"TORCH_CONVOPS_CUDA must be 0, 1 or unset, got {wanted!r}")
    if wanted == "0":
        return None
    home = cpp_extension.CUDA_HOME
    nvcc = str(Path(home) / "bin" / "nvcc") if home and (Path(home) / "bin" / "nvcc").exists() else shutil.which("nvcc")
    if nvcc is None and wanted == "1":
        raise SystemExit("TORCH_CONVOPS_CUDA=1, but nvcc was found neither in CUDA_HOME nor on PATH")
    return nvcc


def gencode_flags(archs: str) -> list[str]:
    """nvcc's flags for a list such as ``8.0+PTX;9.0a`` (PTX lets newer GPUs compile the kernels at load time)."""
    flags = []
    for arch in re.split(r"[;,\s]+", archs.strip()):
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", arch)
        if match is None:
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST: {arch!r} is not of the form 8.0, 9.0a or 8.0+PTX")
        number = match[1] + match[2]
        flags.append(f"-gencode arch=compute_{number},code=sm_{number}")
        if match[3]:
            flags.append(f"-gencode arch=compute_{number},code=compute_{number}")
    return flags


def compression_flag(nvcc: str) -> str:
    """The smallest form of kernels, a fifth of the usual; drivers that run CUDA 13 read it."""
    options = subprocess.run([nvcc, "--help"], capture_output=True, text=True, check=True).stdout
    return "--compress-mode=size" if "--compress-mode" in options else ""


def write_ninja(build: Path) -> None:
    """Writes build.ninja for LIBRARY."""
    nvcc = find_nvcc()
    archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_CUDA_ARCHS
    includes = " ".join(f"-isystem {path}" for path in cpp_extension.include_paths())
    defines = f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION} -DNDEBUG"
    if nvcc:
        defines += " -DCONVOPS_CUDA -DUSE_CUDA"
    about = {
        "CONVOPS_BUILD_TORCH": torch.__version__,
        "CONVOPS_BUILD_CUDA": archs if nvcc else "",
        "CONVOPS_BUILD_NO_CUDA_REASON": ""
        if nvcc
        else ("TORCH_CONVOPS_CUDA=0" if os.environ.get("TORCH_CONVOPS_CUDA") == "0" else "nvcc was not found"),
    }
    about_flags = " ".join(f"'-D{name}=\"{value}\"'" for name, value in about.items())

    lines = [
        f"cxx = {os.environ.get('CXX', 'g++')}",
        f"nvcc = {nvcc or ''}",
        "common = -std=c++20 -O3 -fPIC -fvisibility=hidden -fno-math-errno "
        f"-Wall -Wextra -Wno-psabi -Wno-maybe-uninitialized {defines} -I{ROOT / 'csrc'} {includes}",
        f"gencode = {' '.join(gencode_flags(archs))}",
        "rule cxx",
        "  command = $cxx -MMD -MF $out.d $common $flags -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = C++ $out",
        "rule nvcc",
        f"  command = $nvcc -MD -MF $out.d -std=c++20 -O3 --expt-relaxed-constexpr -DCONVOPS_CUDA -I{ROOT / 'csrc'} "
        f"-Xcompiler -fPIC,-fvisibility=hidden {compression_flag(nvcc) if nvcc else ''} $gencode -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = CUDA $out",
        "rule link",
        # nvcc adds the static CUDA runtime, with which the library also loads where no CUDA is installed.
        f"  command = {'$nvcc -cudart static -ccbin $cxx' if nvcc else '$cxx'} -shared -o $out $in $libs",
        "  description = LINK $out",
    ]
    objects: list[str] = []

    def compile_file(rule: str, source: Path, suffix: str = "", flags: str = "") -> None:
        target = str(build / source.relative_to(ROOT).with_suffix("")).replace("$", "$$") + f"{suffix}.o"
        lines.extend([f"build {target}: {rule} {source}", f"  flags = {flags}"])
        objects.append(target)

    sources = sorted((ROOT / "csrc").rglob("*.cpp"))
    for isa, flags in ISAS.items():
        for source in sources:
            if compiled_for(source.stem, isa):
                compile_file("cxx", source, f".{isa}", f"-DCONVOPS_ISA={isa} {flags}")
    for source in sources:
        if not source.stem.endswith("_kernels"):
            compile_file("cxx", source, flags=about_flags if source.stem == "info" else "")
    if nvcc:
        for source in sorted((ROOT / "cuda").rglob("*.cu")):
            compile_file("nvcc", source)
    # -lgcc is libgcc's static part, ahead of the shared one: there, conversions of half precision are of GCC 12 and
    # newer, which would keep the library off systems that have all else.
    libraries = "-lgcc " + " ".join(f"-L{path}" for path in cpp_extension.library_paths()) + " -ltorch_cpu -lc10"
    lines += [f"build {build / LIBRARY}: link {' '.join(objects)}", f"  libs = {libraries}"]
    (build / "build.ninja").write_text("\n".join(lines) + "\n")


class BuildLibrary(build_ext):
    """build_ext whose one "extension" is a plain shared library."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")[:-1], LIBRARY)

    def build_extension(self, ext: Extension) -> None:
        build = ROOT / "build" / "ninja"
        build.mkdir(parents=True, exist_ok=True)
        write_ninja(build)
        jobs = ["-j", os.environ["MAX_JOBS"]] if "MAX_JOBS" in os.environ else []
        subprocess.run(["ninja", "-C", str(build), *jobs], check=True)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Replaced, not overwritten: a running process may have the old library mapped.
        shutil.copy2(build / LIBRARY, target.with_suffix(".new"))
        os.replace(target.with_suffix(".new"), target)


class AnyPythonWheel(bdist_wheel):
    """The library depends on the platform, not on the Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("torch_convops.library", sources=[])],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPythonWheel},
)
