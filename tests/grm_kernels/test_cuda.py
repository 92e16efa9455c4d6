"""The CUDA kernels against the float64 reference: run by the emulation, and on a GPU where there is one."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from grm_kernels import category_attention, cuda, dispatch, extension, ops
from grm_kernels.categories import one_hot
from tests.grm_kernels import emulated
from tests.grm_kernels.problems import MIXED, ONLY_PADDING, PADDED, SHARES, assert_agrees, make_problem, solve

DTYPES = (torch.bfloat16, torch.float16)


@pytest.fixture
def emulator(monkeypatch):
    """An emulated H200, for which tensors on the CPU are taken by backend="cuda"."""
    device = emulated.Device()
    library = torch.library.Library("grm_kernels", "IMPL")
    for name in ("forward", "forward_packed", "backward", "backward_packed"):
        library.impl(f"cuda_{name}", getattr(device, name), "CPU")
    monkeypatch.setitem(
        dispatch.BACKENDS, "cuda", lambda q, needs_grad, soft: cuda.shape_reasons(q, (9, 0), needs_grad=needs_grad)
    )
    yield device
    library._destroy()


@pytest.fixture(
    params=[pytest.param("emulator", marks=emulated.needs_compiler), pytest.param("gpu", marks=pytest.mark.gpu)]
)
def device(request):
    """What runs the backend here: the emulation, and the GPU if there is one that the kernels were compiled for."""
    if request.param == "emulator":
        return request.getfixturevalue("emulator")
    if not torch.cuda.is_available() or not extension.CUDA_ARCHITECTURES:
        pytest.skip("needs a GPU, and the CUDA kernels compiled")
    return emulated.Hardware()


def run_both(device, problem):
    """Forward and backward with the policy's gradient, as operators; what was seen at every place."""
    tokens = (problem.q, problem.k, problem.v)
    out, lse = device.forward(*tokens, problem.categories, None, 0.125)
    seen = device.sites
    device.backward(problem.grad_out, problem.grad_lse, *tokens, out, lse, problem.categories, None, 0.125, True)
    return seen | device.sites


def with_categories(problem, categories):
    return replace(problem, categories=categories, policy=None if problem.policy is None else one_hot(categories))


def tracker_problem(template=64, search=256, dtype=torch.bfloat16, **options):
    """Template tokens first, then search tokens of S and A."""
    problem = make_problem(1, 1, template + search, 64, dtype, packed=True, **options)
    categories = problem.categories.clamp(min=1)
    categories[:, :template] = 0
    return with_categories(problem, categories)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tracker_size(device, dtype):
    assert_agrees(tracker_problem(dtype=dtype, device=device.where), "cuda")


@pytest.mark.parametrize("d", [32, 64])
@pytest.mark.parametrize("n", [1, 2, 7, 15, 16, 17, 33, 95, 97, 130])
def test_token_counts(device, n, d):
    """On, before and behind the edges of tiles of queries and keys."""
    assert_agrees(make_problem(1, 2, n, d, DTYPES[n % 2], seed=n, device=device.where), "cuda")


@pytest.mark.parametrize("n", [289, 319])
def test_ragged_ends_of_long_sequences(device, n):
    assert_agrees(make_problem(1, 1, n, 64, torch.bfloat16, seed=n, device=device.where), "cuda")


@pytest.mark.parametrize("shares", (*SHARES, PADDED), ids=str)
@pytest.mark.parametrize("policy", [True, False], ids=["policy", "no-policy"])
def test_category_shares(device, shares, policy):
    """Empty categories, one category only; tokens of all categories at random places."""
    problem = make_problem(2, 1, 77, 32, torch.float16, shares=shares, policy=policy, device=device.where)
    assert_agrees(problem, "cuda")


@pytest.mark.parametrize("policy", [True, False], ids=["policy", "no-policy"])
@pytest.mark.parametrize("shares", [PADDED, (0.1, 0.1, 0.1, 0.7), ONLY_PADDING], ids=str)
@pytest.mark.parametrize("n", [1, 70, 130])
def test_padding(device, n, shares, policy):
    """Whole tiles of padding, whole images of it, and parts of a head without a query."""
    problem = make_problem(2, 1, n, 32, torch.bfloat16, shares=shares, policy=policy, device=device.where, seed=n)
    assert_agrees(problem, "cuda")


