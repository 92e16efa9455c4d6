"""Shapes, categories and dtypes as hypothesis draws them. (A file of its own: GPU machines may lack hypothesis.)"""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.grm_kernels.problems import PADDED, SHARES, assert_agrees, make_problem


@given(
    b=st.integers(1, 3),
    h=st.integers(1, 3),
    n=st.integers(1, 150),
    d=st.integers(1, 48) | st.sampled_from([64, 80, 127, 128, 200, 256]),
    shares=st.sampled_from((*SHARES, PADDED)),
    policy=st.booleans(),
    soft=st.booleans(),
    packed=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
def test_any_shape(backend, b, h, n, d, shares, policy, soft, packed, dtype, seed):
    if backend.name != "cpu":
        pytest.skip("the interpreter is too slow for many shapes")
    problem = make_problem(b, h, n, d, dtype, shares=shares, policy=policy, soft=soft, packed=packed, seed=seed)
    assert_agrees(problem, backend.name)
