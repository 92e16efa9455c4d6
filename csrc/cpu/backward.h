// Backward pass of one head: the same blocks and chunks, five products for the pairs that are allowed, and for the
// policy two of them (scores and dP) for the pairs that are blocked.
#pragma once

#include "head.h"

namespace {

using grm::kLog2Saturation;

// Of E where 0 < M < 1: E is at most 1 / M, but has to stay finite whatever lse was rounded to.
constexpr float kLargestExponent = 126.0f;

template <int kPack>
struct BackwardBuffers {
  HeadBuffers head;
  // Of all keys.
  float *keys, *values;        // [key rows][words]
  float* key_pairs;            // [key rows / kPack][channels]: a word holds a channel of kPack neighbouring keys
  float *grad_keys, *grad_values;  // [key rows][channels]
  float *sum_t, *sum_s;        // [key rows][kWidth]: sums of dM over T and S queries, one for each lane of a register
  // Of a block of queries.
  float *rows, *grad_rows;     // [lanes][words]: queries and the gradient of the output
  float *panel, *grad_panel;   // [words][lanes]: transposed
  float *pairs, *grad_pairs;   // [lanes / kPack][channels]
  float *grad_queries;         // [lanes][channels]
  float *delta, *lse;          // [lanes]
  float *row_a, *row_b;        // [channels]
  // Of a block and a chunk.
  float *p, *ds;               // [chunk][lanes]
  float *p_lanes, *ds_lanes;   // [chunk][lanes / kPack]: a word holds kPack neighbouring queries
  float* ds_keys;              // [chunk / kPack][lanes]: a word holds kPack neighbouring keys

