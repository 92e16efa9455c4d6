// Backward pass of one head: the same blocks and chunks, five products for the pairs that are allowed, and for the
// policy two of them (scores and dP) for the pairs that are blocked.
#pragma once

#include "head.h"

namespace {

using grm::kLog2Saturation;

// Of E where 0 < M < 1: E is at most 1 / M, but has to stay finite whatever lse was rounded to.
constexpr float kLargestExponent = 126.0f;

// What a part of the queries adds to the gradients of all keys.
struct KeySums {
  float *keys, *values;  // [key rows][channels]
  float *t, *s;          // [key rows]: sums of dM over T and S queries

  KeySums(Arena& arena, const Extents& e) {
    keys = arena.take<float>(e.key_rows * e.channels);
    values = arena.take<float>(e.key_rows * e.channels);
    t = arena.take<float>(e.key_rows);
    s = arena.take<float>(e.key_rows);
  }
};

template <int kPack>
struct BackwardBuffers {
  HeadBuffers head;
  // Of all keys.
  float *keys, *values;        // [key rows][words]
  float* key_pairs;            // [key rows / kPack][channels]: see pair_keys
  float *lanes_t, *lanes_s;    // [key rows][kWidth]: sums of dM over T and S queries, one for each lane of a register
  // Of a block of queries.
  float *rows, *grad_rows;     // [lanes][words]: queries and the gradient of the output
  float *panel, *grad_panel;   // [words][lanes]: transposed
  float *pairs, *grad_pairs;   // [lanes / kPack][channels]
  float *grad_queries, *scratch;  // [lanes][channels]
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
    lanes_t = arena.take<float>(e.key_rows * kWidth);
    lanes_s = arena.take<float>(e.key_rows * kWidth);
    rows = arena.take<float>(kBlock * e.words);
    grad_rows = arena.take<float>(kBlock * e.words);
    panel = arena.take<float>(e.words * kBlock);
    grad_panel = arena.take<float>(e.words * kBlock);
    pairs = kPack == 1 ? rows : arena.take<float>(kBlock / 2 * e.channels);
    grad_pairs = kPack == 1 ? grad_rows : arena.take<float>(kBlock / 2 * e.channels);
    grad_queries = arena.take<float>(kBlock * e.channels);
    scratch = Shape<kPack, kTileVecs>::kTiled ? arena.take<float>(kChunk / 2 * e.channels) : grad_queries;
    delta = arena.take<float>(kBlock);
    lse = arena.take<float>(kBlock);
    row_a = arena.take<float>(e.channels);
    row_b = arena.take<float>(e.channels);
    p = arena.take<float>(kChunk * kBlock);
    ds = arena.take<float>(kChunk * kBlock);
    p_lanes = kPack == 1 ? p : arena.take<float>(kChunk * kBlock / 2);
    ds_lanes = kPack == 1 ? ds : arena.take<float>(kChunk * kBlock / 2);
    ds_keys = kPack == 1 ? ds : arena.take<float>(kChunk / 2 * kBlock);
  }
};

// Sums of dM over keys that are T and S, for the queries of a block.
template <class S>
struct PolicySums {
  Vec t[S::kVecs], s[S::kVecs];
};

// In: p holds the scores (in units of log 2), ds holds dP. Out: P and dS = P (dP - delta) of pairs that are all allowed.
template <class S>
inline void grad_scores(float* p, float* ds, int64_t count, const float* lse, const float* delta) {
  for (int64_t j = 0; j < count; ++j)
#pragma GCC unroll 2
    for (int c = 0; c < S::kVecs; ++c) {
      const int64_t at = j * S::kLanes + c * kWidth;
      // Of scores above 2^24 lse is so coarse that a probability would come out above 1, even infinite.
      const Vec probability = exp2(min(Vec{}, load(p + at) - load(lse + c * kWidth)));
      store(p + at, probability);
      store(ds + at, probability * (load(ds + at) - load(delta + c * kWidth)));
    }
}

// The same for any pairs, with P = M E and dM = E (dP - delta); sums dM for the policy if asked to.
template <class S, bool kPolicy>
inline void weighted_grad_scores(float* p, float* ds, int64_t count, const float* lse, const float* delta,
                                 const PairWeights<S>& weights, PolicySums<S>& queries, float* lanes_t, float* lanes_s) {
  const Vec saturation = broadcast(kLog2Saturation), largest = broadcast(kLargestExponent);
  for (int64_t j = 0; j < count; ++j) {
    Vec over_t = {}, over_s = {};
#pragma GCC unroll 2
    for (int c = 0; c < S::kVecs; ++c) {
      const int64_t at = j * S::kLanes + c * kWidth;
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
      store(lanes_t + j * kWidth, load(lanes_t + j * kWidth) + over_t);
      store(lanes_s + j * kWidth, load(lanes_s + j * kWidth) + over_s);
    }
  }
}

