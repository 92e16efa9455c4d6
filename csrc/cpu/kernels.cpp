// Compiled once for every instruction set; GRM_INSTRUCTION_SET names it. Everything but the table entry is local to the
// object file, and no template of the standard library that emits code may be used here: the linker would be free to
// take it from the object of an instruction set that the machine does not have.
#include "backward.h"
#include "forward.h"
#include "kernels.h"

#define GRM_STRINGIZE_(x) #x
#define GRM_STRINGIZE(x) GRM_STRINGIZE_(x)
#define GRM_CONCATENATE_(x, y) x##y
#define GRM_CONCATENATE(x, y) GRM_CONCATENATE_(x, y)

namespace grm::cpu {
namespace {

bool runs_here() {
#if defined(__AVX512BF16__)
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw");
#elif defined(__AVX512F__)
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // and with them F16C, on all that were made
#else
  return true;
#endif
}

// Elements of a packed word: two bfloat16 where there is a dot product for them, otherwise one float32.
bool pairs(const ForwardProblem& problem) {
#if defined(__AVX512BF16__)
  return problem.dtype == DType::bfloat16;
#else
  return false;
#endif
}

#if defined(__AVX512BF16__)
constexpr int kPairs = 2;
#else
constexpr int kPairs = 1;  // never taken
#endif

template <class Buffers, class Problem>
size_t bytes(const Problem& problem) {
  Arena arena(nullptr);
  Buffers buffers(arena, problem);
  return arena.used();
}

size_t forward_workspace(const ForwardProblem& problem) {
  return pairs(problem) ? bytes<ForwardBuffers<kPairs>>(problem) : bytes<ForwardBuffers<1>>(problem);
}

size_t backward_workspace(const BackwardProblem& problem) {
  return pairs(problem.forward) ? bytes<BackwardBuffers<kPairs>>(problem) : bytes<BackwardBuffers<1>>(problem);
}

void forward(const ForwardProblem& problem, int64_t image, int64_t head, int64_t block_begin, int64_t block_end,
             void* workspace) {
  const auto serve = pairs(problem) ? forward_head<kPairs> : forward_head<1>;
  serve(problem, image, head, block_begin, block_end, workspace);
}

void backward(const BackwardProblem& problem, int64_t image, int64_t head, void* workspace) {
  const auto serve = pairs(problem.forward) ? backward_head<kPairs> : backward_head<1>;
  serve(problem, image, head, workspace);
}

}  // namespace

extern const Kernels GRM_CONCATENATE(kernels_, GRM_INSTRUCTION_SET);
const Kernels GRM_CONCATENATE(kernels_, GRM_INSTRUCTION_SET) = {
    GRM_STRINGIZE(GRM_INSTRUCTION_SET), runs_here, kLanes, forward_workspace, backward_workspace, forward, backward,
};

}  // namespace grm::cpu
