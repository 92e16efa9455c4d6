// The division of search tokens, from their part of the first layer to the logits (grm_kernels/division.py has the
// equations): what all tokens share, and blocks of tokens.
#pragma once

#include "head.h"

namespace {

using grm::DivisionProblem;
using grm::Matrix;

// GELU(x) = x Phi(x) = max(x, 0) - |x| Phi(-|x|), with Phi(-a) = exp(-a^2 / 2) r(u), u = 1 / (1 + 0.27 a), and r a minimax
// polynomial for the relative error, 3e-8 on [0, 14]. Beyond 14 Phi(-a) is nothing beside 1.
GRM_INLINE Vec gelu(Vec x) {
  const Vec a = min(broadcast(14.0f), x < Vec{} ? -x : x);
  const Vec u = 1.0f / (1.0f + 0.27f * a);
  Vec r = broadcast(0.028915395960211754f);
  r = r * u - 0.1262558549642563f;
  r = r * u + 0.169292613863945f;
  r = r * u - 0.06862234324216843f;
  r = r * u + 0.10740035772323608f;
  r = r * u + 0.07223990559577942f;
  r = r * u + 0.10175926238298416f;
  r = r * u + 0.1075504943728447f;
  r = r * u + 0.10772018134593964f;
  return max(Vec{}, x) - a * (exp2(a * a * (-0.5f * grm::kLog2E)) * (r * u));
}

// What all tokens share.
struct DivisionBuffers {
  int64_t channels, hidden;  // padded with zeros to whole registers

  float* pooled;   // [batch][channels]: of the template
  float* context;  // [batch][hidden]: what the pooled template adds to every token's first layer

