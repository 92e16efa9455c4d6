// Runs the CPU kernels on many problems, in memory that ends where the tensors and the workspaces end, with the pieces of
// each dealt out to threads. The sanitizers that it is compiled with look; results are compared elsewhere. KERNELS names
// the table of one instruction set.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../../csrc/cpu/kernels.h"

namespace grm::cpu {
extern const Kernels KERNELS;
}

namespace {

using grm::DType;

constexpr int kThreads = 3;

std::mt19937 generator(0);

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// Uninitialised, so that the kernels cannot count on zeros.
std::unique_ptr<void, Free> memory(size_t bytes) {
  void* p = nullptr;
  if (posix_memalign(&p, 64, bytes ? bytes : 1)) std::abort();
  memset(p, 0xff, bytes);
  return std::unique_ptr<void, Free>(p);
}

// Calls run(piece, workspace) for every piece, in threads with a workspace each.
template <class Run>
void deal_out(int64_t pieces, size_t bytes, Run run) {
  std::vector<std::thread> threads;
  for (int64_t first = 0; first < kThreads; ++first)
    threads.emplace_back([=] {
      const auto workspace = memory(bytes);
      for (int64_t piece = first; piece < pieces; piece += kThreads) run(piece, workspace.get());
    });
  for (std::thread& thread : threads) thread.join();
}

// Which tokens are nobody.
enum class Padding { some, last, all };

// (B, N, H, D) of which a (B, H, N, D) view is handed out; as long as its last row needs.
struct Tensor {
  std::vector<char> bytes;
  grm::Tokens view;

  Tensor(const grm::ForwardProblem& f, int64_t heads, bool random) {
    const int64_t size = f.dtype == DType::float32 ? 4 : 2, count = f.batch * f.tokens * heads * f.channels;
    bytes.resize(count * size);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; random && i < count; ++i) {
      const float x = normal(generator);
      if (f.dtype == DType::float32) {
        memcpy(&bytes[4 * i], &x, 4);
      } else if (f.dtype == DType::float16) {
        const _Float16 half = static_cast<_Float16>(x);
        memcpy(&bytes[2 * i], &half, 2);
      } else {
        memcpy(&bytes[2 * i], reinterpret_cast<const char*>(&x) + 2, 2);
      }
    }
    view = {bytes.data(), f.tokens * heads * f.channels, f.channels, heads * f.channels};
  }
};

void serve(grm::ForwardProblem f, bool soft, bool policy, Padding padding) {
  const grm::cpu::Kernels& use = grm::cpu::KERNELS;
  const int64_t key_heads = f.heads / f.group;
  Tensor q(f, f.heads, true), k(f, key_heads, true), v(f, key_heads, true), out(f, f.heads, false);
  Tensor grad_out(f, f.heads, true), grad_q(f, f.heads, false), grad_k(f, f.heads, false), grad_v(f, f.heads, false);
  std::vector<float> lse(f.batch * f.heads * f.tokens), grad_lse(lse.size(), 0.5f), partials(2 * lse.size());
  std::vector<uint8_t> categories(f.batch * f.tokens);
  std::vector<float> probabilities(3 * categories.size(), 1 / 3.0f);
  for (size_t i = 0; i < categories.size(); ++i) {
    const bool nobody = padding == Padding::all || (padding == Padding::last && int64_t(i) % f.tokens >= f.tokens / 2);
    categories[i] = nobody ? uint8_t{grm::kPadding} : generator() % 5;
  }
  f.q = q.view, f.k = k.view, f.v = v.view, f.out = out.view, f.lse = lse.data();
  f.soft_policy = soft ? probabilities.data() : nullptr;
  f.categories = soft && f.tokens % 2 && padding == Padding::some ? nullptr : categories.data();
  const grm::BackwardProblem b = {f,           grad_out.view,   grad_q.view,    grad_k.view,
                                  grad_v.view, grad_lse.data(), policy ? partials.data() : nullptr};
  const int64_t heads = f.batch * f.heads, blocks = (f.tokens + use.query_block - 1) / use.query_block;
  deal_out(heads * blocks, use.forward_workspace(f), [&](int64_t piece, void* workspace) {
    const int64_t head = piece / blocks, block = piece % blocks;
    use.forward(f, head / f.heads, head % f.heads, block, block + 1, workspace);
  });
  const int64_t parts = use.backward_parts(f);
  const size_t bytes = use.key_sums(f);
  const auto sums = memory(parts > 1 ? heads * parts * bytes : 0);
  const auto sums_of = [&](int64_t piece) {
    return parts > 1 ? static_cast<char*>(sums.get()) + piece * bytes : nullptr;
  };
  deal_out(heads * parts, use.backward_workspace(b), [&](int64_t piece, void* workspace) {
    const int64_t head = piece / parts;
    use.backward(b, head / f.heads, head % f.heads, piece % parts, sums_of(piece), workspace);
  });
  if (parts == 1) return;
  deal_out(heads * parts, use.backward_workspace(b), [&](int64_t piece, void* workspace) {
    const int64_t head = piece / parts, part = piece % parts;
    use.backward_finish(b, head / f.heads, head % f.heads, f.tokens * part / parts, f.tokens * (part + 1) / parts,
                        sums_of(head * parts), workspace);
  });
}

