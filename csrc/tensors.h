// Torch's tensors as problems: what the operators of all compiled backends share. Included before any header of torch.
#pragma once

// The oldest torch whose stable ABI the bindings are written for, 2.11: one build serves every torch from it on.
#define TORCH_TARGET_VERSION 0x020b000000000000

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <optional>

#include "problem.h"

namespace grm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::float32;
    case ScalarType::BFloat16: return DType::bfloat16;
    case ScalarType::Half: return DType::float16;
    default: STD_TORCH_CHECK(false, "grm_kernels: expected float32, bfloat16 or float16");
  }
}

inline bool is_contiguous(const Tensor& t) {
  int64_t expected = 1;
  for (int64_t i = t.dim() - 1; i >= 0; expected *= t.size(i--))
    if (t.size(i) != 1 && t.stride(i) != expected) return false;
  return true;
}

inline Tensor without_gaps(const Tensor& t) { return is_contiguous(t) ? t : torch::stable::contiguous(t); }

inline std::optional<Tensor> without_gaps(const std::optional<Tensor>& t) {
  return t ? std::make_optional(without_gaps(*t)) : std::nullopt;
}

// The gradient that autograd hands over may be expanded, and the inputs of an exported program have any strides: their
// channels need not be adjacent.
inline Tensor with_adjacent_channels(const Tensor& t) {
  return t.stride(t.dim() - 1) == 1 ? t : torch::stable::contiguous(t);
}

// ---- outputs ----

// An uninitialised tensor on the device of `like`, made without torch's dispatcher, which takes a microsecond for it. It
// is no view of another one, which autograd would not let a user change in place. With GRM_KERNELS_POISON=1 in the
// environment it is full of NaN (bytes: of 255), so that tests see what a kernel forgets to write.
inline Tensor empty_strided(const Tensor& like, ScalarType dtype, std::initializer_list<int64_t> sizes,
                            std::initializer_list<int64_t> strides) {
  static const char* const variable = std::getenv("GRM_KERNELS_POISON");
  static const bool poisoned = variable && *variable == '1';
  int32_t device;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  const int32_t type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(sizes.size(), sizes.begin(), strides.begin(), type, device,
                                                  like.get_device_index(), &handle));
  Tensor result(handle);
  if (poisoned) torch::stable::fill_(result, dtype == ScalarType::Byte ? 255 : std::numeric_limits<double>::quiet_NaN());
  return result;
}

// (B, H, N, D) that lies in memory as (B, N, H, D), like the fake function says.
inline Tensor empty_tokens(const Tensor& like, int64_t batch, int64_t heads, int64_t tokens, int64_t channels) {
  return empty_strided(like, like.scalar_type(), {batch, heads, tokens, channels},
                       {tokens * heads * channels, channels, heads * channels, 1});
}

// (B, N, 3, H, D) like qkv, without gaps.
inline Tensor empty_packed(const Tensor& qkv) {
  const int64_t channels = qkv.size(4), row = qkv.size(3) * channels;
  return empty_strided(qkv, qkv.scalar_type(), {qkv.size(0), qkv.size(1), 3, qkv.size(3), channels},
                       {qkv.size(1) * 3 * row, 3 * row, row, channels, 1});
}

inline Tensor empty_lse(const Tensor& like, int64_t batch, int64_t heads, int64_t tokens) {
  return empty_strided(like, ScalarType::Float, {batch, heads, tokens}, {heads * tokens, tokens, 1});
}

// (B, H, N, 2), without an element where the policy's gradient is not wanted.
inline Tensor empty_partials(const Tensor& like, bool wanted, int64_t batch, int64_t heads, int64_t tokens) {
  return empty_strided(like, ScalarType::Float, {wanted ? batch : 0, heads, tokens, 2},
                       {heads * tokens * 2, tokens * 2, 2, 1});
}

// (B, N, 3), or no element where it is not wanted.
inline Tensor empty_grad_policy(const Tensor& like, bool wanted, int64_t batch, int64_t tokens) {
  if (!wanted) return empty_strided(like, ScalarType::Float, {0}, {1});
  return empty_strided(like, ScalarType::Float, {batch, tokens, 3}, {tokens * 3, 3, 1});
}

// ---- inputs ----

// What an operator is given as q, k, v, or returns as their gradients.
struct Projections {
  int64_t batch, heads, tokens, channels;
  int64_t group;  // heads of q that share a head of k and v
  Tokens q, k, v;
};

