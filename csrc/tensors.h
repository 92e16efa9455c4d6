// Torch's tensors as problems: what the operators of all compiled backends share. Included before any header of torch.
#pragma once

// The oldest torch whose stable ABI the bindings are written for, 2.11: one build serves every torch from it on.
#define TORCH_TARGET_VERSION 0x020b000000000000

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <initializer_list>
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

inline Tokens tokens_of(const Tensor& t) { return {t.data_ptr(), t.stride(0), t.stride(1), t.stride(2)}; }

// The gradient that autograd hands over may be expanded, and the inputs of an exported program have any strides: their
// channels need not be adjacent.
inline Tensor with_adjacent_channels(const Tensor& t) {
  return t.stride(3) == 1 ? t : torch::stable::contiguous(t);
}

// (B, H, N, D) that lies in memory as (B, N, H, D), like the fake function says.
inline Tensor empty_like_output(const Tensor& q) {
  return torch::stable::transpose(torch::stable::new_empty(q, {q.size(0), q.size(2), q.size(1), q.size(3)}), 1, 2);
}

// The Python side has checked what a user passes; this keeps memory safe whoever calls the operator.
inline void check(const Tensor& t, const char* name, std::initializer_list<int64_t> sizes, ScalarType dtype,
                  const Tensor& q) {
  const auto actual = t.sizes();
  STD_TORCH_CHECK(actual.size() == sizes.size() && std::equal(sizes.begin(), sizes.end(), actual.begin()),
                  "grm_kernels: ", name, " has a shape that does not fit q");
  STD_TORCH_CHECK(t.scalar_type() == dtype, "grm_kernels: ", name, " has a dtype that was not expected");
  const bool together = t.is_cpu() == q.is_cpu() && t.is_cuda() == q.is_cuda() &&
                        t.get_device_index() == q.get_device_index();
  STD_TORCH_CHECK(together, "grm_kernels: ", name, " is not on the device of q");
}

inline void check_like(const Tensor& t, const char* name, const Tensor& q) {
  check(t, name, {q.size(0), q.size(1), q.size(2), q.size(3)}, q.scalar_type(), q);
}

inline ForwardProblem problem_of(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                                 const Tensor& lse, const std::optional<Tensor>& categories,
                                 const std::optional<Tensor>& soft_policy, double scale) {
  const int64_t batch = q.size(0), heads = q.size(1), tokens = q.size(2), channels = q.size(3);
  STD_TORCH_CHECK(channels % 8 == 0 && channels <= 128, "grm_kernels: expected D to be a multiple of 8 up to 128");
  check_like(q, "q", q);
  check_like(k, "k", q);
  check_like(v, "v", q);
  check_like(out, "out", q);
  check(lse, "lse", {batch, heads, tokens}, ScalarType::Float, q);
  STD_TORCH_CHECK(categories || soft_policy, "grm_kernels: expected categories or soft_policy");
  if (soft_policy)
    check(*soft_policy, "soft_policy", {batch, tokens, 3}, ScalarType::Float, q);
  else
    check(*categories, "categories", {batch, tokens}, ScalarType::Byte, q);
  return {
      batch, heads, tokens, channels, dtype_of(q), static_cast<float>(scale),
      tokens_of(q), tokens_of(k), tokens_of(v), tokens_of(out), static_cast<float*>(lse.data_ptr()),
      soft_policy ? nullptr : static_cast<const uint8_t*>(categories->data_ptr()),
      soft_policy ? static_cast<const float*>(soft_policy->data_ptr()) : nullptr,
  };
}

inline std::optional<Tensor> contiguous(const std::optional<Tensor>& t) {
  return t ? std::make_optional(torch::stable::contiguous(*t)) : std::nullopt;
}

// `partials` is (B, H, N, 2), or has no element where the policy's gradient is not wanted.
inline BackwardProblem problem_of(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                                  const Tensor& lse, const std::optional<Tensor>& categories,
                                  const std::optional<Tensor>& soft_policy, double scale,
                                  const Tensor& grad_out, const Tensor& grad_lse, const Tensor& grad_q,
                                  const Tensor& grad_k, const Tensor& grad_v, const Tensor& partials) {
  check_like(grad_out, "grad_out", q);
  check(grad_lse, "grad_lse", {q.size(0), q.size(1), q.size(2)}, ScalarType::Float, q);
  return {
      problem_of(q, k, v, out, lse, categories, soft_policy, scale),
      tokens_of(grad_out), tokens_of(grad_q), tokens_of(grad_k), tokens_of(grad_v),
      static_cast<const float*>(grad_lse.data_ptr()),
      partials.numel() ? static_cast<float*>(partials.data_ptr()) : nullptr,
  };
}

}  // namespace grm