// What a block of queries met.
struct Met {
  bool mixed;   // keys that only some of them see
  bool finite;  // and the gradients of the queries are finite
};

// The queries of ranks [begin, end): their gradients are written, what they give to the keys is added to sums and lanes.
template <class S>
Met backward_block(const BackwardProblem& problem, int64_t image, int64_t head, int64_t begin, int64_t end,
                    const Layout& layout, const Extents& e, const BackwardBuffers<S::kPack>& w, const KeySums& keys) {
  const ForwardProblem& f = problem.forward;
  const int64_t vector = (image * f.heads + head) * f.tokens;  // where the head begins in lse and grad_lse
  float* partials = problem.policy_partials ? problem.policy_partials + 2 * vector : nullptr;

  gather_lanes<S>(f.q, f, image, head, layout, e, begin, end, w.rows);
  gather_lanes<S>(problem.grad_out, f, image, head, layout, e, begin, end, w.grad_rows);
  transpose(w.rows, S::kLanes, e.words, w.panel);
  transpose(w.grad_rows, S::kLanes, e.words, w.grad_panel);
  pair_rows<S>(w.rows, S::kLanes, e, w.pairs);
  pair_rows<S>(w.grad_rows, S::kLanes, e, w.grad_pairs);

  // Delta_i = dout_i . out_i - dlse_i. Lanes without a token have zero rows, and so no gradient.
  memset(w.delta, 0, S::kLanes * sizeof(float));
  memset(w.lse, 0, S::kLanes * sizeof(float));
  for (int64_t i = 0; i < end - begin; ++i) {
    const int64_t token = layout.order[begin + i];
    read_words<1>(row_of(f.out, f.dtype, image, head, token), f.dtype, f.channels, e.channels, w.row_a);
    read_words<1>(row_of(problem.grad_out, f.dtype, image, head, token), f.dtype, f.channels, e.channels, w.row_b);
    Vec dot = {};
    for (int64_t d = 0; d < e.channels; d += kWidth) dot += load(w.row_a + d) * load(w.row_b + d);
    w.delta[i] = sum(dot) - (problem.grad_lse ? problem.grad_lse[vector + token] : 0.0f);
    w.lse[i] = f.lse[vector + token] * kLog2E;
  }

  PolicySums<S> sums = {};
  LaneSums<S> grad_queries = {end - begin, w.grad_queries, w.scratch};
  bool mixed = false;
  for (int64_t g = 0; g < layout.segment_count; ++g) {
    const Meeting meeting = layout.meeting(g, begin, end);
    if (meeting == Meeting::none && !partials) continue;
    mixed |= meeting == Meeting::weighted && !layout.soft;
    for (Chunk chunk = first_chunk(layout.segments[g]); chunk.count > 0; chunk = chunk.next()) {
      multiply_rows<S, Into::overwrite>(w.keys + chunk.key * e.words, e.words, w.panel, S::kLanes, e.depth, w.p,
                                        S::kLanes, chunk.padded, S::kLanes, f.scale * kLog2E);
      multiply_rows<S, Into::overwrite>(w.values + chunk.key * e.words, e.words, w.grad_panel, S::kLanes, e.depth, w.ds,
                                        S::kLanes, chunk.padded, S::kLanes);
      const PairWeights<S> weights(layout, begin, chunk.rank);
      float* lanes_t = w.lanes_t + chunk.key * kWidth;
      float* lanes_s = w.lanes_s + chunk.key * kWidth;
      if (partials)
        weighted_grad_scores<S, true>(w.p, w.ds, chunk.count, w.lse, w.delta, weights, sums, lanes_t, lanes_s);
      else if (meeting == Meeting::weighted)
        weighted_grad_scores<S, false>(w.p, w.ds, chunk.count, w.lse, w.delta, weights, sums, lanes_t, lanes_s);
      else
        grad_scores<S>(w.p, w.ds, chunk.count, w.lse, w.delta);
      if (meeting == Meeting::none) continue;
      pack_lane_pairs<S>(w.p, chunk.padded, w.p_lanes);
      pack_lane_pairs<S>(w.ds, chunk.padded, w.ds_lanes);
      pack_key_pairs<S>(w.ds, chunk.padded, w.ds_keys);
      constexpr int64_t kWords = S::kLanes / S::kPack;
      const int64_t depth = S::kTiled ? kWords : round_up(end - begin, S::kPack) / S::kPack;
      multiply_rows<S, Into::accumulate>(w.p_lanes, kWords, w.grad_pairs, e.channels, depth,
                                         keys.values + chunk.key * e.channels, e.channels, chunk.padded, e.channels);
      multiply_rows<S, Into::accumulate>(w.ds_lanes, kWords, w.pairs, e.channels, depth,
                                         keys.keys + chunk.key * e.channels, e.channels, chunk.padded, e.channels);
      grad_queries.add(w.ds_keys, w.key_pairs, chunk, e);
    }
  }

  const float* rows = grad_queries.rows(e);
  for (int64_t i = 0; i < end - begin; ++i) {
    const int64_t token = layout.order[begin + i];
    write_row(rows + i * e.channels, f.scale, f.dtype, f.channels,
              mutable_row_of(problem.grad_q, f.dtype, image, head, token));
    if (partials) {
      partials[2 * token] = -sums.s[i / kWidth][i % kWidth];
      partials[2 * token + 1] = -sums.t[i / kWidth][i % kWidth];
    }
  }
  return {mixed, !mixed || is_finite(rows, (end - begin) * e.channels)};
}

