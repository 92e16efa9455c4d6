"""Random problems, their float64 answer, and the rule by which a backend's answer is judged."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grm_kernels import Category, category_attention
from grm_kernels.categories import PADDING, one_hot
from grm_kernels.constants import SATURATION
from grm_kernels.reference import interaction_mask

# Shares of T, S, A, and padding, among the tokens.
MIXED = (0.2, 0.4, 0.4)
ONLY_T, ONLY_S, ONLY_A = (1, 0, 0), (0, 1, 0), (0, 0, 1)
NO_T, NO_S, NO_A = (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)
PADDED, ONLY_PADDING = (0.2, 0.3, 0.2, 0.3), (0, 0, 0, 1)
SHARES = (MIXED, ONLY_T, ONLY_S, ONLY_A, NO_T, NO_S, NO_A)


@dataclass(frozen=True)
class Problem:
    """One call and the gradients that come back: everything in the dtype of the test, the policy in float32."""

    q: Tensor
    k: Tensor
    v: Tensor
    categories: Tensor | None
    policy: Tensor | None
    grad_out: Tensor
    grad_lse: Tensor
    soft: bool = False
    scale: float | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of q, k and v."""
        return self.q.dtype

    def to(self, dtype: torch.dtype) -> "Problem":
        """The same numbers in another dtype; float64 takes the policy along."""
        policy = self.policy
        if policy is not None and dtype == torch.float64:
            policy = policy.double()
        return replace(
            self,
            **{name: getattr(self, name).to(dtype) for name in ("q", "k", "v", "grad_out")},
            grad_lse=self.grad_lse.to(torch.promote_types(dtype, torch.float32)),
            policy=policy,
        )


def make_categories(b: int, n: int, shares: tuple[float, ...], device: str = "cpu") -> Tensor:
    """(B, N) uint8 drawn by the shares of T, S, A, and padding."""
    return (
        torch.multinomial(torch.tensor(shares, dtype=torch.float32), b * n, replacement=True)
        .view(b, n)
        .to(device, torch.uint8)
    )


def make_problem(
    b: int,
    h: int,
    n: int,
    d: int,
    dtype: torch.dtype = torch.float32,
    *,
    shares: tuple[float, ...] = MIXED,
    policy: bool = True,
    soft: bool = False,
    packed: bool = False,
    scale: float | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Problem:
    """A problem with standard normal entries, rounded to `dtype`; `packed` takes q, k, v from one (B, N, 3, H, D)."""
    torch.manual_seed(seed)
    if packed:
        q, k, v = torch.randn(b, n, 3, h, d).to(device, dtype).permute(2, 0, 3, 1, 4).unbind(0)
    else:
        q, k, v = (torch.randn(b, h, n, d).to(device, dtype) for _ in range(3))
    categories = make_categories(b, n, shares, device)
    values = None
    if soft:
        values = torch.randn(b, n, len(Category)).softmax(-1).to(device)
    elif policy:
        values = one_hot(categories)
    return Problem(
        q,
        k,
        v,
        None if soft else categories,
        values,
        torch.randn(b, h, n, d).to(device, dtype),
        torch.randn(b, h, n).to(device),
        soft,
        scale,
    )


def solve(problem: Problem, backend: str | None) -> dict[str, Tensor]:
    """out, lse and the gradients of q, k, v (and policy, if there is one), as `backend` computes them."""
    leaves = {name: getattr(problem, name) for name in ("q", "k", "v", "policy")}
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items() if leaf is not None}
    out, lse = category_attention(
        leaves["q"],
        leaves["k"],
        leaves["v"],
        problem.categories,
        leaves.get("policy"),
        soft=problem.soft,
        scale=problem.scale,
        backend=backend,
        return_lse=True,
    )
    gradients = torch.autograd.grad([out, lse], leaves.values(), [problem.grad_out, problem.grad_lse.to(lse.dtype)])
    return {"out": out, "lse": lse, **{f"grad_{name}": grad for name, grad in zip(leaves, gradients, strict=True)}}


