// The problem as plain data: pointers, sizes, strides. Every kernel takes it; nothing here knows of torch.
#pragma once

#include <cstdint>
#include <limits>

namespace grm {

enum class DType { float32, bfloat16, float16 };

// Value of a category in the category vector; any other counts as kAdaptive. A token of kPadding is nobody: no token sees
// it, its rows of every result are zero, its lse is -infinity.
enum Category : uint8_t { kTemplate = 0, kSearch = 1, kAdaptive = 2, kPadding = 3 };

// Numbers that all kernels share; grm_kernels/constants.py has the same. Exponentials are taken to base 2.
constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// The maximum of no scores: finite, so that the difference of two of them is 0 and not NaN.
constexpr float kNoScore = -1e38f;

// The lse of a token that sees nobody.
constexpr float kNoLse = -std::numeric_limits<float>::infinity();

// exp(S_ij - lse_i) of a blocked pair has no upper bound; in the gradient of the policy it saturates here.
constexpr float kSaturation = 1e6f;
constexpr float kLog2Saturation = 19.9315686f;

// e^x by its series, for the checks below.
constexpr double exponential(double x) {
  double sum = 1, term = 1;
  for (int i = 1; i < 80; ++i) sum += term *= x / i;
  return sum;
}
constexpr bool agrees(double a, double b) { return a - b < 1e-6 * b && b - a < 1e-6 * b; }
static_assert(agrees(exponential(kLn2), 2) && agrees(double{kLog2E} * kLn2, 1));
static_assert(agrees(exponential(double{kLog2Saturation} * kLn2), kSaturation));

// A (batch, head, token, channel) tensor. Strides are in elements; that of the channels is 1.
struct Tokens {
  void* data;
  int64_t batch_stride, head_stride, token_stride;
};

struct ForwardProblem {
  int64_t batch, heads, tokens, channels;
  int64_t group;  // heads of q that share a head of k and v
  DType dtype;    // of q, k, v, out
  float scale;
  Tokens q, k, v, out;
  float* lse;  // (B, H, N)

  // At least one of the two is set; with a soft policy the categories only say what is padding.
  const uint8_t* categories;  // (B, N)
  const float* soft_policy;   // (B, N, 3), columns T, S, A

  // Which head of k and v a head of q meets.
  constexpr int64_t key_head(int64_t head) const { return head / group; }
};

struct BackwardProblem {
  ForwardProblem forward;  // out and lse are inputs here
  Tokens grad_out, grad_q, grad_k, grad_v;  // the latter two for every head of q
  const float* grad_lse;  // (B, H, N); null for zeros

  // (B, H, N, 2): what every head adds to the gradient of columns T and S of the policy; null if none is wanted.
  float* policy_partials;
};

// A (batch, row, column) tensor, or a matrix or vector that all images share. Strides are in elements; that of the columns
// is 1.
struct Matrix {
  const void* data;
  int64_t batch_stride, row_stride;
};

// A module that divides search tokens; see grm_kernels/division.py.
struct DivisionProblem {
  int64_t batch, template_tokens, search_tokens, channels, columns;
  int64_t hidden[2];  // widths of the layers
  DType dtype;        // of all that is read
  bool average;       // pool the template by its mean, not by its maximum

  Matrix projected;           // (B, search tokens, hidden[0]): what the search tokens give the first layer
  Matrix template_tokens_of;  // (B, template tokens, channels)
  Matrix first, second, third;                 // weights (outputs, inputs); of the first layer, those for the template
  Matrix first_bias, second_bias, third_bias;  // (outputs, 1)

  float* logits;  // (B, search tokens, columns)
};

}  // namespace grm