// Gradients of the keys and values of ranks [begin, end), complete in `sums`; all gradients of the padding among them.
inline void write_keys(const BackwardProblem& problem, int64_t image, int64_t head, int64_t begin, int64_t end,
                       const Layout& layout, const Extents& e, const KeySums& sums) {
  const ForwardProblem& f = problem.forward;
  float* partials = problem.policy_partials;
  if (partials) partials += 2 * (image * f.heads + head) * f.tokens;
  for (int64_t g = 0; g < layout.segment_count; ++g) {
    const Segment& segment = layout.segments[g];
    const int64_t from = begin > segment.first_rank ? begin : segment.first_rank;
    const int64_t to = end < segment.first_rank + segment.count ? end : segment.first_rank + segment.count;
    for (int64_t rank = from; rank < to; ++rank) {
      const int64_t token = layout.order[rank], key = segment.first_key + rank - segment.first_rank;
      write_row(sums.keys + key * e.channels, f.scale, f.dtype, f.channels,
                mutable_row_of(problem.grad_k, f.dtype, image, head, token));
      write_row(sums.values + key * e.channels, 1.0f, f.dtype, f.channels,
                mutable_row_of(problem.grad_v, f.dtype, image, head, token));
      if (partials) {
        partials[2 * token] -= sums.s[key];
        partials[2 * token + 1] -= sums.t[key];
      }
    }
  }
  const Tokens* const all_grads[] = {&problem.grad_q, &problem.grad_k, &problem.grad_v};
  for (int64_t rank = begin > layout.tokens ? begin : layout.tokens; rank < end; ++rank) {
    const int64_t token = layout.order[rank];
    for (const Tokens* grad : all_grads)
      clear_row(f.dtype, f.channels, mutable_row_of(*grad, f.dtype, image, head, token));
    if (partials) partials[2 * token] = partials[2 * token + 1] = 0;
  }
}

// Heads and parts that there should be at the least, enough for the threads of a small machine; and the queries of a part
// at the least, next to which gathering the keys again and adding up is little.
constexpr int64_t kMinPieces = 8, kMinQueries = 128;
// Of as many heads, which would leave threads of a large machine without work, where there are so many queries that a part
// costs next to nothing.
constexpr int64_t kManyPieces = 32, kManyQueries = 512;

// Into how many parts the queries of a head are divided. What they give to the keys is added up in the order of the parts,
// so the number depends on the problem and not on the threads.
inline int64_t parts_of(const ForwardProblem& f) {
  const int64_t heads = f.batch * f.heads;
  if (heads == 0) return 1;
  const bool many = heads >= kMinPieces;
  const int64_t wanted = ((many ? kManyPieces : kMinPieces) + heads - 1) / heads;
  const int64_t most = f.tokens / (many ? kManyQueries : kMinQueries);
  return wanted < most ? wanted : most > 1 ? most : 1;
}

