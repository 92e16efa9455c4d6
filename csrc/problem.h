// The problem as plain data: pointers, sizes, strides. Every kernel takes it; nothing here knows of torch.
#pragma once

#include <cstdint>

namespace grm {

enum class DType { float32, bfloat16, float16 };

// Value of a category in the category vector.
enum Category : uint8_t { kTemplate = 0, kSearch = 1, kAdaptive = 2 };

// A (batch, head, token, channel) tensor. Strides are in elements; that of the channels is 1.
struct Tokens {
  void* data;
  int64_t batch_stride, head_stride, token_stride;
};

struct ForwardProblem {
  int64_t batch, heads, tokens, channels;
  DType dtype;  // of q, k, v, out
  float scale;
  Tokens q, k, v, out;
  float* lse;  // (B, H, N)

  // Exactly one of the two is set.
  const uint8_t* categories;  // (B, N); a value above 2 counts as A
  const float* soft_policy;   // (B, N, 3), columns T, S, A
};

struct BackwardProblem {
  ForwardProblem forward;  // out and lse are inputs here
  Tokens grad_out, grad_q, grad_k, grad_v;
  const float* grad_lse;  // (B, H, N)

  // (B, H, N, 2): what every head adds to the gradient of columns T and S of the policy; null if none is wanted.
  float* policy_partials;
};

}  // namespace grm
