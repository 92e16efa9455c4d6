"""Building and installing: a wheel that runs from an empty folder, and an installation without a compiler."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Whether what the tracker needs is here: other versions of torch are tried with the operator alone.
TRACKER = importlib.util.find_spec("typer") is not None
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "csrc", "grm_kernels", "grm")


# Runs a module like `python -m`, but without the import hook of an editable installation: that would lend its compiled
# module to the copy of the package that is tested.
RUN_MODULE = """
import runpy, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
sys.argv[:1] = []
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    """Standard output and error of `python -m command` in a folder, with PYTHONPATH unset unless given."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", RUN_MODULE, *command],
        cwd=cwd,
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the package is built from, without anything built."""
    target = tmp_path / "checkout"
    target.mkdir()
    for name in filter(lambda name: (ROOT / name).exists(), FILES):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    return target


def install(checkout: Path, **environment: str) -> Path:
    """Builds a wheel and unpacks it into a folder of its own."""
    wheels, site = checkout.parent / "wheels", checkout.parent / "site"
    offline = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run("pip", "wheel", *offline, "--wheel-dir", str(wheels), ".", cwd=checkout, **environment)
    (wheel,) = wheels.glob("*.whl")
    run("pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel), cwd=wheels)
    return site


# Uses the operator as a stranger would, forward and backward.
EXAMPLE = """
import torch
from grm_kernels import category_attention
q, k, v = (torch.randn(2, 3, 20, 16, requires_grad=True) for _ in range(3))
categories = torch.randint(0, 3, (2, 20), dtype=torch.uint8)
category_attention(q, k, v, categories).sum().backward()
"""


def test_wheel_runs_from_an_empty_folder(checkout, tmp_path):
    site = install(checkout)
    empty = tmp_path / "empty"
    empty.mkdir()
    report = run("grm_kernels", cwd=empty, PYTHONPATH=str(site))
    assert "cpu       yes" in report
    script = empty / "example.py"
    script.write_text(EXAMPLE)
    run("example", cwd=empty, PYTHONPATH=f"{site}{os.pathsep}{empty}", PYTHONWARNINGS="error")
    if TRACKER:  # presets and weights are in it, too
        assert "the default" in run("grm", "presets", cwd=empty, PYTHONPATH=str(site))
        script.write_text("import grm; print(grm.load_model().config.encoder.width, grm.__file__)")
        assert run("example", cwd=empty, PYTHONPATH=f"{site}{os.pathsep}{empty}").startswith(f"128 {site}")
    # The source folder has the package too, without compiled kernels, and comes first there.
    report = run("grm_kernels", cwd=checkout, PYTHONPATH=str(site))
    assert f"are installed in {site / 'grm_kernels'}, but the source folder {checkout} hides that package" in report
    report = run("grm_kernels", cwd=checkout)
    assert f"the compiled kernels are not built in the source folder {checkout}" in report


@pytest.mark.parametrize("compiler", ["none", "without _Float16"])
def test_without_a_compiler_the_reference_serves_and_says_so(checkout, tmp_path, compiler):
    path = ""
    if compiler != "none":
        path = tmp_path / "g++-11"
        path.write_text("#!/bin/sh\necho \"error: '_Float16' does not name a type\" >&2\nexit 1\n")
        path.chmod(0o755)
    site = install(checkout, PATH=str(tmp_path / "nothing"), CXX=str(path))
    report = run("grm_kernels", cwd=tmp_path, PYTHONPATH=str(site))
    assert "compiled kernels are not installed" in report
    assert "reference yes" in report
    script = tmp_path / "example.py"
    script.write_text(EXAMPLE)
    warning = run("example", cwd=tmp_path, PYTHONPATH=f"{site}{os.pathsep}{tmp_path}")
    assert "tensors on the CPU are served by the slow reference" in warning


def failing_build(checkout: Path, before: str) -> str:
    """What setup.py says, of which it is known that it stops, after something was done before it."""
    script = checkout / "changed_setup.py"
    script.write_text(f"{before}\nexec(open('setup.py').read())\n")
    result = subprocess.run([sys.executable, script, "--version"], cwd=checkout, capture_output=True, text=True)
    assert result.returncode == 1
    return result.stderr.strip()


def test_an_old_setuptools_is_named(checkout):
    """What it would say itself is that the licence is invalid."""
    assert failing_build(checkout, "import setuptools\nsetuptools.__version__ = '68.2.2'") == (
        "grm-kernels: building needs setuptools 77 or later, got 68.2.2; pip can upgrade it"
    )


def test_a_build_in_isolation_fetches_no_torch(checkout):
    """It has what the build asks for, and nothing of what is installed."""
    assert 'requires = ["setuptools>=77"]\n' in (checkout / "pyproject.toml").read_text()
    said = failing_build(checkout, "import sys\nsys.modules['torch'] = None")
    assert said.startswith("grm-kernels: the kernels are compiled against the torch") and "--no-build-isolation" in said
    assert "\n" not in said