def assert_agrees(problem: Problem, backend: str) -> None:
    """The backend errs at most twice as much as eager PyTorch in the same dtype, plus what the kernels' numbers cost.

    Both errors are the largest over all entries, against the reference in float64. Added are one rounding of the result
    and, carried through the equations to the result, one rounding of each number that the kernels' algorithm rounds
    where eager PyTorch does not: see `_cost_of_recomputation`.
    """
    exact = solve(problem.to(torch.float64), "reference")
    eager = solve(problem, "reference")
    actual = solve(problem, backend)
    cost = _cost_of_recomputation(problem.to(torch.float64), exact, problem.dtype)
    for name, expected in exact.items():
        result = actual[name]
        assert result.shape == expected.shape, name
        assert result.dtype == eager[name].dtype, name
        error = _largest(_difference(result, expected))
        rounding = torch.finfo(result.dtype).eps * _largest(expected.masked_fill(expected == -torch.inf, 0))
        bound = 2 * _largest(_difference(eager[name], expected)) + rounding + _largest(cost[name])
        assert error <= bound, f"{name}: error {error:.2e} against a bound of {bound:.2e}"


def _cost_of_recomputation(problem: Problem, exact: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Bounds on what recomputing the probabilities from lse costs, by the equations with absolute values in them.

    - exp(S - lse) is taken of a float32 S and lse: a relative error of eps (1 + max |S|).
    - dP - delta is the difference of two dot products: each is rounded to float32 before they cancel, and delta is
      taken from an `out` that is rounded to the tested dtype.
    """
    eps = torch.finfo(torch.float32).eps
    scale = problem.q.shape[-1] ** -0.5 if problem.scale is None else problem.scale
    policy = one_hot(problem.categories, torch.float64) if problem.policy is None else problem.policy
    mask = interaction_mask(policy).unsqueeze(1)
    if problem.categories is not None:
        counts = (problem.categories != PADDING).unsqueeze(1)
        mask = mask * (counts.unsqueeze(-1) & counts.unsqueeze(-2))
    grad_out, v = problem.grad_out, problem.v

    scores = scale * problem.q @ problem.k.transpose(-1, -2)
    relative = eps * (1 + _largest(scores))
    lse = exact["lse"].masked_fill(exact["lse"] == -torch.inf, torch.inf)  # so that padding has E = 0
    weights = (scores - lse.unsqueeze(-1)).exp()  # E
    p = mask * weights
    weights = torch.where(mask > 0, weights, weights.clamp(max=SATURATION))
    delta = (grad_out * exact["out"]).sum(-1) - problem.grad_lse
    difference = (grad_out @ v.transpose(-1, -2) - delta.unsqueeze(-1)).abs()
    dot = grad_out.abs() @ v.abs().transpose(-1, -2)
    dot_out = (grad_out * exact["out"]).abs().sum(-1, keepdim=True)
    error = relative * difference + eps * (dot + dot_out) + torch.finfo(dtype).eps / 2 * dot_out  # of dM, in units of E

    error_m = (weights * error).sum(1)
    error_m = error_m + error_m.transpose(-1, -2)
    p_t, p_s = policy[..., :1], policy[..., 1:2]
    return {
        "out": relative * p @ v.abs(),
        "lse": torch.tensor(relative),
        "grad_q": abs(scale) * (p * error) @ problem.k.abs(),
        "grad_k": abs(scale) * (p * error).transpose(-1, -2) @ problem.q.abs(),
        "grad_v": relative * p.transpose(-1, -2) @ grad_out.abs(),
        "grad_policy": torch.cat([error_m @ p_s, error_m @ p_t], dim=-1),
    }


def _difference(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).masked_fill(x == y, 0)  # infinities are equal


def _largest(x: Tensor) -> float:
    # NaN must not get lost: amax keeps it, and no comparison with it holds.
    return x.abs().amax().item() if x.numel() else 0.0
