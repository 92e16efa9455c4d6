"""The arguments of `category_attention`: refused with what was expected, or brought into the operators' form."""

import numbers
import os

import torch
from torch import _C, Tensor
from torch.compiler import is_compiling
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from . import extension
from .categories import PADDING, Category

#: Environment variable; set to 1, the values of categories and policy are checked on a GPU too, at the price of a
#: synchronisation. On the CPU they always are.
CHECK_VARIABLE = "GRM_KERNELS_CHECK"

DTYPES = frozenset((torch.float32, torch.float16, torch.bfloat16, torch.float64))
_PLAIN = (Tensor, torch.nn.Parameter)
_LARGEST_SCALE = torch.finfo(torch.float32).max
# Integers that torch has few operations for, and what they are looked at as.
_OPERABLE = {
    torch.bool: torch.uint8, torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64,
}  # fmt: skip
_INTEGERS = frozenset((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *_OPERABLE))


# ---- tokens ----


def check_tokens(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raises what is wrong with q, k, v, if anything is."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if tensor.dim() != 4:
            raise ValueError(f"{name}: expected 4 dimensions (B, H, N, D), got shape {tuple(tensor.shape)}")
        check_layout(name, tensor, n=tensor.shape[2])
        if tensor.dtype != q.dtype:
            raise TypeError(f"{name}: expected the dtype of q {q.dtype}, got {tensor.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"{name}: expected the device of q {q.device}, got {tensor.device}")
    b, h, n, d = q.shape
    heads = k.shape[1]
    if k.shape != (b, heads, n, d) or (heads != h and (heads < 1 or h % heads)):
        raise ValueError(
            f"k: expected the shape of q {tuple(q.shape)}, or a divisor of its heads, got {tuple(k.shape)}"
            + (" (queries and keys are the same tokens: there is no cross attention)" if k.shape[2] != n else "")
        )
    if v.shape != k.shape:
        raise ValueError(f"v: expected the shape of k {tuple(k.shape)}, got {tuple(v.shape)}")


def check_layout(name: str, tensor: Tensor, n: int) -> None:
    """Raises what is wrong with the dtype, the sizes or the strides of a tensor of N tokens, if anything is."""
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name}: expected float32, float16, bfloat16 or float64, got {tensor.dtype}")
    if n < 1 or tensor.shape[-1] < 1:
        raise ValueError(f"{name}: expected N and D of at least 1, got shape {tuple(tensor.shape)}")
    if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        raise ValueError(f"{name}: expected the last stride to be 1, got strides {tensor.stride()}")


def checked_scale(scale: float) -> float:
    """A finite number as a float; a tensor would lose its gradient here."""
    if isinstance(scale, torch.SymFloat):
        return scale
    if not isinstance(scale, numbers.Real):
        raise TypeError(f"scale: expected a finite number or None, got {type(scale).__name__} {scale!r}")
    if not abs(scale) <= _LARGEST_SCALE:
        raise ValueError(f"scale: expected a finite number of float32 or None, got {scale!r}")
    return float(scale)


# ---- one number for every token, or one row ----


def are_by_head(categories: Tensor | None, policy: Tensor | None, soft: bool) -> bool:
    """Whether categories (B, H, N) or a policy (B, H, N, 3) count; what is wrong with them is seen later."""
    return (not soft and isinstance(categories, Tensor) and categories.dim() == 3) or (
        isinstance(policy, Tensor) and policy.dim() == 4
    )


def prepared_categories(
    categories: Tensor | None, valid: Tensor | None, policy: Tensor | None, soft: bool, q: Tensor
) -> Tensor | None:
    """Categories as the operators take them: (B, N) uint8, with `PADDING` where a token is not valid.

    With `soft` they say no more than what is padding, and are None where nothing is.

    Raises:
        TypeError, ValueError: categories, valid or policy are not what `category_attention` expects.

    """
    b, _, n, _ = q.shape
    if not soft:
        if categories is None:
            raise TypeError("categories: expected a tensor, got None (it may be None only with soft=True)")
        check_vector("categories", categories, (b, n), q)
        if categories.dtype not in _INTEGERS:
            raise TypeError(f"categories: expected uint8, bool or another integer, got {categories.dtype}")
    if policy is not None:
        check_tensor("policy", policy, (b, n, len(Category)), q)
        if policy.dtype not in DTYPES:
            raise TypeError(f"policy: expected float32, float16, bfloat16 or float64, got {policy.dtype}")
    elif soft:
        raise TypeError("policy: expected a tensor with soft=True, got None")
    if valid is not None:
        check_vector("valid", valid, (b, n), q)
        if valid.dtype != torch.bool:
            raise TypeError(f"valid: expected dtype torch.bool, got {valid.dtype}")
    if soft:
        return None if valid is None else (PADDING - valid.to(torch.uint8)).expand(b, n)  # 2, A, where it is valid
    assert categories is not None
    if (operable := _OPERABLE.get(categories.dtype)) is not None:
        categories = categories.to(operable)
    if valid is not None:
        categories = categories.where(valid, PADDING)
    if values_are_known(categories):
        check_values(categories, policy)
    if categories.dtype != torch.uint8:
        categories = categories.clamp(-1, PADDING + 1).to(torch.uint8)  # what is no category stays none
    return categories.expand(b, n)


def check_vector(name: str, tensor: Tensor, shape: tuple[int, int], q: Tensor) -> None:
    """Raises what is wrong with a tensor of one number for every token: of (B, N), (1, N) or (N,)."""
    b, n = shape
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) not in (shape, (1, n), (n,)):
        forms = list(dict.fromkeys([f"{shape}", f"(1, {n})", f"({n},)"]))
        if name == "categories":
            forms.append(f"by head {(b, q.shape[1], n)}")
        check_tensor(name, tensor, shape, q, f"{', '.join(forms[:-1])} or {forms[-1]}")
    _check_device(name, tensor, q)


