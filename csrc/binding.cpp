// Registers the operators of the CPU backend with torch (their schemas are in grm_kernels/ops.py; csrc/cuda/binding.cpp
// has those of the CUDA backend). Build information through pybind11, whose headers come first: those of torch 2.11 and
// 2.12 refuse to be included where TORCH_TARGET_VERSION is defined, as "tensors.h" does.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/workspace.h"
#include "problem.h"
#include "tensors.h"

namespace grm {

#define GRM_KERNELS(name) namespace cpu { extern const Kernels kernels_##name; }
GRM_CPU_INSTRUCTION_SETS
#undef GRM_KERNELS

namespace {

// ---- choice of the instruction set ----

std::vector<const cpu::Kernels*> find_runnable_kernels() {
  std::vector<const cpu::Kernels*> runnable;
#define GRM_KERNELS(name) \
  if (cpu::kernels_##name.runs_here()) runnable.push_back(&cpu::kernels_##name);
  GRM_CPU_INSTRUCTION_SETS
#undef GRM_KERNELS
  std::stable_partition(runnable.begin(), runnable.end(), [](const cpu::Kernels* k) { return k->is_fast_here(); });
  return runnable;
}

// The best first; what runs and is not fast here stands last.
const std::vector<const cpu::Kernels*>& runnable_kernels() {
  static const std::vector<const cpu::Kernels*> runnable = find_runnable_kernels();
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

// The largest of `count` categories at an address, 0 of none. (Asked with every call; torch's max takes longer.)
int largest_category(uintptr_t address, int64_t count) {
  const uint8_t* const categories = reinterpret_cast<const uint8_t*>(address);
  return count ? *std::max_element(categories, categories + count) : 0;
}

// Whether the largest number of every row of a policy (count, 3) is its category's, and no other is as large. Padding may
// have any.
bool policy_agrees(uintptr_t policy, uintptr_t categories, int64_t count) {
  const float* rows = reinterpret_cast<const float*>(policy);
  const uint8_t* of = reinterpret_cast<const uint8_t*>(categories);
  bool agrees = true;
  for (int64_t i = 0; i < count; ++i) {
    const float* row = rows + 3 * i;
    const int c = of[i] <= kAdaptive ? of[i] : 0;
    agrees &= of[i] == kPadding || (row[c] > row[(c + 1) % 3] && row[c] > row[(c + 2) % 3]);
  }
  return agrees;
}

// ---- the CPU backend ----

using Categories = std::optional<Tensor>;  // (B, N) uint8
using Policy = std::optional<Tensor>;      // (B, N, 3) float32

// out and lse. `like` is a tensor of the projections.
std::tuple<Tensor, Tensor> forward(const Projections& p, const Tensor& like, Categories categories, Policy soft_policy,
                                   double scale) {
  STD_TORCH_CHECK(like.is_cpu(), "grm_kernels: q is not on the CPU");
  categories = without_gaps(categories);
  soft_policy = without_gaps(soft_policy);
  const Tensor out = empty_tokens(like, p.batch, p.heads, p.tokens, p.channels);
  const Tensor lse = empty_lse(like, p.batch, p.heads, p.tokens);
  const ForwardProblem problem = problem_of(p, like, out, lse, categories, soft_policy, scale);
  const cpu::Kernels& use = *kernels.load();

  // A head is one piece of work; with fewer heads than threads its query blocks are dealt out too.
  const int64_t heads = problem.batch * problem.heads;
  const int64_t blocks = (problem.tokens + use.query_block - 1) / use.query_block;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t parts = heads == 0 ? 1 : std::clamp((threads + heads - 1) / heads, int64_t{1}, blocks);
  torch::stable::parallel_for(0, heads * parts, 1, [&](int64_t begin, int64_t end) {
    const Workspace memory(use.forward_workspace(problem));
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
  std::fill_n(grad_policy, f.batch * f.tokens * 3, 0.0f);
  for (int64_t b = 0; b < f.batch; ++b)
    for (int64_t h = 0; h < f.heads; ++h)
      for (int64_t n = 0; n < f.tokens; ++n)
        for (int64_t c = 0; c < 2; ++c)
          grad_policy[(b * f.tokens + n) * 3 + c] += partials[((b * f.heads + h) * f.tokens + n) * 2 + c];
}

// Fills `grads`, returns the policy's.
Tensor backward(const Projections& p, const Tensor& like, Tensor grad_out, std::optional<Tensor> grad_lse, Tensor out,
                Tensor lse, Categories categories, Policy soft_policy, double scale, bool policy_grad,
                const Projections& grads) {
  STD_TORCH_CHECK(like.is_cpu(), "grm_kernels: q is not on the CPU");
  for (Tensor* t : {&grad_out, &out}) *t = with_adjacent_channels(*t);
  lse = without_gaps(lse);
  grad_lse = without_gaps(grad_lse);
  categories = without_gaps(categories);
  soft_policy = without_gaps(soft_policy);
  const Tensor partials = empty_partials(like, policy_grad, p.batch, p.heads, p.tokens);
  const Tensor grad_policy = empty_grad_policy(like, policy_grad, p.batch, p.tokens);
  const BackwardProblem problem = problem_of(problem_of(p, like, out, lse, categories, soft_policy, scale), like,
                                             grad_out, grad_lse, grads, partials);
  const cpu::Kernels& use = *kernels.load();
  const int64_t parts = use.backward_parts(problem.forward);
  const size_t sums_bytes = use.key_sums(problem.forward);
  const Workspace sums(parts > 1 ? p.batch * p.heads * parts * sums_bytes : 0);
  const auto sums_of = [&](int64_t piece) { return parts > 1 ? sums.get() + piece * sums_bytes : nullptr; };
  torch::stable::parallel_for(0, p.batch * p.heads * parts, 1, [&](int64_t begin, int64_t end) {
    const Workspace memory(use.backward_workspace(problem));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / parts;
      use.backward(problem, head / p.heads, head % p.heads, i % parts, sums_of(i), memory.get());
    }
  });
  if (parts > 1)
    torch::stable::parallel_for(0, p.batch * p.heads * parts, 1, [&](int64_t begin, int64_t end) {
      const Workspace memory(use.backward_workspace(problem));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t head = i / parts, part = i % parts;
        use.backward_finish(problem, head / p.heads, head % p.heads, p.tokens * part / parts, p.tokens * (part + 1) / parts,
                            sums_of(head * parts), memory.get());
      }
    });
  if (policy_grad)
    reduce_policy_partials(problem.policy_partials, problem.forward, static_cast<float*>(grad_policy.data_ptr()));
  return grad_policy;
}

std::tuple<Tensor, Tensor> cpu_forward(Tensor q, Tensor k, Tensor v, Categories categories, Policy soft_policy,
                                       double scale) {
  for (Tensor* t : {&q, &k, &v}) *t = with_adjacent_channels(*t);
  return forward(projections_of(q, k, v), q, categories, soft_policy, scale);
}

std::tuple<Tensor, Tensor> cpu_forward_packed(Tensor qkv, Categories categories, Policy soft_policy, double scale) {
  qkv = with_adjacent_channels(qkv);
  return forward(projections_of(qkv), qkv, categories, soft_policy, scale);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cpu_backward(Tensor grad_out, std::optional<Tensor> grad_lse, Tensor q,
                                                        Tensor k, Tensor v, Tensor out, Tensor lse,
                                                        Categories categories, Policy soft_policy, double scale,
                                                        bool policy_grad) {
  for (Tensor* t : {&q, &k, &v}) *t = with_adjacent_channels(*t);
  const Projections p = projections_of(q, k, v);
  const auto empty = [&] { return empty_tokens(q, p.batch, p.heads, p.tokens, p.channels); };
  const Tensor grad_q = empty(), grad_k = empty(), grad_v = empty();
  const Tensor grad_policy = backward(p, q, grad_out, grad_lse, out, lse, categories, soft_policy, scale, policy_grad,
                                      projections_of(grad_q, grad_k, grad_v));
  return {grad_q, grad_k, grad_v, grad_policy};
}

std::tuple<Tensor, Tensor> cpu_backward_packed(Tensor grad_out, std::optional<Tensor> grad_lse, Tensor qkv, Tensor out,
                                               Tensor lse, Categories categories, Policy soft_policy, double scale,
                                               bool policy_grad) {
  qkv = with_adjacent_channels(qkv);
  const Tensor grad_qkv = empty_packed(qkv);
  const Tensor grad_policy = backward(projections_of(qkv), qkv, grad_out, grad_lse, out, lse, categories, soft_policy,
                                      scale, policy_grad, projections_of(grad_qkv));
  return {grad_qkv, grad_policy};
}

STABLE_TORCH_LIBRARY_IMPL(grm_kernels, CPU, m) {
  m.impl("cpu_forward", TORCH_BOX(&cpu_forward));
  m.impl("cpu_backward", TORCH_BOX(&cpu_backward));
  m.impl("cpu_forward_packed", TORCH_BOX(&cpu_forward_packed));
  m.impl("cpu_backward_packed", TORCH_BOX(&cpu_backward_packed));
}

}  // namespace

const cpu::Kernels& cpu::kernels_in_use() { return *kernels.load(); }

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled backends of grm_kernels; importing it registers their operators.";
  m.attr("compiler") = __VERSION__;
  m.attr("built_with_torch") = GRM_BUILT_WITH_TORCH;
#ifdef GRM_CUDA_ARCHITECTURES
  m.attr("cuda_architectures") = GRM_CUDA_ARCHITECTURES;
#endif
  m.def("largest_category", largest_category);
  m.def("policy_agrees", policy_agrees);
  m.def("instruction_sets", instruction_sets);
  m.def("instruction_set", [] { return kernels.load()->name; });
  m.def("set_instruction_set", set_instruction_set);
}

}  // namespace grm