// One part of the queries of a head. The sums for the keys go to `key_sums`, memory for a KeySums; with a single part
// that is null, and the gradients of the keys are written at once. With categories `apart` no query meets keys that it does
// not see, but for the policy's gradient.
template <int kPack>
void backward_part(const BackwardProblem& problem, int64_t image, int64_t head, int64_t part, void* key_sums,
                   void* workspace, bool apart = false) {
  using Wide = Shape<kPack, kTileVecs>;
  const TileSession<Wide::kTiled> session;
  const ForwardProblem& f = problem.forward;
  Arena arena(workspace), outside(key_sums);
  const BackwardBuffers<kPack> w(arena, problem);
  const Extents e = extents<kPack>(f);
  const KeySums sums(key_sums ? outside : arena, e);
  const Layout layout = w.head.layout(f, image, kKeyPadding<kPack>, apart);

  gather_keys<kPack>(f.k, f, image, f.key_head(head), layout, e, w.keys);
  gather_keys<kPack>(f.v, f, image, f.key_head(head), layout, e, w.values);
  if constexpr (kPack == 2) pair_keys<Wide>(w.keys, layout, e, w.scratch, w.key_pairs);
  memset(sums.keys, 0, layout.key_rows * e.channels * sizeof(float));
  memset(sums.values, 0, layout.key_rows * e.channels * sizeof(float));
  memset(w.lanes_t, 0, layout.key_rows * kWidth * sizeof(float));
  memset(w.lanes_s, 0, layout.key_rows * kWidth * sizeof(float));

  const int64_t blocks = round_up(layout.tokens, kBlock) / kBlock, parts = parts_of(f);
  const int64_t part_end = blocks * (part + 1) / parts * kBlock;
  const int64_t limit = part_end < layout.tokens ? part_end : layout.tokens;
  bool mixed = false, finite = true;
  for (int64_t begin = blocks * part / parts * kBlock, end; begin < limit; begin = end) {
    end = layout.block_end(begin, limit);
    const bool narrow = !Wide::kTiled && end - begin <= kWidth;
    const Met block = narrow ? backward_block<Shape<kPack, Wide::kTiled ? kTileVecs : 1>>(problem, image, head, begin, end,
                                                                                        layout, e, w, sums)
                             : backward_block<Wide>(problem, image, head, begin, end, layout, e, w, sums);
    mixed |= block.mixed;
    finite &= block.finite;
  }
  // 0 times what is not finite is NaN: once more, without such products.
  if (mixed) {
    const int64_t count = layout.key_rows * e.channels;
    if (!finite || !is_finite(sums.keys, count) || !is_finite(sums.values, count))
      return backward_part<kPack>(problem, image, head, part, key_sums, workspace, true);
  }
  for (int64_t key = 0; key < layout.key_rows; ++key) {
    sums.t[key] = sum(load(w.lanes_t + key * kWidth));
    sums.s[key] = sum(load(w.lanes_s + key * kWidth));
  }
  if (!key_sums) write_keys(problem, image, head, 0, f.tokens, layout, e, sums);
}

// Adds up what the parts of a head gave to the keys of ranks [begin, end), and writes their gradients. `key_sums` holds
// the parts one after the other, `stride` bytes apart; the sum takes the place of the first.
template <int kPack>
void finish_head(const BackwardProblem& problem, int64_t image, int64_t head, int64_t begin, int64_t end,
                     void* key_sums, size_t stride, void* workspace) {
  const ForwardProblem& f = problem.forward;
  Arena arena(workspace), first(key_sums);
  const HeadBuffers buffers(arena, f);
  const Extents e = extents<kPack>(f);
  const KeySums sums(first, e);
  const Layout layout = buffers.layout(f, image, kKeyPadding<kPack>);
  const auto add = [](float* target, const float* source, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) target[i] += source[i];
  };
  for (int64_t part = 1; part < parts_of(f); ++part) {
    Arena other(static_cast<char*>(key_sums) + part * stride);
    const KeySums more(other, e);
    for (int64_t g = 0; g < layout.segment_count; ++g) {
      const Segment& segment = layout.segments[g];
      int64_t from = begin > segment.first_rank ? begin : segment.first_rank;
      int64_t to = end < segment.first_rank + segment.count ? end : segment.first_rank + segment.count;
      if (to <= from) continue;
      from += segment.first_key - segment.first_rank;
      to += segment.first_key - segment.first_rank;
      add(sums.keys, more.keys, from * e.channels, to * e.channels);
      add(sums.values, more.values, from * e.channels, to * e.channels);
      add(sums.t, more.t, from, to);
      add(sums.s, more.s, from, to);
    }
  }
  write_keys(problem, image, head, begin, end, layout, e, sums);
}

}  // namespace