grm::Matrix random_matrix(DType dtype, int64_t batch, int64_t rows, int64_t columns, std::vector<std::vector<char>>& kept) {
  const int64_t size = dtype == DType::float32 ? 4 : 2, count = batch * rows * columns;
  kept.emplace_back(count * size);
  char* const bytes = kept.back().data();
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < count; ++i) {
    const float x = normal(generator);
    const _Float16 half = static_cast<_Float16>(x);
    if (dtype == DType::float32)
      memcpy(bytes + 4 * i, &x, 4);
    else if (dtype == DType::float16)
      memcpy(bytes + 2 * i, &half, 2);
    else
      memcpy(bytes + 2 * i, reinterpret_cast<const char*>(&x) + 2, 2);
  }
  return {bytes, rows * columns, columns};
}

void divide(DType dtype, int64_t search, int64_t first, int64_t second, bool average) {
  const grm::cpu::Kernels& use = grm::cpu::KERNELS;
  const int64_t batch = 2, templates = 3, channels = first + 5, columns = average ? 2 : 3;
  std::vector<std::vector<char>> kept;
  const auto random = [&](int64_t images, int64_t rows, int64_t width) {
    return random_matrix(dtype, images, rows, width, kept);
  };
  std::vector<float> logits(batch * search * columns);
  const grm::Matrix projected = random(batch, search, first), tokens = random(batch, templates, channels);
  const grm::Matrix weights[3] = {random(1, first, channels), random(1, second, first), random(1, columns, second)};
  const grm::Matrix biases[3] = {random(1, first, 1), random(1, second, 1), random(1, columns, 1)};
  const grm::DivisionProblem p = {
      batch,      templates,  search,     channels,  columns,   {first, second}, dtype,         average, projected, tokens,
      weights[0], weights[1], weights[2], biases[0], biases[1], biases[2],       logits.data(),
  };
  const auto shared = memory(use.division_memory(p));
  const size_t bytes = use.division_workspace(p);
  deal_out(batch, bytes, [&](int64_t image, void* workspace) { use.pool_template(p, image, shared.get(), workspace); });
  deal_out(2, bytes, [&](int64_t half, void* workspace) {
    use.first_layer_of_templates(p, first * half / 2, first * (half + 1) / 2, shared.get(), workspace);
  });
  deal_out(batch * ((search + use.query_block - 1) / use.query_block), bytes, [&](int64_t block, void* workspace) {
    use.divide(p, block, block + 1, shared.get(), workspace);
  });
  for (const float logit : logits)
    if (logit != logit) std::abort();
}

}  // namespace

int main() {
  int served = 0;
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16})
    for (const int64_t tokens : {1, 7, 16, 17, 33, 70, 150})
      for (const int64_t channels : {1, 8, 13, 64, 80})
        for (const bool soft : {false, true}) {
          const bool policy = (tokens + channels) % 2 == 0;
          serve({1, tokens == 70 ? 9 : 1, tokens, channels, 1, dtype, 0.125f}, soft, policy, Padding::some);
          // Heads as images, as categories by head have it; several heads that share their keys.
          serve({2, 1, tokens, channels, 1, dtype, 0.125f}, soft, policy, Padding::last);
          serve({1, 6, tokens, channels, channels % 2 ? 6 : 3, dtype, 0.125f}, soft, policy, Padding::last);
          serve({1, 2, tokens, channels, 2, dtype, 0.125f}, soft, policy, Padding::all);
          served += 4;
        }
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16})
    for (const int64_t search : {1, 40})
      for (const int64_t first : {1, 33, 64, 96})
        for (const int64_t second : {1, 20, 48}) {
          divide(dtype, search, first, second, served % 2 == 0);
          ++served;
        }
  std::printf("%d problems served\n", served);
}
