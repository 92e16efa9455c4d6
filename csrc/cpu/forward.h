// Forward pass of one head: streaming softmax over blocks of queries and chunks of keys, both in category order.
#pragma once

#include "head.h"

namespace {

using grm::kNoScore;

template <int kPack>
struct ForwardBuffers {
  HeadBuffers head;
  float* keys;     // [key rows][words]
  float* values;   // [key rows / kPack][channels]: a word holds a channel of kPack neighbouring keys
  float* queries;  // [lanes][words]
  float* panel;    // [words][lanes]: the queries transposed
  float* scores;   // [chunk][lanes]
  float* packed;   // [chunk / 2][lanes]: the probabilities as bfloat16, a word for two neighbouring keys
  float* out;      // [lanes][channels]

  ForwardBuffers(Arena& arena, const ForwardProblem& problem) : head(arena, problem) {
    const Extents e = extents<kPack>(problem);
    keys = arena.take<float>(e.key_rows * e.words);
    values = arena.take<float>(e.key_rows / kPack * e.channels);
    queries = arena.take<float>(kLanes * e.words);
    panel = arena.take<float>(e.words * kLanes);
    scores = arena.take<float>(kChunk * kLanes);
    packed = kPack == 1 ? scores : arena.take<float>(kChunk / 2 * kLanes);
    out = arena.take<float>(kLanes * e.channels);
  }
};

// Running maximum and sum of the softmax of kTileVecs * kWidth queries. Scores are in units of log 2.
struct Softmax {
  Vec maximum[kTileVecs], total[kTileVecs];
};

// Turns the scores of `count` keys into probabilities relative to the running maximum.
// Returns by how much what was summed before has to be scaled (in factor).
template <bool kWeighted>
inline void softmax_chunk(float* scores, int64_t count, const PairWeights& weights, Softmax& state,
                          Vec (&factor)[kTileVecs]) {
  Vec maximum[kTileVecs];
  for (int c = 0; c < kTileVecs; ++c) maximum[c] = state.maximum[c];
  for (int64_t j = 0; j < count; ++j)
#pragma GCC unroll 2
    for (int c = 0; c < kTileVecs; ++c) {
      Vec x = load(scores + j * kLanes + c * kWidth);
      if constexpr (kWeighted) x = weights.at(j, c) <= 0.0f ? broadcast(kNoScore) : x;
      maximum[c] = max(maximum[c], x);
    }
  for (int c = 0; c < kTileVecs; ++c) {
    factor[c] = exp2(state.maximum[c] - maximum[c]);
    state.maximum[c] = maximum[c];
    state.total[c] *= factor[c];
  }
  for (int64_t j = 0; j < count; ++j)
#pragma GCC unroll 2
    for (int c = 0; c < kTileVecs; ++c) {
      float* target = scores + j * kLanes + c * kWidth;
      Vec y = load(target) - maximum[c];
      if constexpr (kWeighted) {
        const Vec m = weights.at(j, c);
        y = m <= 0.0f ? Vec{} : m * exp2(y);
      } else {
        y = exp2(y);
      }
      state.total[c] += y;
      store(target, y);
    }
}

template <int kPack>
void forward_head(const ForwardProblem& problem, int64_t image, int64_t head, int64_t block_begin, int64_t block_end,
                  void* workspace) {
  Arena arena(workspace);
  const ForwardBuffers<kPack> w(arena, problem);
  const Extents e = extents<kPack>(problem);
  const Layout layout = w.head.layout(problem, image);
  gather_keys<kPack>(problem.v, problem, image, head, layout, e, kPack == 1 ? w.values : w.keys);
  if constexpr (kPack == 2) pair_rows(w.keys, layout.key_rows, e, w.values);
  gather_keys<kPack>(problem.k, problem, image, head, layout, e, w.keys);

  for (int64_t block = block_begin; block < block_end; ++block) {
    const int64_t begin = block * kLanes;
    const int64_t end = begin + kLanes < layout.tokens ? begin + kLanes : layout.tokens;
    gather_lanes<kPack>(problem.q, problem, image, head, layout, e, begin, end, w.queries);
    transpose(w.queries, kLanes, e.words, w.panel);

    Softmax state;
    for (int c = 0; c < kTileVecs; ++c) state.maximum[c] = broadcast(kNoScore), state.total[c] = Vec{};
    memset(w.out, 0, kLanes * e.channels * sizeof(float));
    for (int64_t g = 0; g < layout.segment_count; ++g) {
      const Meeting meeting = layout.meeting(g, begin, end);
      if (meeting == Meeting::none) continue;
      for (Chunk chunk = first_chunk(layout.segments[g]); chunk.count > 0; chunk = chunk.next()) {
        product<kPack, Into::overwrite>(w.keys + chunk.key * e.words, e.words, 1, w.panel, kLanes,
                                        problem.channels / kPack, w.scores, kLanes, chunk.padded, kLanes,
                                        problem.scale * kLog2E);
        const PairWeights weights(layout, begin, chunk.rank);
        Vec factor[kTileVecs];
        if (meeting == Meeting::all)
          softmax_chunk<false>(w.scores, chunk.count, weights, state, factor);
        else
          softmax_chunk<true>(w.scores, chunk.count, weights, state, factor);

        alignas(64) float factors[kLanes];
        for (int c = 0; c < kTileVecs; ++c) store(factors + c * kWidth, factor[c]);
        for (int64_t i = 0; i < kLanes; ++i)
          for (int64_t d = 0; d < e.channels; d += kWidth) {
            float* target = w.out + i * e.channels + d;
            store(target, load(target) * factors[i]);
          }
        if constexpr (kPack == 2) pack_key_pairs(w.scores, chunk.padded, w.packed);
        product<kPack, Into::accumulate>(w.packed, 1, kLanes, w.values + chunk.key / kPack * e.channels, e.channels,
                                         chunk.padded / kPack, w.out, e.channels, kLanes, e.channels);
      }
    }

    float* lse = problem.lse + (image * problem.heads + head) * problem.tokens;
    for (int64_t i = 0; i < end - begin; ++i) {
      const int64_t token = layout.order[begin + i];
      const float maximum = state.maximum[i / kWidth][i % kWidth], total = state.total[i / kWidth][i % kWidth];
      write_row(w.out + i * e.channels, 1.0f / total, problem.dtype, problem.channels,
                mutable_row_of(problem.out, problem.dtype, image, head, token));
      lse[token] = maximum / kLog2E + __builtin_logf(total);
    }
  }
}

}  // namespace
