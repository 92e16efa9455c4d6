// Compiled once for every instruction set; GRM_INSTRUCTION_SET names it. Everything but the table entry is local to the
// object file, and no template of the standard library that emits code may be used here: the linker would be free to
// take it from the object of an instruction set that the machine does not have.
#include "backward.h"
#include "division.h"
#include "forward.h"
#include "kernels.h"

#define GRM_STRINGIZE_(x) #x
#define GRM_STRINGIZE(x) GRM_STRINGIZE_(x)
#define GRM_CONCATENATE_(x, y) x##y
#define GRM_CONCATENATE(x, y) GRM_CONCATENATE_(x, y)

namespace grm::cpu {
namespace {

bool has_instructions() {
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

bool runs_here() {
#if defined(GRM_TILES)
  return has_instructions() && tiles_run_here() && tiles_multiply();
#else
  return has_instructions();
#endif
}

// A table and not a measurement: which set is taken decides the last bits of a result, and those are to be the same on
// every run.
bool is_fast_here() {
#if defined(GRM_EMULATE_TILES)
  return false;
#elif defined(__AVX512BF16__) && !defined(GRM_TILES)
  // On Intel's (Sapphire Rapids was measured) vdpbf16ps has half the rate of a float32 multiply-add, and with the packing
  // bfloat16 was slower than float32.
  return !__builtin_cpu_is("intel");
#else
  return true;
#endif
}

// Elements of a packed word: two bfloat16 where there are products for them, otherwise one float32.
#if defined(__AVX512BF16__) || defined(GRM_TILES)
constexpr int kPairs = 2;
#else
constexpr int kPairs = 1;
#endif

template <class Problem>
bool pairs(const Problem& problem) {
  return kPairs == 2 && problem.dtype == DType::bfloat16;
}

// Calls one of two instantiations, by the problem's dtype.
template <class Problem, class Function>
void serve(const Problem& problem, Function function) {
  if (pairs(problem))
    function(Shape<kPairs, kTileVecs>{});
  else
    function(Shape<1, kTileVecs>{});
}

size_t forward_workspace(const ForwardProblem& problem) {
  Arena arena(nullptr);
  serve(problem, [&](auto shape) { ForwardBuffers<decltype(shape)::kPack>(arena, problem); });
  return arena.used();
}

size_t key_sums(const ForwardProblem& problem) {
  Arena arena(nullptr);
  serve(problem, [&](auto shape) { KeySums(arena, extents<decltype(shape)::kPack>(problem)); });
  return arena.used();
}

size_t backward_workspace(const BackwardProblem& problem) {
  Arena arena(nullptr);
  serve(problem.forward, [&](auto shape) { BackwardBuffers<decltype(shape)::kPack>(arena, problem); });
  return arena.used() + (parts_of(problem.forward) == 1 ? key_sums(problem.forward) : 0);
}

void forward(const ForwardProblem& problem, int64_t image, int64_t head, int64_t block_begin, int64_t block_end,
             void* workspace) {
  serve(problem, [&](auto shape) {
    forward_head<decltype(shape)::kPack>(problem, image, head, block_begin, block_end, workspace);
  });
}

void backward(const BackwardProblem& problem, int64_t image, int64_t head, int64_t part, void* sums, void* workspace) {
  serve(problem.forward, [&](auto shape) {
    backward_part<decltype(shape)::kPack>(problem, image, head, part, sums, workspace);
  });
}

void backward_finish(const BackwardProblem& problem, int64_t image, int64_t head, int64_t rank_begin, int64_t rank_end,
                     void* sums, void* workspace) {
  serve(problem.forward, [&](auto shape) {
    finish_head<decltype(shape)::kPack>(problem, image, head, rank_begin, rank_end, sums, key_sums(problem.forward),
                                        workspace);
  });
}

// ---- division ----

size_t division_memory(const DivisionProblem& problem) {
  Arena arena(nullptr);
  DivisionBuffers(arena, problem);
  return arena.used();
}

size_t division_workspace(const DivisionProblem& problem) {
  Arena unused(nullptr), arena(nullptr);
  const DivisionBuffers shared(unused, problem);
  serve(problem, [&](auto shape) { DivisionBlock<decltype(shape)>(arena, problem, shared); });
  const size_t row = shared.channels * sizeof(float);
  return arena.used() > row ? arena.used() : row;
}

void pool_template(const DivisionProblem& problem, int64_t image, void* memory, void* workspace) {
  Arena arena(memory);
  const DivisionBuffers shared(arena, problem);
  pool(problem, image, shared.channels, static_cast<float*>(workspace), shared.pooled + image * shared.channels);
  const int64_t padding = shared.hidden - problem.hidden[0];
  memset(shared.context + image * shared.hidden + problem.hidden[0], 0, padding * sizeof(float));
}

void first_layer_of_templates(const DivisionProblem& problem, int64_t begin, int64_t end, void* memory, void* workspace) {
  Arena arena(memory);
  add_context(problem, begin, end, DivisionBuffers(arena, problem), static_cast<float*>(workspace));
}

void divide(const DivisionProblem& problem, int64_t block_begin, int64_t block_end, void* memory, void* workspace) {
  Arena arena(memory), own(workspace);
  const DivisionBuffers shared(arena, problem);
  serve(problem, [&](auto shape) {
    using S = decltype(shape);
    const TileSession<S::kTiled> session;
    const DivisionBlock<S> block(own, problem, shared);
    block.read_weights(problem);
    const int64_t blocks = (problem.search_tokens + kBlock - 1) / kBlock;
    for (int64_t i = block_begin; i < block_end; ++i) {
      const int64_t begin = i % blocks * kBlock;
      const int64_t end = begin + kBlock < problem.search_tokens ? begin + kBlock : problem.search_tokens;
      block.serve(problem, i / blocks, begin, end, shared);
    }
  });
}

}  // namespace

extern const Kernels GRM_CONCATENATE(kernels_, GRM_INSTRUCTION_SET);
const Kernels GRM_CONCATENATE(kernels_, GRM_INSTRUCTION_SET) = {
    GRM_STRINGIZE(GRM_INSTRUCTION_SET),
    runs_here,
    is_fast_here,
    kBlock,
    forward_workspace,
    backward_workspace,
    forward,
    parts_of,
    key_sums,
    backward,
    backward_finish,
    division_memory,
    division_workspace,
    pool_template,
    first_layer_of_templates,
    divide,
};

}  // namespace grm::cpu