def test_grouped_heads(device):
    """Values as with k and v repeated, to the bit; gradients added up."""
    problem = make_problem(1, 4, 50, 32, torch.bfloat16, device=device.where)
    repeated = replace(problem, **{x: getattr(problem, x)[:, :2].repeat_interleave(2, 1) for x in "kv"})
    expected = solve(repeated, "cuda")
    result = solve(replace(problem, k=problem.k[:, :2], v=problem.v[:, :2]), "cuda")
    for name in ("grad_k", "grad_v"):
        expected[name] = expected[name].unflatten(1, (2, 2)).sum(2)
    for name, value in expected.items():
        assert torch.equal(result[name], value), name


@pytest.mark.parametrize("policy", [True, False], ids=["policy", "no-policy"])
def test_search_tokens_in_t(device, policy):
    """Many tokens of T and S and few of A: edges within tiles of queries, and whole tiles that are blocked."""
    problem = make_problem(1, 2, 200, 64, torch.bfloat16, policy=policy, device=device.where)
    categories = torch.tensor([0] * 85 + [1] * 105 + [2] * 10, dtype=torch.uint8)[torch.randperm(200)].view(1, 200)
    assert_agrees(with_categories(problem, categories.to(device.where)), "cuda")


@pytest.mark.parametrize("scale", [0.0, 1.0, -0.3])
def test_scale(device, scale):
    assert_agrees(make_problem(1, 1, 40, 32, torch.bfloat16, scale=scale, device=device.where), "cuda")


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0), MIXED], ids=str)
def test_saturation_of_blocked_pairs(device, shares):
    problem = make_problem(1, 2, 40, 32, torch.float16, shares=shares, scale=12.0, device=device.where)
    assert solve(problem.to(torch.float64), "reference")["grad_policy"].abs().max() > 1e5
    assert_agrees(problem, "cuda")


