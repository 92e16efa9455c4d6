"""How many operations a call takes, for torch.utils.flop_counter: of the pairs that the categories allow.

Where their values are not known, in fake tensors, all pairs are counted.
"""

import importlib.abc
import importlib.util
import sys
from types import ModuleType

import torch
from torch import Tensor

from . import ops
from .categories import PADDING, Category

_MODULE = "torch.utils.flop_counter"


def _pairs(q: Tensor, categories: Tensor | None) -> tuple[int, int]:
    """Allowed and blocked pairs of tokens that count, of all heads."""
    b, h, n, _ = q.shape
    if type(categories) is not Tensor or categories.device.type == "meta":
        return b * h * n * n, 0
    in_t, in_s, counted = ((categories == c).sum(-1) for c in (Category.T, Category.S, PADDING))
    counted = n - counted
    blocked = 2 * h * int((in_t * in_s).sum())
    return h * int((counted * counted).sum()) - blocked, blocked


def _forward(q, k, v, categories, soft_policy, scale, out_val=None) -> int:
    """Two products. With a soft policy the categories say no more than what is padding."""
    return 2 * q.shape[-1] * 2 * _pairs(q, categories)[0]


def _backward(grad_out, grad_lse, q, k, v, out, lse, categories, soft_policy, scale, policy_grad, out_val=None) -> int:
    """Five products; for the policy's gradient, two of the pairs that are blocked."""
    allowed, blocked = _pairs(q, categories)
    return 2 * q.shape[-1] * (5 * allowed + (2 * blocked if policy_grad else 0))


def _forward_packed(qkv, *rest, **options) -> int:
    return _forward(*ops.unpack(qkv), *rest, **options)


def _backward_packed(grad_out, grad_lse, qkv, *rest, **options) -> int:
    return _backward(grad_out, grad_lse, *ops.unpack(qkv), *rest, **options)


def _register(flop_counter: ModuleType) -> None:
    formulas = (("forward", _forward, _forward_packed), ("backward", _backward, _backward_packed))
    for backend in ops.BACKENDS:
        for pass_, formula, packed in formulas:
            for name, count in ((f"{backend}_{pass_}", formula), (f"{backend}_{pass_}_packed", packed)):
                flop_counter.register_flop_formula(getattr(torch.ops.grm_kernels, name), get_raw=True)(count)


class _WhenImported(importlib.abc.MetaPathFinder):
    """Registers the formulas once the counter is imported: it imports Triton, which takes longer than all of this."""

    _searching = False

    def find_spec(self, name, path, target=None):
        """The counter's own specification, with the registration behind its execution."""
        if name != _MODULE or self._searching:
            return None
        self._searching = True
        try:
            specification = importlib.util.find_spec(name)
        finally:
            self._searching = False
        if specification is not None and specification.loader is not None:
            execute = specification.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register(module)
                sys.meta_path.remove(self)

            setattr(specification.loader, "exec_module", execute_and_register)  # noqa: B010 - mypy refuses a method
        return specification


if _MODULE in sys.modules:
    _register(sys.modules[_MODULE])
else:
    sys.meta_path.insert(0, _WhenImported())