  // (A register of packed words holds twice as many channels.)
  DivisionBuffers(Arena& arena, const DivisionProblem& p)
      : channels(round_up(p.channels, kWidth)), hidden(round_up(p.hidden[0], 2 * kWidth)) {
    pooled = arena.take<float>(p.batch * channels);
    context = arena.take<float>(p.batch * hidden);
  }
};

inline const void* row_of(const Matrix& m, DType dtype, int64_t image, int64_t row) {
  return static_cast<const char*>(m.data) + (image * m.batch_stride + row * m.row_stride) * bytes_of(dtype);
}

inline void pool(const DivisionProblem& p, int64_t image, int64_t channels, float* scratch, float* pooled) {
  for (int64_t token = 0; token < p.template_tokens; ++token) {
    float* const row = token == 0 ? pooled : scratch;
    read_words<1>(row_of(p.template_tokens_of, p.dtype, image, token), p.dtype, p.channels, channels, row);
    if (token == 0) continue;
    for (int64_t d = 0; d < channels; d += kWidth) {
      const Vec before = load(pooled + d), x = load(row + d);
      // A NaN stays one.
      store(pooled + d, p.average ? before + x : (x > before) | (x != x) ? x : before);
    }
  }
  if (p.average)
    for (int64_t d = 0; d < channels; d += kWidth) store(pooled + d, load(pooled + d) / float(p.template_tokens));
}

inline float dot(const float* a, const float* b, int64_t count) {
  Vec sums[4] = {};
  int64_t d = 0;
  for (; d + 4 * kWidth <= count; d += 4 * kWidth)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums[i] += load(a + d + i * kWidth) * load(b + d + i * kWidth);
  for (; d < count; d += kWidth) sums[0] += load(a + d) * load(b + d);
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Outputs [begin, end) of the first layer, of the pooled templates.
inline void add_context(const DivisionProblem& p, int64_t begin, int64_t end, const DivisionBuffers& w, float* scratch) {
  for (int64_t o = begin; o < end; ++o) {
    float bias;
    read_words<1>(row_of(p.first, p.dtype, 0, o), p.dtype, p.channels, w.channels, scratch);
    read_words<1>(row_of(p.first_bias, p.dtype, 0, o), p.dtype, 1, 1, &bias);
    for (int64_t b = 0; b < p.batch; ++b)
      w.context[b * w.hidden + o] = dot(scratch, w.pooled + b * w.channels, w.channels) + bias;
  }
}

// A block of tokens is held as queries are: a lane for each, a row of lanes for every channel. So a layer's weights are
// the left side of its product as they lie in memory.
template <class S>
struct DivisionBlock {
  int64_t words, depth, outputs;  // of the second layer's product

  float* rows;      // [lanes][hidden]
  float* panel;     // [words][lanes]: rows transposed, in S::kPack channels a word
  float* weights;   // [outputs][words]: the second layer's, where they cannot be read as they lie
  float* second;    // [outputs][lanes]
  float* bias;      // [hidden[1]]
  float* third;     // [columns][hidden[1]]
  float* logits;    // [columns]: biases

  DivisionBlock(Arena& arena, const DivisionProblem& p, const DivisionBuffers& w)
      : words(w.hidden / S::kPack),
        depth(S::kTiled ? words : round_up(p.hidden[0], S::kPack) / S::kPack),
        outputs(round_up(p.hidden[1], S::kTiled ? kTileEdge : kMinRows)) {
    rows = arena.take<float>(S::kLanes * w.hidden);
    panel = arena.take<float>(words * S::kLanes);
    weights = arena.take<float>(fits(p) ? 0 : outputs * words);
    second = arena.take<float>(outputs * S::kLanes);
    bias = arena.take<float>(p.hidden[1]);
    third = arena.take<float>(p.columns * p.hidden[1]);
    logits = arena.take<float>(p.columns);
  }

  // Whether the second layer's weights are words already, whole tiles of them.
  bool fits(const DivisionProblem& p) const {
    return p.dtype == (S::kPack == 2 ? DType::bfloat16 : DType::float32) && outputs == p.hidden[1] &&
           depth * S::kPack == p.hidden[0] && p.second.row_stride % S::kPack == 0 &&
           reinterpret_cast<uintptr_t>(p.second.data) % 4 == 0;
  }

  // The small weights as float32, and the second layer's as words; once for many blocks.
  void read_weights(const DivisionProblem& p) const {
    for (int64_t o = 0; o < outputs && !fits(p); ++o)
      if (o < p.hidden[1])
        read_words<S::kPack>(row_of(p.second, p.dtype, 0, o), p.dtype, p.hidden[0], words, weights + o * words);
      else
        memset(weights + o * words, 0, words * sizeof(float));
    read_words<1>(p.second_bias.data, p.dtype, p.hidden[1], p.hidden[1], bias);
    for (int64_t c = 0; c < p.columns; ++c)
      read_words<1>(row_of(p.third, p.dtype, 0, c), p.dtype, p.hidden[1], p.hidden[1], third + c * p.hidden[1]);
    read_words<1>(p.third_bias.data, p.dtype, p.columns, p.columns, logits);
  }

  // The logits of the search tokens [begin, end) of an image, S::kLanes at the most.
  void serve(const DivisionProblem& p, int64_t image, int64_t begin, int64_t end, const DivisionBuffers& w) const {
    const float* const context = w.context + image * w.hidden;
    memset(rows + (end - begin) * w.hidden, 0, (S::kLanes - end + begin) * w.hidden * sizeof(float));
    for (int64_t i = 0; i < end - begin; ++i) {
      float* const row = rows + i * w.hidden;
      read_words<1>(row_of(p.projected, p.dtype, image, begin + i), p.dtype, p.hidden[0], w.hidden, row);
      for (int64_t d = 0; d < w.hidden; d += kWidth) store(row + d, gelu(load(row + d) + load(context + d)));
    }
    if constexpr (S::kPack == 2)  // in place: a word is written where its channels were read, or before
      for (int64_t d = 0; d < S::kLanes * w.hidden; d += 2 * kWidth)
        store(rows + d / 2, pack_neighbours(load(rows + d), load(rows + d + kWidth)));
    transpose(rows, S::kLanes, words, panel);
    multiply_rows<S, Into::overwrite>(fits(p) ? static_cast<const float*>(p.second.data) : weights,
                                      fits(p) ? p.second.row_stride / S::kPack : words, panel, S::kLanes, depth, second,
                                      S::kLanes, outputs, S::kLanes);
    for (int64_t o = 0; o < p.hidden[1]; ++o)
      for (int c = 0; c < S::kVecs; ++c) {
        float* const lanes = second + o * S::kLanes + c * kWidth;
        store(lanes, gelu(load(lanes) + bias[o]));
      }
    for (int64_t column = 0; column < p.columns; ++column) {
      Vec sums[S::kVecs];
      for (int c = 0; c < S::kVecs; ++c) sums[c] = broadcast(logits[column]);
      for (int64_t o = 0; o < p.hidden[1]; ++o)
        for (int c = 0; c < S::kVecs; ++c)
          sums[c] += load(second + o * S::kLanes + c * kWidth) * third[column * p.hidden[1] + o];
      float* const target = p.logits + (image * p.search_tokens + begin) * p.columns + column;
      for (int64_t i = 0; i < end - begin; ++i) target[i * p.columns] = sums[i / kWidth][i % kWidth];
    }
  }
};

}  // namespace
