"""What the library asks of torch, Python and the system: what lets one wheel serve them all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

import torch_convops

PACKAGE = Path(torch_convops.__file__).parent


@pytest.fixture
def elf() -> Iterator[ELFFile]:
    with (PACKAGE / "libtorch_convops.so").open("rb") as file:
        yield ELFFile(file)


def test_torch_is_reached_through_its_stable_abi_of_2_10() -> None:
    audit = pytest.importorskip("torch_abi_audit", reason="torch-abi-audit is for Python 3.11 and newer")
    report = audit.inspect_package(str(PACKAGE))
    assert report.torch_verdict == "torch-stable"
    (library,) = (*report.extensions, *report.bundled_libs)
    assert library.error is None
    assert library.torch.min_torch_version == "2.10.0"
    assert not library.torch.unstable_symbols
    assert not library.torch.unknown_shim_symbols


def test_python_is_not_reached_at_all(elf: ELFFile) -> None:
    """Else the library would be of one Python, and of a build with or without the global interpreter lock."""
    symbols = [symbol.name for symbol in elf.get_section_by_name(".dynsym").iter_symbols()]
    assert any(name.startswith("torch_") for name in symbols)
    assert not [name for name in symbols if name.startswith(("Py", "_Py"))]


def test_only_torch_and_the_compilers_libraries_are_needed(elf: ELFFile) -> None:
    """No CUDA: a build with CUDA loads where there is none."""
    needed = {tag.needed for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")}
    assert {"libtorch_cpu.so", "libc10.so"} <= needed
    systems = ("libc.", "libm.", "libstdc++.", "libgcc_s.", "libpthread.", "libdl.", "librt.", "ld-linux")
    assert not [name for name in needed - {"libtorch_cpu.so", "libc10.so"} if not name.startswith(systems)]