  BackwardBuffers(Arena& arena, const BackwardProblem& problem) : head(arena, problem.forward) {
    const Extents e = extents<kPack>(problem.forward);
    keys = arena.take<float>(e.key_rows * e.words);
    values = arena.take<float>(e.key_rows * e.words);
    key_pairs = kPack == 1 ? keys : arena.take<float>(e.key_rows / 2 * e.channels);
    grad_keys = arena.take<float>(e.key_rows * e.channels);
    grad_values = arena.take<float>(e.key_rows * e.channels);
    sum_t = arena.take<float>(e.key_rows * kWidth);
    sum_s = arena.take<float>(e.key_rows * kWidth);
    rows = arena.take<float>(kLanes * e.words);
    grad_rows = arena.take<float>(kLanes * e.words);
    panel = arena.take<float>(e.words * kLanes);
    grad_panel = arena.take<float>(e.words * kLanes);
    pairs = kPack == 1 ? rows : arena.take<float>(kLanes / 2 * e.channels);
    grad_pairs = kPack == 1 ? grad_rows : arena.take<float>(kLanes / 2 * e.channels);
    grad_queries = arena.take<float>(kLanes * e.channels);
    delta = arena.take<float>(kLanes);
    lse = arena.take<float>(kLanes);
    row_a = arena.take<float>(e.channels);
    row_b = arena.take<float>(e.channels);
    p = arena.take<float>(kChunk * kLanes);
    ds = arena.take<float>(kChunk * kLanes);
    p_lanes = kPack == 1 ? p : arena.take<float>(kChunk * kLanes / 2);
    ds_lanes = kPack == 1 ? ds : arena.take<float>(kChunk * kLanes / 2);
    ds_keys = kPack == 1 ? ds : arena.take<float>(kChunk / 2 * kLanes);
  }
};

// Sums of dM over keys that are T and S, for the queries of a block.
struct PolicySums {
  Vec t[kTileVecs], s[kTileVecs];
};

// In: p holds the scores (in units of log 2), ds holds dP. Out: P and dS = P (dP - delta) of pairs that are all allowed.
inline void grad_scores(float* p, float* ds, int64_t count, const float* lse, const float* delta) {
  for (int64_t j = 0; j < count; ++j)
#pragma GCC unroll 2
    for (int c = 0; c < kTileVecs; ++c) {
      const int64_t at = j * kLanes + c * kWidth;
      // Of scores above 2^24 lse is so coarse that a probability would come out above 1, even infinite.
      const Vec probability = exp2(min(Vec{}, load(p + at) - load(lse + c * kWidth)));
      store(p + at, probability);
      store(ds + at, probability * (load(ds + at) - load(delta + c * kWidth)));
    }
}

// The same for any pairs, with P = M E and dM = E (dP - delta); sums dM for the policy if asked to.
template <bool kPolicy>
inline void weighted_grad_scores(float* p, float* ds, int64_t count, const float* lse, const float* delta,
                                 const PairWeights& weights, PolicySums& queries, float* key_sum_t, float* key_sum_s) {
  const Vec saturation = broadcast(kLog2Saturation), largest = broadcast(kLargestExponent);
  for (int64_t j = 0; j < count; ++j) {
    Vec over_t = {}, over_s = {};
#pragma GCC unroll 2
    for (int c = 0; c < kTileVecs; ++c) {
      const int64_t at = j * kLanes + c * kWidth;
      const Vec m = weights.at(j, c);
      const Vec exponent = load(p + at) - load(lse + c * kWidth);
      const Vec bound = m >= 1.0f ? Vec{} : m <= 0.0f ? saturation : largest;
      const Vec e = exp2(min(bound, exponent));
      const Vec dm = e * (load(ds + at) - load(delta + c * kWidth));
      store(p + at, m * e);
      store(ds + at, m * dm);
      if constexpr (kPolicy) {
        const Vec other = weights.with_own_lane(dm, j, c, 0.0f);  // M_ii is fixed
        queries.t[c] += other * weights.p_key[j];
        queries.s[c] += other * weights.s_key[j];
        over_t += other * load(weights.p_query + c * kWidth);
        over_s += other * load(weights.s_query + c * kWidth);
      }
    }
    if constexpr (kPolicy) {
      store(key_sum_t + j * kWidth, load(key_sum_t + j * kWidth) + over_t);
      store(key_sum_s + j * kWidth, load(key_sum_s + j * kWidth) + over_s);
    }
  }
}

template <int kPack>
void backward_head(const BackwardProblem& problem, int64_t image, int64_t head, void* workspace) {
  const ForwardProblem& f = problem.forward;
  Arena arena(workspace);
  const BackwardBuffers<kPack> w(arena, problem);
  const Extents e = extents<kPack>(f);
  const Layout layout = w.head.layout(f, image);
  const bool policy = problem.policy_partials != nullptr;
  const int64_t vector = (image * f.heads + head) * f.tokens;  // where the head begins in lse and grad_lse
  float* partials = policy ? problem.policy_partials + 2 * vector : nullptr;

  gather_keys<kPack>(f.k, f, image, head, layout, e, w.keys);
  gather_keys<kPack>(f.v, f, image, head, layout, e, w.values);
  if constexpr (kPack == 2) pair_rows(w.keys, layout.key_rows, e, w.key_pairs);
  memset(w.grad_keys, 0, layout.key_rows * e.channels * sizeof(float));
  memset(w.grad_values, 0, layout.key_rows * e.channels * sizeof(float));
  memset(w.sum_t, 0, layout.key_rows * kWidth * sizeof(float));
  memset(w.sum_s, 0, layout.key_rows * kWidth * sizeof(float));

  for (int64_t begin = 0; begin < layout.tokens; begin += kLanes) {
    const int64_t end = begin + kLanes < layout.tokens ? begin + kLanes : layout.tokens;
    gather_lanes<kPack>(f.q, f, image, head, layout, e, begin, end, w.rows);
    gather_lanes<kPack>(problem.grad_out, f, image, head, layout, e, begin, end, w.grad_rows);
    transpose(w.rows, kLanes, e.words, w.panel);
    transpose(w.grad_rows, kLanes, e.words, w.grad_panel);
    if constexpr (kPack == 2) {
      pair_rows(w.rows, kLanes, e, w.pairs);
      pair_rows(w.grad_rows, kLanes, e, w.grad_pairs);
    }
    memset(w.grad_queries, 0, kLanes * e.channels * sizeof(float));

    // Delta_i = dout_i . out_i - dlse_i. Lanes without a token have zero rows, and so no gradient.
    memset(w.delta, 0, kLanes * sizeof(float));
    memset(w.lse, 0, kLanes * sizeof(float));
    for (int64_t i = 0; i < end - begin; ++i) {
      const int64_t token = layout.order[begin + i];
      read_words<1>(row_of(f.out, f.dtype, image, head, token), f.dtype, f.channels, e.channels, w.row_a);
      read_words<1>(row_of(problem.grad_out, f.dtype, image, head, token), f.dtype, f.channels, e.channels, w.row_b);
      Vec dot = {};
      for (int64_t d = 0; d < e.channels; d += kWidth) dot += load(w.row_a + d) * load(w.row_b + d);
      w.delta[i] = sum(dot) - (problem.grad_lse ? problem.grad_lse[vector + token] : 0.0f);
      w.lse[i] = f.lse[vector + token] * kLog2E;
    }

    PolicySums sums = {};
    for (int64_t g = 0; g < layout.segment_count; ++g) {
      const Meeting meeting = layout.meeting(g, begin, end);
      if (meeting == Meeting::none && !policy) continue;
      for (Chunk chunk = first_chunk(layout.segments[g]); chunk.count > 0; chunk = chunk.next()) {
        const int64_t depth = f.channels / kPack;
        product<kPack, Into::overwrite>(w.keys + chunk.key * e.words, e.words, 1, w.panel, kLanes, depth, w.p, kLanes,
                                        chunk.padded, kLanes, f.scale * kLog2E);
        product<kPack, Into::overwrite>(w.values + chunk.key * e.words, e.words, 1, w.grad_panel, kLanes, depth, w.ds,
                                        kLanes, chunk.padded, kLanes);
        const PairWeights weights(layout, begin, chunk.rank);
        float* key_sum_t = w.sum_t + chunk.key * kWidth;
        float* key_sum_s = w.sum_s + chunk.key * kWidth;
        if (policy)
          weighted_grad_scores<true>(w.p, w.ds, chunk.count, w.lse, w.delta, weights, sums, key_sum_t, key_sum_s);
        else if (meeting == Meeting::weighted)
          weighted_grad_scores<false>(w.p, w.ds, chunk.count, w.lse, w.delta, weights, sums, key_sum_t, key_sum_s);
        else
          grad_scores(w.p, w.ds, chunk.count, w.lse, w.delta);
        if (meeting == Meeting::none) continue;
        if constexpr (kPack == 2) {
          pack_lane_pairs(w.p, chunk.padded, w.p_lanes);
          pack_lane_pairs(w.ds, chunk.padded, w.ds_lanes);
          pack_key_pairs(w.ds, chunk.padded, w.ds_keys);
        }
        product<kPack, Into::accumulate>(w.p_lanes, kLanes / kPack, 1, w.grad_pairs, e.channels, kLanes / kPack,
                                         w.grad_values + chunk.key * e.channels, e.channels, chunk.padded, e.channels);
        product<kPack, Into::accumulate>(w.ds_lanes, kLanes / kPack, 1, w.pairs, e.channels, kLanes / kPack,
                                         w.grad_keys + chunk.key * e.channels, e.channels, chunk.padded, e.channels);
        product<kPack, Into::accumulate>(w.ds_keys, 1, kLanes, w.key_pairs + chunk.key / kPack * e.channels, e.channels,
                                         chunk.padded / kPack, w.grad_queries, e.channels, kLanes, e.channels);
      }
    }

    for (int64_t i = 0; i < end - begin; ++i) {
      const int64_t token = layout.order[begin + i];
      write_row(w.grad_queries + i * e.channels, f.scale, f.dtype, f.channels,
                mutable_row_of(problem.grad_q, f.dtype, image, head, token));
      if (policy) {
        partials[2 * token] = -sums.s[i / kWidth][i % kWidth];
        partials[2 * token + 1] = -sums.t[i / kWidth][i % kWidth];
      }
    }
  }

  for (int64_t g = 0; g < layout.segment_count; ++g) {
    const Segment& segment = layout.segments[g];
    for (int64_t r = 0; r < segment.count; ++r) {
      const int64_t token = layout.order[segment.first_rank + r], key = segment.first_key + r;
      write_row(w.grad_keys + key * e.channels, f.scale, f.dtype, f.channels,
                mutable_row_of(problem.grad_k, f.dtype, image, head, token));
      write_row(w.grad_values + key * e.channels, 1.0f, f.dtype, f.channels,
                mutable_row_of(problem.grad_v, f.dtype, image, head, token));
      if (policy) {
        partials[2 * token] -= sum(load(w.sum_s + key * kWidth));
        partials[2 * token + 1] -= sum(load(w.sum_t + key * kWidth));
      }
    }
  }
}

}  // namespace
