// Forward pass of one head: streaming softmax over blocks of queries and chunks of keys, both in category order.
#pragma once

#include "head.h"

namespace {

using grm::kNoScore;

template <int kPack>
struct ForwardBuffers {
  HeadBuffers head;
  float* keys;     // [key rows][words]
  float* values;   // [key rows / kPack][channels]: see pair_keys
  float* queries;  // [lanes][words]
  float* panel;    // [words][lanes]: the queries transposed
  float* scores;   // [chunk][lanes]
  float* packed;   // [chunk / 2][lanes]: the probabilities as bfloat16, a word for two neighbouring keys
  float *out, *scratch;  // [lanes][channels]

  ForwardBuffers(Arena& arena, const ForwardProblem& problem) : head(arena, problem) {
    const Extents e = extents<kPack>(problem);
    keys = arena.take<float>(e.key_rows * e.words);
    values = arena.take<float>(e.key_rows / kPack * e.channels);
    queries = arena.take<float>(kBlock * e.words);
    panel = arena.take<float>(e.words * kBlock);
    scores = arena.take<float>(kChunk * kBlock);
    packed = kPack == 1 ? scores : arena.take<float>(kChunk / 2 * kBlock);
    out = arena.take<float>(kBlock * e.channels);
    scratch = Shape<kPack, kTileVecs>::kTiled ? arena.take<float>(kChunk / 2 * e.channels) : out;
  }
};

// Running maximum and sum of the softmax of the queries of a block. Scores are in units of log 2.
template <class S>
struct Softmax {
  Vec maximum[S::kVecs], total[S::kVecs];

  Softmax() {
    for (int c = 0; c < S::kVecs; ++c) maximum[c] = broadcast(kNoScore), total[c] = Vec{};
  }