@pytest.mark.parametrize("policy", [True, False], ids=["policy", "no-policy"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_scores(device, dtype, policy):
    """P of an allowed pair is 1 at most, whatever rounding took from lse; with a policy, too, where others are not."""
    problem = make_problem(1, 2, 40, 32, dtype, policy=policy, device=device.where)
    q, k = ((2e4 * x.float()).clamp(-6e4, 6e4).to(dtype) for x in (problem.q, problem.k))
    result = solve(replace(problem, q=q, k=k), "cuda")
    for name, value in result.items():
        assert value.isfinite().all(), name
    bound = problem.grad_out.float().abs().sum(2, keepdim=True)
    assert (result["grad_v"].float().abs() <= bound * (1 + 40 * torch.finfo(dtype).eps)).all()


@pytest.mark.parametrize(("n", "d"), [(464, 64), (864, 64), (1024, 32)])
def test_long_forward(device, n, d):
    """More tokens than the backward pass holds; 464 = 16 * 29."""
    problem = make_problem(1, 1, n, d, torch.bfloat16, policy=False, device=device.where)
    expected = solve(problem.to(torch.float64), "reference")
    eager = solve(problem, "reference")
    out, lse = category_attention(problem.q, problem.k, problem.v, problem.categories, backend="cuda", return_lse=True)
    for name, result in (("out", out), ("lse", lse)):
        # The rule of problems.assert_agrees; lse costs a rounding of a score.
        rounding = torch.finfo(result.dtype).eps * expected[name].abs().max()
        bound = 2 * (eager[name] - expected[name]).abs().max() + rounding + torch.finfo(torch.float32).eps * 8
        assert (result - expected[name]).abs().max() <= bound, name


@pytest.mark.parametrize("batch", [1, 12])
def test_queries_split_over_blocks(emulator, batch):
    """One head's queries are served by many blocks; the result is the same bit for bit."""
    problem = make_problem(batch, 1, 100, 32, torch.bfloat16, policy=False)
    arguments = (problem.q, problem.k, problem.v, problem.categories, None, 0.2)
    split = emulator.forward(*arguments)
    barriers = {line: site.calls for (name, _, line), site in emulator.sites.items() if name == "block_barrier"}
    whole = emulated.Device(multiprocessors=1)
    for result, expected in zip(split, whole.forward(*arguments), strict=True):
        assert torch.equal(result, expected)
    for (name, _, line), site in whole.sites.items():
        assert name != "block_barrier" or barriers[line] > site.calls


@emulated.needs_compiler
def test_parts_of_a_head():
    """Blocks of a head and threads of a block, by heads: small batches give every warp as few tiles as they can."""
    parts = emulated.emulation().parts
    h200 = emulated.emulation().Device(132, 227 * 1024, 228 * 1024)
    assert parts(1, 12, 320, 64, h200) == (5, 128)  # a tile for each warp; 11 parts would have idle ones
    assert parts(2, 12, 320, 64, h200) == (5, 128)
    assert parts(4, 12, 320, 64, h200) == (3, 128)
    assert parts(32, 12, 320, 64, h200) == (1, 128)
    assert parts(1, 1, 320, 64, h200) == (5, 128)
    assert parts(1, 12, 464, 64, h200) == (4, 256)
    assert parts(32, 12, 464, 64, h200) == (1, 256)  # one block fits: all eight warps


def test_two_runs_and_two_schedules_give_the_same_bits(emulator):
    problem = make_problem(1, 2, 90, 64, torch.bfloat16)
    results = []
    for name, seed in (("first_in", 0), ("last_in", 0), ("random", 1), ("random", 2)):
        emulator.options = emulated.emulation().Options(getattr(emulated.emulation().Schedule, name), seed)
        results.append(solve(problem, "cuda"))
    for result in results[1:]:
        for name, expected in results[0].items():
            assert torch.equal(result[name], expected), name


def test_strided_input_is_read_in_place(device):
    dense = make_problem(2, 2, 50, 32, torch.bfloat16, device=device.where)
    wide = torch.full((2, 2, 100, 48), float("nan"), dtype=torch.bfloat16, device=device.where)

    def spread(x):
        view = wide.clone()[:, :, ::2, 8:40]
        return view.copy_(x)

    expected = solve(dense, "cuda")
    packed = torch.stack([dense.q, dense.k, dense.v], dim=2).permute(0, 3, 2, 1, 4).contiguous()  # (B, N, 3, H, D)
    for q, k, v in (packed.permute(2, 0, 3, 1, 4).unbind(0), [spread(x) for x in (dense.q, dense.k, dense.v)]):
        for name, result in solve(replace(dense, q=q, k=k, v=v), "cuda").items():
            assert torch.equal(result, expected[name]), name


def test_operators(device):
    """Schemas and shape functions, by torch's own check."""
    problem = make_problem(2, 2, 9, 32, torch.bfloat16, device=device.where)
    tokens = (problem.q, problem.k, problem.v)
    torch.library.opcheck(ops.forward("cuda"), (*tokens, problem.categories, None, 0.2))
    rest = (*device.forward(*tokens, problem.categories, None, 0.2), problem.categories, None, 0.2)
    for policy_grad in (False, True):
        arguments = (problem.grad_out, problem.grad_lse, *tokens, *rest, policy_grad)
        torch.library.opcheck(ops.backward("cuda"), arguments)


@pytest.mark.parametrize("shape", [(0, 2, 5, 32), (2, 0, 5, 32)], ids=str)
def test_empty_batch_or_heads(device, shape):
    tokens = [torch.zeros(shape, device=device.where, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    categories = torch.zeros(shape[0], 5, dtype=torch.uint8, device=device.where)
    policy = torch.tensor([1.0, 0, 0], device=device.where).repeat(shape[0], 5, 1).requires_grad_()
    category_attention(*tokens, categories, policy, backend="cuda").sum().backward()
    assert torch.equal(policy.grad, torch.zeros_like(policy))


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or not extension.CUDA_ARCHITECTURES, reason="needs a GPU, and the CUDA kernels"
)
class TestOnHardware:
    """What an emulation has no part in: graphs, streams, rows that do not begin at multiples of 16 bytes."""

    def test_cuda_graph(self):
        """Forward and backward are captured, and serve other categories than those that were captured."""
        problem = make_problem(2, 3, 100, 64, torch.bfloat16, device="cuda")
        solve(problem, "cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = solve(problem, "cuda")
        problem.categories.copy_(problem.categories.roll(7, 1))
        graph.replay()
        for name, expected in solve(problem, "cuda").items():
            assert torch.equal(captured[name], expected), name

    def test_compiles_into_one_graph(self):
        problem = make_problem(2, 3, 100, 64, torch.bfloat16, device="cuda")
        compiled = torch.compile(
            lambda q: category_attention(q, problem.k, problem.v, problem.categories, backend="cuda"), fullgraph=True
        )
        eager = category_attention(problem.q, problem.k, problem.v, problem.categories, backend="cuda")
        assert torch.equal(compiled(problem.q), eager)

    def test_rows_that_are_not_aligned(self):
        problem = make_problem(2, 2, 50, 32, torch.bfloat16, device="cuda")
        wide = torch.empty(2, 2, 50, 37, dtype=torch.bfloat16, device="cuda")
        shifted = wide[..., 3:35].copy_(problem.k)
        expected, result = solve(problem, "cuda"), solve(replace(problem, k=shifted), "cuda")
        for name, value in expected.items():
            assert torch.equal(result[name], value), name


def test_bad_category_counts_as_a(device):
    problem = make_problem(1, 1, 40, 32, torch.bfloat16, policy=False, device=device.where)
    bad = problem.categories.masked_fill(problem.categories == 2, 200)
    results = [device.forward(problem.q, problem.k, problem.v, c, None, 0.2) for c in (bad, problem.categories)]
    assert torch.equal(results[0][0], results[1][0])


def test_nan_in_scores_is_not_hidden(device):
    problem = make_problem(1, 1, 40, 32, torch.bfloat16, shares=(0, 0, 1), policy=False, device=device.where)
    problem.q[0, 0, 3, 5] = float("nan")
    out, _ = device.forward(problem.q, problem.k, problem.v, problem.categories, None, 0.2)
    assert out[0, 0, 3].isnan().all()
    assert out[0, 0, 4:].isfinite().all()


def test_no_bank_conflicts(emulator):
    """Of matrix loads, and of what is stored and copied in the loops; the order's scatter depends on the categories."""
    sites = run_both(emulator, tracker_problem())
    assert sum(site.wavefronts for site in sites.values()) > 10000
    for (name, file, line), site in sites.items():
        assert site.conflicts == 0 or file == "order.cuh", f"{name} at {file}:{line}: {site.conflicts} conflicts"


# ---- faults planted in the kernels: every barrier and every wait is needed, and its absence is seen ----


@pytest.fixture(scope="module")
def whole():
    """A problem of the whole size, and the places where its kernels call each primitive."""
    problem = tracker_problem()
    return problem, sorted(run_both(emulated.Device(), problem))


def with_plant(*plant):
    """A device with a fault: what is done otherwise, in which file and line, by which warp."""
    device = emulated.Device()
    device.options = emulated.emulation().Options(plant=emulated.emulation().Plant(*plant))
    return device


@emulated.needs_compiler
@pytest.mark.parametrize("warp", [-1, 1], ids=["all", "one-warp"])
def test_every_barrier_is_needed(whole, warp):
    problem, sites = whole
    barriers = [site for site in sites if site[0] in ("block_barrier", "warp_barrier")]
    assert len(barriers) >= 6
    for _, file, line in barriers:
        device = with_plant("skip", file, line, warp)
        with pytest.raises(emulated.emulation().Fault, match=r"race|never written|cannot meet|asynchronous copy"):
            run_both(device, problem)
            pytest.fail(f"nothing was seen without the barrier at {file}:{line}")


@emulated.needs_compiler
@pytest.mark.parametrize("action", ["skip", "weaken"])
def test_every_wait_is_needed(whole, action):
    problem, sites = whole
    waits = [site for site in sites if site[0] == "copy_wait"]
    assert len(waits) == 5
    for _, file, line in waits:
        device = with_plant(action, file, line)
        with pytest.raises(emulated.emulation().Fault, match="asynchronous cop"):
            run_both(device, problem)
            pytest.fail(f"nothing was seen with a weaker wait at {file}:{line}")


@emulated.needs_compiler
def test_every_fragment_counts(whole):
    """Two words of a fragment exchanged in any product: nothing that a checker sees, but a wrong result."""
    problem, sites = whole
    tokens = (problem.q, problem.k, problem.v)
    forward = emulated.Device().forward(*tokens, problem.categories, None, 0.125)

    def results(device):
        out = device.forward(*tokens, problem.categories, None, 0.125)
        rest = (*forward, problem.categories, None, 0.125, True)
        return *out, *device.backward(problem.grad_out, problem.grad_lse, *tokens, *rest)

    expected = results(emulated.Device())
    products = [site for site in sites if site[0] == "multiply"]
    assert len(products) >= 14
    for _, file, line in products:
        actual = results(with_plant("swap", file, line))
        errors = [(a - b).abs().max() / b.abs().max() for a, b in zip(actual, expected, strict=True)]
        assert max(errors) > 0.1, f"{file}:{line}"


@emulated.needs_compiler
def test_less_shared_memory_is_seen(whole):
    problem, _ = whole
    for pass_ in ("forward", "backward"):
        device = emulated.Device()
        device.less_shared = {pass_: 128}  # the counts of the sort are last; 320 tokens have 10 of 32
        with pytest.raises(emulated.emulation().Fault, match=f"{pass_}_kernel.* beyond the .* declared"):
            run_both(device, problem)


# ---- under the sanitizers ----

SANITIZED_RUN = """
import sys, numpy as np
from importlib.util import module_from_spec, spec_from_file_location
specification = spec_from_file_location("emulation", sys.argv[1])
emulation = module_from_spec(specification)
specification.loader.exec_module(emulation)
data = dict(np.load(sys.argv[2]))
b, h, n, d = data["q"].shape
for name, shape in (("grad_q", data["q"].shape), ("grad_k", data["q"].shape), ("grad_v", data["q"].shape),
                    ("out", data["q"].shape)):
    data[name] = np.full(shape, 0x7FFF, dtype=np.int16)
data["lse"] = np.full((b, h, n), np.nan, dtype=np.float32)
data["partials"] = np.full((b, h, n, 2), np.nan, dtype=np.float32)
data["grad_policy"] = np.full((b, n, 3), np.nan, dtype=np.float32)
memories = {
    name: emulation.Memory(x.ctypes.data, x.nbytes, [s // x.itemsize for s in x.strides]) for name, x in data.items()
}
problem = emulation.Problem(b, h, n, d, h // data["k"].shape[1], True, d**-0.5)
device = emulation.Device(132, 227 * 1024, 228 * 1024)
options = emulation.Options(emulation.Schedule.random, 3)
emulation.forward(problem, memories, device, options)
emulation.backward(problem, memories, device, options)
try:
    emulation.run_faulty("no barrier after a write", options)
    raise SystemExit("no fault was found")
except emulation.Fault:
    pass
np.savez(sys.argv[3], **data)
"""


@emulated.needs_compiler
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloads the sanitizer as Linux does")
@pytest.mark.parametrize(
    ("n", "heads", "key_heads", "shares"),
    [
        pytest.param(100, 1, 1, MIXED, id="no-padding"),
        pytest.param(100, 1, 1, PADDED, id="padding", marks=pytest.mark.slow),
        pytest.param(70, 1, 1, ONLY_PADDING, id="only-padding", marks=pytest.mark.slow),
        pytest.param(40, 4, 2, PADDED, id="grouped-heads", marks=pytest.mark.slow),
    ],
)
def test_under_the_sanitizers(tmp_path, n, heads, key_heads, shares):
    """Kernels and emulation, compiled with the address and undefined-behaviour sanitizers."""
    module = emulated.build(emulated.SANITIZED)
    problem = make_problem(1, heads, n, 64, torch.bfloat16, shares=shares)
    problem = replace(problem, **{name: getattr(problem, name)[:, :key_heads].contiguous() for name in "kv"})
    tensors = {name: getattr(problem, name).view(torch.int16) for name in ("q", "k", "v", "grad_out")}
    tensors |= {"grad_lse": problem.grad_lse, "categories": problem.categories}
    np.savez(tmp_path / "in.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
    libraries = [
        subprocess.run(
            [emulated.COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    result = subprocess.run(
        [sys.executable, "-c", SANITIZED_RUN, module, tmp_path / "in.npz", tmp_path / "out.npz"],
        env={**os.environ, "LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-4000:]
    outputs = np.load(tmp_path / "out.npz")

    # The same bits as without the sanitizers, which the other tests hold against the reference.
    device = emulated.Device()
    tokens = (problem.q, problem.k, problem.v)
    rest = (problem.categories, None, 64**-0.5)
    forward = device.forward(*tokens, *rest)
    backward = device.backward(problem.grad_out, problem.grad_lse, *tokens, *forward, *rest, True)
    names = ("out", "lse", "grad_q", "grad_k", "grad_v", "grad_policy")
    for name, expected in zip(names, (*forward, *backward), strict=True):
        words = torch.from_numpy(outputs[name]).view(expected.dtype)
        assert torch.equal(words, expected), name
