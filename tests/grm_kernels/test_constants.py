"""The numbers of csrc/problem.h are those of grm_kernels/constants.py, and stand nowhere else."""

import re
from pathlib import Path

import pytest

from grm_kernels import constants

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    "kLog2E": "LOG2_E",
    "kLn2": "LN_2",
    "kNoScore": "NO_SCORE",
    "kSaturation": "SATURATION",
    "kLog2Saturation": "LOG2_SATURATION",
}
DEFINITION = re.compile(r"\b(\w+) = (-?[\d.]+(?:e\d+)?)f[,;]")


def test_both_files_have_the_same():
    """float32 of the same number: one of seven digits or more has half an ulp of error at the most."""
    defined = dict(DEFINITION.findall((ROOT / "csrc/problem.h").read_text()))
    assert set(defined) == set(NAMES)
    for name, value in defined.items():
        assert float(value) == pytest.approx(getattr(constants, NAMES[name]), rel=2**-24), name


def test_they_stand_nowhere_else():
    sources = [path for path in (ROOT / "csrc").rglob("*.*") if path.name != "problem.h"]
    sources += [path for path in (ROOT / "grm_kernels").rglob("*.py") if path.name != "constants.py"]
    # (0.693147182 in csrc/cpu/vec.h is a coefficient of its polynomial.)
    number = re.compile(r"1\.4426950|0\.69314718[01]|19\.93156|[-=( ]1e\+?38")
    for path in sources:
        assert not number.search(path.read_text()), path
