// Registers the CPU operator that divides search tokens; its schema is in grm_kernels/division.py.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "../tensors.h"
#include "kernels.h"
#include "workspace.h"

namespace grm {
namespace {

Matrix matrix_of(const Tensor& t) {
  return t.dim() == 3 ? Matrix{t.data_ptr(), t.stride(0), t.stride(1)} : Matrix{t.data_ptr(), 0, t.stride(0)};
}

// The column with the largest logit, the first of several. A NaN counts as the largest.
int64_t largest(const float* logits, int64_t columns) {
  int64_t best = 0;
  for (int64_t c = 1; c < columns; ++c)
    if (!std::isnan(logits[best]) && !(logits[c] <= logits[best])) best = c;
  return best;
}

// By its own logits: of two columns the second where it leads by more than the margin.
void decide(const DivisionProblem& p, const uint8_t* columns, float margin, int64_t image, uint8_t* categories) {
  for (int64_t n = 0; n < p.search_tokens; ++n) {
    const float* const logits = p.logits + (image * p.search_tokens + n) * p.columns;
    const int64_t column = p.columns == 2 ? logits[1] - logits[0] > margin : largest(logits, p.columns);
    categories[n] = columns[column];
  }
}

// By the order of the lead of the second column, largest first, equal ones as they stand; NaN leads.
void decide_by_rank(const DivisionProblem& p, const uint8_t* category_of_rank, int64_t image, uint8_t* categories) {
  std::vector<float> lead(p.search_tokens);
  for (int64_t n = 0; n < p.search_tokens; ++n) {
    const float* const logits = p.logits + (image * p.search_tokens + n) * p.columns;
    lead[n] = logits[1] - logits[0];
  }
  std::vector<int64_t> order(p.search_tokens);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return std::isnan(lead[a]) ? !std::isnan(lead[b]) : lead[a] > lead[b];
  });
  for (int64_t rank = 0; rank < p.search_tokens; ++rank) categories[order[rank]] = category_of_rank[rank];
}

std::tuple<Tensor, Tensor> cpu_divide(Tensor projected, Tensor template_tokens, Tensor first, Tensor first_bias,
                                      Tensor second, Tensor second_bias, Tensor third, Tensor third_bias, Tensor columns,
                                      std::optional<Tensor> category_of_rank, bool average, double margin) {
  for (Tensor* t : {&projected, &template_tokens, &first, &second, &third}) *t = with_adjacent_channels(*t);
  for (Tensor* t : {&first_bias, &second_bias, &third_bias, &columns}) *t = without_gaps(*t);
  category_of_rank = without_gaps(category_of_rank);
  STD_TORCH_CHECK(projected.dim() == 3 && template_tokens.dim() == 3 && second.dim() == 2 && columns.dim() == 1,
                  "grm_kernels: an argument has another number of dimensions than expected");
  const int64_t batch = projected.size(0), search = projected.size(1), channels = template_tokens.size(2);
  const int64_t hidden[2] = {projected.size(2), second.size(0)}, count = columns.size(0);
  const ScalarType dtype = projected.scalar_type();
  const auto check_weight = [&](const Tensor& weight, const Tensor& bias, const char* name, int64_t outputs,
                                int64_t inputs) {
    check(weight, name, {outputs, inputs}, dtype, projected);
    check(bias, name, {outputs}, dtype, projected);
  };
  check(template_tokens, "template", {batch, template_tokens.size(1), channels}, dtype, projected);
  check_weight(first, first_bias, "first", hidden[0], channels);
  check_weight(second, second_bias, "second", hidden[1], hidden[0]);
  check_weight(third, third_bias, "third", count, hidden[1]);
  check(columns, "columns", {count}, ScalarType::Byte, projected);
  if (category_of_rank) check(*category_of_rank, "category_of_rank", {search}, ScalarType::Byte, projected);
  STD_TORCH_CHECK(projected.is_cpu() && count > 1 && template_tokens.size(1) > 0,
                  "grm_kernels: expected tensors on the CPU, two columns and a template");

  const int64_t tokens = template_tokens.size(1) + search;
  const Tensor categories = empty_strided(projected, ScalarType::Byte, {batch, tokens}, {tokens, 1});
  const Tensor logits =
      empty_strided(projected, ScalarType::Float, {batch, search, count}, {search * count, count, 1});
  const DivisionProblem problem = {
      batch, template_tokens.size(1), search, channels, count, {hidden[0], hidden[1]}, dtype_of(projected), average,
      matrix_of(projected), matrix_of(template_tokens), matrix_of(first), matrix_of(second), matrix_of(third),
      matrix_of(first_bias), matrix_of(second_bias), matrix_of(third_bias), static_cast<float*>(logits.data_ptr()),
  };
  const cpu::Kernels& use = cpu::kernels_in_use();
  const Workspace memory(use.division_memory(problem));
  const size_t workspace_bytes = use.division_workspace(problem);
  const auto in_parallel = [&](int64_t count, const auto& serve) {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      const Workspace workspace(workspace_bytes);
      serve(begin, end, workspace.get());
    });
  };
  in_parallel(batch, [&](int64_t begin, int64_t end, void* workspace) {
    for (int64_t i = begin; i < end; ++i) use.pool_template(problem, i, memory.get(), workspace);
  });
  // In steps of 16 outputs, so that threads write into cache lines of their own.
  in_parallel((hidden[0] + 15) / 16, [&](int64_t begin, int64_t end, void* workspace) {
    use.first_layer_of_templates(problem, 16 * begin, std::min(16 * end, hidden[0]), memory.get(), workspace);
  });
  const int64_t blocks = (search + use.query_block - 1) / use.query_block;
  in_parallel(batch * blocks, [&](int64_t begin, int64_t end, void* workspace) {
    use.divide(problem, begin, end, memory.get(), workspace);
  });
  uint8_t* const decided = static_cast<uint8_t*>(categories.data_ptr());
  const auto* const of_columns = static_cast<const uint8_t*>(columns.data_ptr());
  for (int64_t image = 0; image < batch; ++image) {
    uint8_t* const of_template = decided + image * tokens;
    uint8_t* const of_search = std::fill_n(of_template, template_tokens.size(1), kTemplate);
    if (category_of_rank)
      decide_by_rank(problem, static_cast<const uint8_t*>(category_of_rank->data_ptr()), image, of_search);
    else
      decide(problem, of_columns, static_cast<float>(margin), image, of_search);
  }
  return {categories, logits};
}

STABLE_TORCH_LIBRARY_IMPL(grm_kernels, CPU, m) { m.impl("cpu_divide", TORCH_BOX(&cpu_divide)); }

}  // namespace
}  // namespace grm