  // Turns the scores of `count` keys into probabilities relative to the running maximum.
  // Returns by how much what was summed before has to be scaled (in factor).
  template <bool kWeighted>
  void add(float* scores, int64_t count, const PairWeights<S>& weights, Vec (&factor)[S::kVecs]) {
    Vec largest[S::kVecs];
    for (int c = 0; c < S::kVecs; ++c) largest[c] = maximum[c];
    for (int64_t j = 0; j < count; ++j)
#pragma GCC unroll 2
      for (int c = 0; c < S::kVecs; ++c) {
        Vec x = load(scores + j * S::kLanes + c * kWidth);
        if constexpr (kWeighted) x = weights.at(j, c) <= 0.0f ? broadcast(kNoScore) : x;
        largest[c] = max(largest[c], x);
      }
    for (int c = 0; c < S::kVecs; ++c) {
      factor[c] = exp2(maximum[c] - largest[c]);
      maximum[c] = largest[c];
      total[c] *= factor[c];
    }
    for (int64_t j = 0; j < count; ++j)
#pragma GCC unroll 2
      for (int c = 0; c < S::kVecs; ++c) {
        float* target = scores + j * S::kLanes + c * kWidth;
        Vec y = load(target) - largest[c];
        if constexpr (kWeighted) {
          const Vec m = weights.at(j, c);
          y = m <= 0.0f ? Vec{} : m * exp2(y);
        } else {
          y = exp2(y);
        }
        total[c] += y;
        store(target, y);
      }
  }
};

// Serves the queries of ranks [begin, end). Returns whether they may have met what is not finite in keys that they do not
// see: 0 v_j is NaN then.
template <class S>
bool forward_block(const ForwardProblem& problem, int64_t image, int64_t head, int64_t begin, int64_t end,
                   const Layout& layout, const Extents& e, const ForwardBuffers<S::kPack>& w) {
  gather_lanes<S>(problem.q, problem, image, head, layout, e, begin, end, w.queries);
  transpose(w.queries, S::kLanes, e.words, w.panel);

  Softmax<S> state;
  LaneSums<S> out = {end - begin, w.out, w.scratch};
  bool mixed = false;  // whether some keys are seen by some of the queries only
  for (int64_t g = 0; g < layout.segment_count; ++g) {
    const Meeting meeting = layout.meeting(g, begin, end);
    if (meeting == Meeting::none) continue;
    mixed |= meeting == Meeting::weighted && !layout.soft;
    for (Chunk chunk = first_chunk(layout.segments[g]); chunk.count > 0; chunk = chunk.next()) {
      multiply_rows<S, Into::overwrite>(w.keys + chunk.key * e.words, e.words, w.panel, S::kLanes, e.depth, w.scores,
                                        S::kLanes, chunk.padded, S::kLanes, problem.scale * kLog2E);
      const PairWeights<S> weights(layout, begin, chunk.rank);
      Vec factor[S::kVecs];
      if (meeting == Meeting::all)
        state.template add<false>(w.scores, chunk.count, weights, factor);
      else
        state.template add<true>(w.scores, chunk.count, weights, factor);
      out.scale(factor, e);
      pack_key_pairs<S>(w.scores, chunk.padded, w.packed);
      out.add(w.packed, w.values, chunk, e);
    }
  }

  const float* rows = out.rows(e);
  float* lse = problem.lse + (image * problem.heads + head) * problem.tokens;
  for (int64_t i = 0; i < end - begin; ++i) {
    const int64_t token = layout.order[begin + i];
    const float maximum = state.maximum[i / kWidth][i % kWidth], total = state.total[i / kWidth][i % kWidth];
    write_row(rows + i * e.channels, 1.0f / total, problem.dtype, problem.channels,
              mutable_row_of(problem.out, problem.dtype, image, head, token));
    lse[token] = maximum / kLog2E + __builtin_logf(total);
  }
  return mixed && !is_finite(rows, (end - begin) * e.channels);
}

// With categories `apart` no query meets keys that it does not see.
template <int kPack>
void forward_head(const ForwardProblem& problem, int64_t image, int64_t head, int64_t block_begin, int64_t block_end,
                  void* workspace, bool apart = false) {
  using Wide = Shape<kPack, kTileVecs>;
  const TileSession<Wide::kTiled> session;
  Arena arena(workspace);
  const ForwardBuffers<kPack> w(arena, problem);
  const Extents e = extents<kPack>(problem);
  const Layout layout = w.head.layout(problem, image, kKeyPadding<kPack>, apart);
  const int64_t rank_begin = block_begin * kBlock;
  const int64_t rank_end = block_end * kBlock < problem.tokens ? block_end * kBlock : problem.tokens;
  for (int64_t rank = rank_begin > layout.tokens ? rank_begin : layout.tokens; rank < rank_end; ++rank) {
    const int64_t token = layout.order[rank];
    clear_row(problem.dtype, problem.channels, mutable_row_of(problem.out, problem.dtype, image, head, token));
    problem.lse[(image * problem.heads + head) * problem.tokens + token] = grm::kNoLse;
  }
  if (rank_begin >= layout.tokens) return;

  const int64_t key_head = problem.key_head(head);
  gather_keys<kPack>(problem.v, problem, image, key_head, layout, e, kPack == 1 ? w.values : w.keys);
  if constexpr (kPack == 2) pair_keys<Wide>(w.keys, layout, e, w.scratch, w.values);
  gather_keys<kPack>(problem.k, problem, image, key_head, layout, e, w.keys);

  const int64_t limit = rank_end < layout.tokens ? rank_end : layout.tokens;
  for (int64_t begin = rank_begin, end; begin < limit; begin = end) {
    end = layout.block_end(begin, limit);
    const bool narrow = !Wide::kTiled && end - begin <= kWidth;
    const bool spoilt = narrow ? forward_block<Shape<kPack, Wide::kTiled ? kTileVecs : 1>>(problem, image, head, begin, end,
                                                                                         layout, e, w)
                               : forward_block<Wide>(problem, image, head, begin, end, layout, e, w);
    if (spoilt) return forward_head<kPack>(problem, image, head, block_begin, block_end, workspace, true);
  }
}

}  // namespace
