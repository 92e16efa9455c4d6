// Registers the operators of the CUDA backend with torch. See csrc/binding.cpp.
#include "../tensors.h"

#include <torch/csrc/stable/accelerator.h>

#include <tuple>

#include "kernels.h"

namespace grm {
namespace {

using Categories = std::optional<Tensor>;  // (B, N) uint8
using Policy = std::optional<Tensor>;      // (B, N, 3) float32

// The kernels read rows in pieces of 16 bytes. What does not begin at a multiple of that, which no projection gives, is
// copied.
Tensor with_whole_pieces(const Tensor& t) {
  constexpr int kElements = 8;
  const int64_t last = t.dim() - 1;
  bool whole = t.stride(last) == 1 && reinterpret_cast<uintptr_t>(t.data_ptr()) % 16 == 0;
  for (int64_t i = 0; i < last; ++i) whole = whole && (t.size(i) < 2 || t.stride(i) % kElements == 0);
  return whole ? t : torch::stable::clone(torch::stable::contiguous(t));
}

void* current_stream(const Tensor& t) {
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream) == AOTI_TORCH_SUCCESS,
                  "grm_kernels: torch gives no stream");
  return stream;
}

void succeed(const char* error) { STD_TORCH_CHECK(!error, "grm_kernels: CUDA kernels: ", error); }

// out and lse. `like` is a tensor of the projections.
std::tuple<Tensor, Tensor> forward(const Projections& p, const Tensor& like, Categories categories, Policy soft_policy,
                                   double scale) {
  categories = without_gaps(categories);
  const Tensor out = empty_tokens(like, p.batch, p.heads, p.tokens, p.channels);
  const Tensor lse = empty_lse(like, p.batch, p.heads, p.tokens);
  const ForwardProblem problem = problem_of(p, like, out, lse, categories, soft_policy, scale);
  if (like.numel()) succeed(cuda::forward(problem, current_stream(like)));
  return {out, lse};
}

// Fills `grads`, returns the policy's.
Tensor backward(const Projections& p, const Tensor& like, Tensor grad_out, std::optional<Tensor> grad_lse, Tensor out,
                Tensor lse, Categories categories, Policy soft_policy, double scale, bool policy_grad,
                const Projections& grads) {
  for (Tensor* t : {&grad_out, &out}) *t = with_whole_pieces(*t);
  lse = without_gaps(lse);
  grad_lse = without_gaps(grad_lse);
  categories = without_gaps(categories);
  const Tensor partials = empty_partials(like, policy_grad, p.batch, p.heads, p.tokens);
  const BackwardProblem problem = problem_of(problem_of(p, like, out, lse, categories, soft_policy, scale), like,
                                             grad_out, grad_lse, grads, partials);
  if (policy_grad && !like.numel()) return torch::stable::new_zeros(like, {p.batch, p.tokens, 3}, ScalarType::Float);
  const Tensor grad_policy = empty_grad_policy(like, policy_grad, p.batch, p.tokens);
  if (like.numel())
    succeed(cuda::backward(problem, policy_grad ? static_cast<float*>(grad_policy.data_ptr()) : nullptr,
                           current_stream(like)));
  return grad_policy;
}

void check_device(const Tensor& t) { STD_TORCH_CHECK(t.is_cuda(), "grm_kernels: q is not on a GPU"); }

std::tuple<Tensor, Tensor> cuda_forward(Tensor q, Tensor k, Tensor v, Categories categories, Policy soft_policy,
                                        double scale) {
  check_device(q);
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  for (Tensor* t : {&q, &k, &v}) *t = with_whole_pieces(*t);
  return forward(projections_of(q, k, v), q, categories, soft_policy, scale);
}

std::tuple<Tensor, Tensor> cuda_forward_packed(Tensor qkv, Categories categories, Policy soft_policy, double scale) {
  check_device(qkv);
  const torch::stable::accelerator::DeviceGuard guard(qkv.get_device_index());
  qkv = with_whole_pieces(qkv);
  return forward(projections_of(qkv), qkv, categories, soft_policy, scale);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cuda_backward(Tensor grad_out, std::optional<Tensor> grad_lse, Tensor q,
                                                         Tensor k, Tensor v, Tensor out, Tensor lse,
                                                         Categories categories, Policy soft_policy, double scale,
                                                         bool policy_grad) {
  check_device(q);
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  for (Tensor* t : {&q, &k, &v}) *t = with_whole_pieces(*t);
  const Projections p = projections_of(q, k, v);
  const auto empty = [&] { return empty_tokens(q, p.batch, p.heads, p.tokens, p.channels); };
  const Tensor grad_q = empty(), grad_k = empty(), grad_v = empty();
  const Tensor grad_policy = backward(p, q, grad_out, grad_lse, out, lse, categories, soft_policy, scale, policy_grad,
                                      projections_of(grad_q, grad_k, grad_v));
  return {grad_q, grad_k, grad_v, grad_policy};
}

std::tuple<Tensor, Tensor> cuda_backward_packed(Tensor grad_out, std::optional<Tensor> grad_lse, Tensor qkv, Tensor out,
                                                Tensor lse, Categories categories, Policy soft_policy, double scale,
                                                bool policy_grad) {
  check_device(qkv);
  const torch::stable::accelerator::DeviceGuard guard(qkv.get_device_index());
  qkv = with_whole_pieces(qkv);
  const Tensor grad_qkv = empty_packed(qkv);
  const Tensor grad_policy = backward(projections_of(qkv), qkv, grad_out, grad_lse, out, lse, categories, soft_policy,
                                      scale, policy_grad, projections_of(grad_qkv));
  return {grad_qkv, grad_policy};
}

STABLE_TORCH_LIBRARY_IMPL(grm_kernels, CUDA, m) {
  m.impl("cuda_forward", TORCH_BOX(&cuda_forward));
  m.impl("cuda_backward", TORCH_BOX(&cuda_backward));
  m.impl("cuda_forward_packed", TORCH_BOX(&cuda_forward_packed));
  m.impl("cuda_backward_packed", TORCH_BOX(&cuda_backward_packed));
}

}  // namespace
}  // namespace grm