// The Python side has checked what a user passes; this keeps memory safe whoever calls the operator.
inline void check(const Tensor& t, const char* name, std::initializer_list<int64_t> sizes, ScalarType dtype,
                  const Tensor& like) {
  const auto actual = t.sizes();
  STD_TORCH_CHECK(actual.size() == sizes.size() && std::equal(sizes.begin(), sizes.end(), actual.begin()),
                  "grm_kernels: ", name, " has a shape that does not fit q");
  STD_TORCH_CHECK(t.scalar_type() == dtype, "grm_kernels: ", name, " has a dtype that was not expected");
  const bool together = t.is_cpu() == like.is_cpu() && t.is_cuda() == like.is_cuda() &&
                        t.get_device_index() == like.get_device_index();
  STD_TORCH_CHECK(together, "grm_kernels: ", name, " is not on the device of q");
}

inline Tokens tokens_of(const Tensor& t) { return {t.data_ptr(), t.stride(0), t.stride(1), t.stride(2)}; }

// Three tensors (B, H, N, D), of which k and v may have fewer heads: a divisor of q's.
inline Projections projections_of(const Tensor& q, const Tensor& k, const Tensor& v) {
  STD_TORCH_CHECK(q.dim() == 4 && k.dim() == 4, "grm_kernels: expected q and k of 4 dimensions");
  const int64_t heads = q.size(1), key_heads = k.size(1);
  check(k, "k", {q.size(0), key_heads, q.size(2), q.size(3)}, q.scalar_type(), q);
  check(v, "v", {q.size(0), key_heads, q.size(2), q.size(3)}, q.scalar_type(), q);
  STD_TORCH_CHECK(key_heads == heads || (key_heads > 0 && heads % key_heads == 0),
                  "grm_kernels: k has a number of heads that does not divide q's");
  const int64_t group = key_heads ? heads / key_heads : 1;
  return {q.size(0), heads, q.size(2), q.size(3), group, tokens_of(q), tokens_of(k), tokens_of(v)};
}

// One tensor (B, N, 3, H, D).
inline Projections projections_of(const Tensor& qkv) {
  STD_TORCH_CHECK(qkv.dim() == 5 && qkv.size(2) == 3, "grm_kernels: expected qkv of shape (B, N, 3, H, D)");
  const int64_t bytes = qkv.scalar_type() == ScalarType::Float ? 4 : 2;
  const auto part = [&](int64_t i) -> Tokens {
    char* const data = static_cast<char*>(qkv.data_ptr()) + i * qkv.stride(2) * bytes;
    return {data, qkv.stride(0), qkv.stride(3), qkv.stride(1)};
  };
  return {qkv.size(0), qkv.size(3), qkv.size(1), qkv.size(4), 1, part(0), part(1), part(2)};
}

// `like` is a tensor of the projections.
inline ForwardProblem problem_of(const Projections& p, const Tensor& like, const Tensor& out, const Tensor& lse,
                                 const std::optional<Tensor>& categories, const std::optional<Tensor>& soft_policy,
                                 double scale) {
  STD_TORCH_CHECK(p.tokens >= 1, "grm_kernels: expected at least one token");
  STD_TORCH_CHECK(p.channels >= 1 && p.channels <= 256, "grm_kernels: expected D from 1 to 256");
  check(out, "out", {p.batch, p.heads, p.tokens, p.channels}, like.scalar_type(), like);
  check(lse, "lse", {p.batch, p.heads, p.tokens}, ScalarType::Float, like);
  STD_TORCH_CHECK(categories || soft_policy, "grm_kernels: expected categories or soft_policy");
  if (soft_policy) check(*soft_policy, "soft_policy", {p.batch, p.tokens, 3}, ScalarType::Float, like);
  if (categories) check(*categories, "categories", {p.batch, p.tokens}, ScalarType::Byte, like);
  return {
      p.batch, p.heads, p.tokens, p.channels, p.group, dtype_of(like), static_cast<float>(scale),
      p.q, p.k, p.v, tokens_of(out), static_cast<float*>(lse.data_ptr()),
      categories ? static_cast<const uint8_t*>(categories->data_ptr()) : nullptr,
      soft_policy ? static_cast<const float*>(soft_policy->data_ptr()) : nullptr,
  };
}

// `partials` is (B, H, N, 2), or has no element where the policy's gradient is not wanted.
inline BackwardProblem problem_of(const ForwardProblem& forward, const Tensor& like, const Tensor& grad_out,
                                  const std::optional<Tensor>& grad_lse, const Projections& grads,
                                  const Tensor& partials) {
  const ForwardProblem& f = forward;
  check(grad_out, "grad_out", {f.batch, f.heads, f.tokens, f.channels}, like.scalar_type(), like);
  if (grad_lse) check(*grad_lse, "grad_lse", {f.batch, f.heads, f.tokens}, ScalarType::Float, like);
  return {
      forward, tokens_of(grad_out), grads.q, grads.k, grads.v,
      grad_lse ? static_cast<const float*>(grad_lse->data_ptr()) : nullptr,
      partials.numel() ? static_cast<float*>(partials.data_ptr()) : nullptr,
  };
}

}  // namespace grm
