// Registers the operators of the CUDA backend with torch. See csrc/binding.cpp.
#include "../tensors.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <tuple>

#include "kernels.h"

namespace grm {
namespace {

// The kernels read rows in pieces of 16 bytes. What does not begin at a multiple of that, which no projection gives, is
// copied.
Tensor with_whole_pieces(const Tensor& t) {
  constexpr int64_t kElements = 8;
  bool whole = t.stride(3) == 1 && reinterpret_cast<uintptr_t>(t.data_ptr()) % 16 == 0;
  for (int i = 0; i < 3; ++i) whole = whole && (t.size(i) < 2 || t.stride(i) % kElements == 0);
  return whole ? t : torch::stable::clone(torch::stable::contiguous(t));
}

void* current_stream(const Tensor& t) {
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream) == AOTI_TORCH_SUCCESS,
                  "grm_kernels: torch gives no stream");
  return stream;
}

void succeed(const char* error) { STD_TORCH_CHECK(!error, "grm_kernels: CUDA kernels: ", error); }

std::tuple<Tensor, Tensor> cuda_forward(Tensor q, Tensor k, Tensor v, std::optional<Tensor> categories,
                                        std::optional<Tensor> soft_policy, double scale) {
  STD_TORCH_CHECK(q.is_cuda(), "grm_kernels: q is not on a GPU");
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  for (Tensor* t : {&q, &k, &v}) *t = with_whole_pieces(*t);
  categories = contiguous(categories);
  const Tensor out = empty_like_output(q);
  const Tensor lse = torch::stable::new_empty(q, {q.size(0), q.size(1), q.size(2)}, ScalarType::Float);
  const ForwardProblem problem = problem_of(q, k, v, out, lse, categories, soft_policy, scale);
  if (q.numel()) succeed(cuda::forward(problem, current_stream(q)));
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cuda_backward(Tensor grad_out, Tensor grad_lse, Tensor q, Tensor k, Tensor v,
                                                         Tensor out, Tensor lse, std::optional<Tensor> categories,
                                                         std::optional<Tensor> soft_policy, double scale,
                                                         bool policy_grad) {
  STD_TORCH_CHECK(q.is_cuda(), "grm_kernels: q is not on a GPU");
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  for (Tensor* t : {&grad_out, &q, &k, &v, &out}) *t = with_whole_pieces(*t);
  for (Tensor* t : {&grad_lse, &lse}) *t = torch::stable::contiguous(*t);
  categories = contiguous(categories);
  const Tensor grad_q = empty_like_output(q), grad_k = empty_like_output(q), grad_v = empty_like_output(q);
  const int64_t batch = q.size(0), heads = q.size(1), tokens = q.size(2);
  const Tensor partials = torch::stable::new_empty(q, {policy_grad ? batch : 0, heads, tokens, 2}, ScalarType::Float);
  const BackwardProblem problem = problem_of(q, k, v, out, lse, categories, soft_policy, scale, grad_out, grad_lse,
                                             grad_q, grad_k, grad_v, partials);
  if (!q.numel()) {
    const Tensor none = policy_grad ? torch::stable::new_zeros(q, {batch, tokens, 3}, ScalarType::Float)
                                    : torch::stable::new_empty(q, {0}, ScalarType::Float);
    return {grad_q, grad_k, grad_v, none};
  }
  const Tensor grad_policy = policy_grad ? torch::stable::new_empty(q, {batch, tokens, 3}, ScalarType::Float)
                                         : torch::stable::new_empty(q, {0}, ScalarType::Float);
  succeed(cuda::backward(problem, policy_grad ? static_cast<float*>(grad_policy.data_ptr()) : nullptr,
                         current_stream(q)));
  return {grad_q, grad_k, grad_v, grad_policy};
}

STABLE_TORCH_LIBRARY_IMPL(grm_kernels, CUDA, m) {
  m.impl("cuda_forward", TORCH_BOX(&cuda_forward));
  m.impl("cuda_backward", TORCH_BOX(&cuda_backward));
}

}  // namespace
}  // namespace grm