def check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], q: Tensor, expected: str | None = None) -> None:
    """Raises what is wrong with the type, shape or device of a tensor, if anything is."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tuple(tensor.shape) != shape:
        raise ValueError(
            f"{name}: expected shape {expected or shape} for q of shape {tuple(q.shape)}, got {tuple(tensor.shape)}"
        )
    _check_device(name, tensor, q)


def _check_device(name: str, tensor: Tensor, q: Tensor) -> None:
    if tensor.device != q.device:
        raise ValueError(f"{name}: expected the device of q {q.device}, got {tensor.device}")


# ---- values ----


def values_are_known(categories: Tensor) -> bool:
    """Whether values can and should be looked at.

    While a graph is traced there are none: fake and functional tensors are subclasses, and make_fx follows real ones.
    Nor are there any in what torch.func maps over.
    """
    if is_compiling() or type(categories) not in _PLAIN:
        return False
    if _C._are_functorch_transforms_active() or (_C._len_torch_dispatch_stack() and get_proxy_mode()):
        return False
    on_host = categories.is_cpu or (os.environ.get(CHECK_VARIABLE) == "1" and not categories.is_meta)
    return on_host and categories.numel() > 0


def check_values(categories: Tensor, policy: Tensor | None) -> None:
    """Raises where a category is none, or not the arg-max of a policy whose values are at hand."""
    plain = categories.dtype == torch.uint8 and categories.is_cpu and categories.is_contiguous()
    module = extension.module if plain else None  # which looks at them in a tenth of torch's time
    if module is not None:
        smallest, largest = 0, module.largest_category(categories.data_ptr(), categories.numel())
    else:
        smallest, largest = (int(extreme) for extreme in categories.aminmax())
    if largest > PADDING or smallest < 0:
        got = smallest if smallest < 0 else largest
        raise ValueError(f"categories: expected values 0 (T), 1 (S), 2 (A) and 3 (padding), got {got}")
    if policy is not None and type(policy) in _PLAIN:
        if (
            module is not None
            and policy.dtype == torch.float32
            and policy.is_contiguous()
            and policy.numel() == 3 * categories.numel()
            and module.policy_agrees(policy.data_ptr(), categories.data_ptr(), categories.numel())
        ):
            return
        categories = categories.expand(policy.shape[:-1])
        disagree = (policy.detach().argmax(-1) != categories) & (categories != PADDING)
        if disagree.any():
            index = disagree.nonzero()[0].tolist()
            raise ValueError(
                f"policy: expected its arg-max to be the category of every token, but at {index} it is "
                f"{policy[tuple(index)].tolist()} where categories has {int(categories[tuple(index)])}"
            )
