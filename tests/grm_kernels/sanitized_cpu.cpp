// Runs the CPU kernels on many problems, in memory that ends where the tensors and the workspaces end. The sanitizers
// that it is compiled with look; results are compared elsewhere. KERNELS names the table of one instruction set.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "../../csrc/cpu/kernels.h"

namespace grm::cpu {
extern const Kernels KERNELS;
}

namespace {

using grm::DType;

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

// (B, N, H, D) of which a (B, H, N, D) view is handed out; as long as its last row needs.
struct Tensor {
  std::vector<char> bytes;
  grm::Tokens view;

  Tensor(const grm::ForwardProblem& f, bool random) {
    const int64_t size = f.dtype == DType::float32 ? 4 : 2, count = f.batch * f.tokens * f.heads * f.channels;
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
    view = {bytes.data(), f.tokens * f.heads * f.channels, f.channels, f.heads * f.channels};
  }
};

void serve(grm::ForwardProblem f, bool soft, bool policy) {
  const grm::cpu::Kernels& use = grm::cpu::KERNELS;
  Tensor q(f, true), k(f, true), v(f, true), out(f, false), grad_out(f, true), grad_q(f, false), grad_k(f, false),
      grad_v(f, false);
  std::vector<float> lse(f.batch * f.heads * f.tokens), grad_lse(lse.size(), 0.5f), partials(2 * lse.size());
  std::vector<uint8_t> categories(f.batch * f.tokens);
  std::vector<float> probabilities(3 * categories.size(), 1 / 3.0f);
  for (uint8_t& c : categories) c = generator() % 4;
  f.q = q.view, f.k = k.view, f.v = v.view, f.out = out.view, f.lse = lse.data();
  f.soft_policy = soft ? probabilities.data() : nullptr;
  f.categories = soft && f.tokens % 2 ? nullptr : categories.data();
  const grm::BackwardProblem b = {f,           grad_out.view,   grad_q.view,    grad_k.view,
                                  grad_v.view, grad_lse.data(), policy ? partials.data() : nullptr};
  const int64_t blocks = (f.tokens + use.query_block - 1) / use.query_block, parts = use.backward_parts(f);
  const size_t bytes = use.key_sums(f);
  for (int64_t image = 0; image < f.batch; ++image)
    for (int64_t head = 0; head < f.heads; ++head) {
      const auto workspace = memory(use.forward_workspace(f));
      use.forward(f, image, head, 0, blocks, workspace.get());
      const auto backward_workspace = memory(use.backward_workspace(b));
      const auto sums = parts > 1 ? memory(parts * bytes) : nullptr;
      for (int64_t part = 0; part < parts; ++part)
        use.backward(b, image, head, part, sums ? static_cast<char*>(sums.get()) + part * bytes : nullptr,
                     backward_workspace.get());
      if (sums) use.backward_finish(b, image, head, 0, f.tokens, sums.get(), backward_workspace.get());
    }
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
  const auto workspace = [&] { return memory(use.division_workspace(p)); };
  for (int64_t image = 0; image < batch; ++image) use.pool_template(p, image, shared.get(), workspace().get());
  use.first_layer_of_templates(p, 0, first / 2, shared.get(), workspace().get());
  use.first_layer_of_templates(p, first / 2, first, shared.get(), workspace().get());
  use.divide(p, 0, batch * ((search + use.query_block - 1) / use.query_block), shared.get(), workspace().get());
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
          grm::ForwardProblem f = {1, tokens == 70 ? 9 : 1, tokens, channels, 1, dtype, 0.125f};
          serve(f, soft, (tokens + channels) % 2 == 0);
          ++served;
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
