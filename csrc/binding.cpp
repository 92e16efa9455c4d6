// Registers the operators of the CPU backend with torch (their schemas are in grm_kernels/ops.py; csrc/cuda/binding.cpp
// has those of the CUDA backend). Build information through pybind11, whose headers come first: those of torch 2.11 and
// 2.12 refuse to be included where TORCH_TARGET_VERSION is defined, as "tensors.h" does.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/kernels.h"
#include "problem.h"
#include "tensors.h"

namespace grm {

#define GRM_KERNELS(name) namespace cpu { extern const Kernels kernels_##name; }
GRM_CPU_INSTRUCTION_SETS
#undef GRM_KERNELS

namespace {

// ---- choice of the instruction set ----

// The best first.
std::vector<const cpu::Kernels*> runnable_kernels() {
  std::vector<const cpu::Kernels*> runnable;
#define GRM_KERNELS(name) \
  if (cpu::kernels_##name.runs_here()) runnable.push_back(&cpu::kernels_##name);
  GRM_CPU_INSTRUCTION_SETS
#undef GRM_KERNELS
  return runnable;
}

std::atomic<const cpu::Kernels*> kernels = runnable_kernels().front();

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const cpu::Kernels* k : runnable_kernels()) names.push_back(k->name);
  return names;
}

void set_instruction_set(const std::string& name) {
  for (const cpu::Kernels* k : runnable_kernels())
    if (name == k->name) {
      kernels = k;
      return;
    }
  throw std::invalid_argument("unknown instruction set " + name);
}

// ---- the CPU backend ----

struct Free {
  void operator()(void* p) const { std::free(p); }
};

std::unique_ptr<void, Free> workspace(size_t bytes) {
  void* p = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!p) throw std::bad_alloc();
  return std::unique_ptr<void, Free>(p);
}

std::tuple<Tensor, Tensor> cpu_forward(Tensor q, Tensor k, Tensor v, std::optional<Tensor> categories,
                                       std::optional<Tensor> soft_policy, double scale) {
  STD_TORCH_CHECK(q.is_cpu(), "grm_kernels: q is not on the CPU");
  for (Tensor* t : {&q, &k, &v}) *t = with_adjacent_channels(*t);
  categories = contiguous(categories);
  soft_policy = contiguous(soft_policy);
  const Tensor out = empty_like_output(q);
  const Tensor lse = torch::stable::new_empty(q, {q.size(0), q.size(1), q.size(2)}, ScalarType::Float);
  const ForwardProblem problem = problem_of(q, k, v, out, lse, categories, soft_policy, scale);
  const cpu::Kernels& use = *kernels.load();

  // A head is one piece of work; with fewer heads than threads its query blocks are dealt out too.
  const int64_t heads = problem.batch * problem.heads;
  const int64_t blocks = (problem.tokens + use.query_block - 1) / use.query_block;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t parts = heads == 0 ? 1 : std::clamp((threads + heads - 1) / heads, int64_t{1}, blocks);
  torch::stable::parallel_for(0, heads * parts, 1, [&](int64_t begin, int64_t end) {
    const auto memory = workspace(use.forward_workspace(problem));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / parts, part = i % parts;
      use.forward(problem, head / problem.heads, head % problem.heads, blocks * part / parts,
                  blocks * (part + 1) / parts, memory.get());
    }
  });
  return {out, lse};
}

// (B, H, N, 2) to columns T and S of (B, N, 3), summed over heads in their order.
void reduce_policy_partials(const float* partials, const ForwardProblem& f, float* grad_policy) {
  for (int64_t b = 0; b < f.batch; ++b)
    for (int64_t h = 0; h < f.heads; ++h)
      for (int64_t n = 0; n < f.tokens; ++n)
        for (int64_t c = 0; c < 2; ++c)
          grad_policy[(b * f.tokens + n) * 3 + c] += partials[((b * f.heads + h) * f.tokens + n) * 2 + c];
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cpu_backward(Tensor grad_out, Tensor grad_lse, Tensor q, Tensor k, Tensor v,
                                                        Tensor out, Tensor lse, std::optional<Tensor> categories,
                                                        std::optional<Tensor> soft_policy, double scale,
                                                        bool policy_grad) {
  STD_TORCH_CHECK(q.is_cpu(), "grm_kernels: q is not on the CPU");
  for (Tensor* t : {&grad_out, &q, &k, &v, &out}) *t = with_adjacent_channels(*t);
  for (Tensor* t : {&grad_lse, &lse}) *t = torch::stable::contiguous(*t);
  categories = contiguous(categories);
  soft_policy = contiguous(soft_policy);
  const Tensor grad_q = empty_like_output(q), grad_k = empty_like_output(q), grad_v = empty_like_output(q);
  const int64_t batch = q.size(0), heads = q.size(1), tokens = q.size(2);
  const Tensor partials =
      torch::stable::new_empty(q, {policy_grad ? batch : 0, heads, tokens, 2}, ScalarType::Float);
  Tensor grad_policy = policy_grad ? torch::stable::new_zeros(q, {batch, tokens, 3}, ScalarType::Float)
                                   : torch::stable::new_empty(q, {0}, ScalarType::Float);
  const BackwardProblem problem = problem_of(q, k, v, out, lse, categories, soft_policy, scale, grad_out, grad_lse,
                                             grad_q, grad_k, grad_v, partials);
  const cpu::Kernels& use = *kernels.load();
  torch::stable::parallel_for(0, batch * heads, 1, [&](int64_t begin, int64_t end) {
    const auto memory = workspace(use.backward_workspace(problem));
    for (int64_t i = begin; i < end; ++i) use.backward(problem, i / heads, i % heads, memory.get());
  });
  if (policy_grad)
    reduce_policy_partials(problem.policy_partials, problem.forward, static_cast<float*>(grad_policy.data_ptr()));
  return {grad_q, grad_k, grad_v, grad_policy};
}

STABLE_TORCH_LIBRARY_IMPL(grm_kernels, CPU, m) {
  m.impl("cpu_forward", TORCH_BOX(&cpu_forward));
  m.impl("cpu_backward", TORCH_BOX(&cpu_backward));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled backends of grm_kernels; importing it registers their operators.";
  m.attr("compiler") = __VERSION__;
  m.attr("built_with_torch") = GRM_BUILT_WITH_TORCH;
#ifdef GRM_CUDA_ARCHITECTURES
  m.attr("cuda_architectures") = GRM_CUDA_ARCHITECTURES;
#endif
  m.def("instruction_sets", instruction_sets);
  m.def("instruction_set", [] { return kernels.load()->name; });
  m.def("set_instruction_set", set_instruction_set);
}

}  // namespace grm
