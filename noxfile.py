"""The wheel in environments of its own: ``make compat``, or ``nox`` once ``make wheel`` has been run.

One wheel serves every Python and every torch from 2.10 on. Each session installs that wheel, not the source tree, with
one torch and one Python, and runs there the tests that a difference between torches, Pythons or installations can
change; what the kernels compute is for ``make test``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
# torch and the torchvision of its day; the second is what the Makefile sets up.
TORCHS = {"2.10.0": "0.25.0", "2.14.1": "0.29.1"}
TOOLS = ("hypothesis>=6.100", "pytest>=8", "pytest-xdist>=3.5", "scipy>=1.11", "pyelftools>=0.31")
AUDIT = "torch-abi-audit>=0.3; python_version >= '3.11'"
TESTS = (
    "autograd", "convert", "convolve2d", "distributed", "layers", "library", "override", "packaging", "profiling",
    "registration", "threads", "torch_function", "winograd",
)  # fmt: skip
# Slow, and about kernels, models and compilers more than about what is installed.
LEFT_OUT = (
    "every_instruction_set or every_small_shape or models_of_torchvision or a_model_as_it_is or test_compile "
    "or aot_inductor or opcheck"
)


def _runs(python: str) -> bool:
    executable = shutil.which(f"python{python}")  # pyenv has one for every version, which runs or does not
    return (
        executable is not None and subprocess.run([executable, "-V"], capture_output=True, check=False).returncode == 0
    )


# Where none of them is found, the one that runs this.
FOUND = [python for python in PYTHONS if _runs(python)] or [f"{sys.version_info.major}.{sys.version_info.minor}"]


@nox.session(python=FOUND)
@nox.parametrize("torch", list(TORCHS))
def wheel(session: nox.Session, torch: str) -> None:
    """The wheel in dist/ with a torch and a Python: "wheel-3.12(torch='2.10.0')"."""
    wheels = list((ROOT / "dist").glob("torch_convops-*.whl"))
    if len(wheels) != 1:
        session.error(f"dist/ has {len(wheels)} wheels, not one: run `make wheel`")
    pins = (f"torch=={torch}", f"torchvision=={TORCHS[torch]}")
    session.install("--no-cache-dir", *pins, f"torch_convops[cli] @ {wheels[0].as_uri()}", *TOOLS, AUDIT)

    # Beside a copy of the tests the package can only be the installed one.
    shutil.copytree(ROOT / "tests", Path(session.create_tmp()) / "tests", dirs_exist_ok=True)
    session.chdir(session.create_tmp())
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    session.run("convops", "info", env=env)
    files = [f"tests/test_{name}.py" for name in TESTS]
    session.run("pytest", "-q", "-n", "2", "--dist", "worksteal", *files, "-k", f"not ({LEFT_OUT})", env=env)
    # Most of it is CUDA's libraries: gigabytes that nothing here runs.
    shutil.rmtree(session.virtualenv.location)


# The oldest torch on the oldest Python, the newest on the newest.
nox.options.sessions = [
    f"wheel-{python}(torch={torch!r})" for python, torch in ((FOUND[0], "2.10.0"), (FOUND[-1], "2.14.1"))
]
