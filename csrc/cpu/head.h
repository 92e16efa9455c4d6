// What the forward and the backward pass of a head share: buffers of the category order, gathering, pair weights.
#pragma once

#include "arena.h"
#include "layout.h"
#include "rows.h"

namespace {

using grm::BackwardProblem;
using grm::ForwardProblem;
using grm::kLog2E;

// Keys of one chunk at the most: its scores stay in the first-level cache.
constexpr int64_t kChunk = 128;

// Sizes of the packed buffers.
struct Extents {
  int64_t channels;  // of a row of float32, padded to whole registers
  int64_t words;     // of a packed row, padded likewise
  int64_t key_rows;
};

template <int kPack>
inline Extents extents(const ForwardProblem& problem) {
  return {round_up(problem.channels, kWidth), round_up(problem.channels / kPack, kWidth), most_key_rows(problem.tokens)};
}

struct HeadBuffers {
  int64_t* order;
  float *p, *s;
  int64_t ranks;

  HeadBuffers(Arena& arena, const ForwardProblem& problem) : ranks(round_up(problem.tokens, kLanes)) {
    order = arena.take<int64_t>(problem.tokens);
    p = arena.take<float>(ranks);
    s = arena.take<float>(ranks);
  }

  Layout layout(const ForwardProblem& problem, int64_t image) const {
    Layout layout = {};
    layout.tokens = problem.tokens;
    layout.order = order;
    layout.p = p;
    layout.s = s;
    memset(p + problem.tokens, 0, (ranks - problem.tokens) * sizeof(float));
    memset(s + problem.tokens, 0, (ranks - problem.tokens) * sizeof(float));
    if (problem.soft_policy)
      order_by_policy(problem.soft_policy + image * problem.tokens * 3, layout);
    else
      order_by_category(problem.categories + image * problem.tokens, layout);
    return layout;
  }
};

// Consecutive keys of one segment.
struct Chunk {
  int64_t key, rank, count, padded;
  int64_t left;  // keys of the segment after this chunk

  Chunk next() const { return make(key + padded, rank + count, left); }

  static Chunk make(int64_t key, int64_t rank, int64_t left) {
    const int64_t count = left < kChunk ? left : kChunk;
    return {key, rank, count, round_up(count, kKeyPadding), left - count};
  }
};

inline Chunk first_chunk(const Segment& segment) {
  return Chunk::make(segment.first_key, segment.first_rank, segment.count);
}

// M_ij = max(0, 1 - p_i s_j - s_i p_j), M_ii = 1, of a block of queries i and the keys j of a chunk. (A soft policy in
// low precision may add up to more than 1.)
struct PairWeights {
  const float *p_query, *s_query, *p_key, *s_key;
  int64_t first_query, first_key;  // ranks

  PairWeights(const Layout& layout, int64_t query_rank, int64_t key_rank)
      : p_query(layout.p + query_rank),
        s_query(layout.s + query_rank),
        p_key(layout.p + key_rank),
        s_key(layout.s + key_rank),
        first_query(query_rank),
        first_key(key_rank) {}

  // Whether key j of the chunk is one of the block's own tokens; its lane then.
  int64_t own_lane(int64_t j) const { return first_key + j - first_query; }
  bool is_own(int64_t j) const { return own_lane(j) >= 0 && own_lane(j) < kLanes; }

  // x with the lane of key j itself replaced; c is the register within the block.
  Vec with_own_lane(Vec x, int64_t j, int c, float value) const {
    if (is_own(j) && own_lane(j) / kWidth == c) x[own_lane(j) % kWidth] = value;
    return x;
  }

  Vec at(int64_t j, int c) const {
    const Vec blocked = load(p_query + c * kWidth) * s_key[j] + load(s_query + c * kWidth) * p_key[j];
    return with_own_lane(max(Vec{}, 1.0f - blocked), j, c, 1.0f);
  }
};

// Rows of the keys' tokens, segment after segment, zero rows between.
template <int kPack>
inline void gather_keys(const Tokens& source, const ForwardProblem& problem, int64_t image, int64_t head,
                        const Layout& layout, const Extents& e, float* target) {
  for (int64_t g = 0; g < layout.segment_count; ++g) {
    const Segment& segment = layout.segments[g];
    float* rows = target + segment.first_key * e.words;
    for (int64_t r = 0; r < segment.count; ++r)
      read_words<kPack>(row_of(source, problem.dtype, image, head, layout.order[segment.first_rank + r]), problem.dtype,
                        problem.channels, e.words, rows + r * e.words);
    memset(rows + segment.count * e.words, 0, (segment.padded() - segment.count) * e.words * sizeof(float));
  }
}

// Rows of the queries' tokens [begin, end), zero rows up to a whole block.
template <int kPack>
inline void gather_lanes(const Tokens& source, const ForwardProblem& problem, int64_t image, int64_t head,
                         const Layout& layout, const Extents& e, int64_t begin, int64_t end, float* target) {
  for (int64_t i = 0; i < end - begin; ++i)
    read_words<kPack>(row_of(source, problem.dtype, image, head, layout.order[begin + i]), problem.dtype,
                      problem.channels, e.words, target + i * e.words);
  memset(target + (end - begin) * e.words, 0, (kLanes - end + begin) * e.words * sizeof(float));
}

// Pairs of neighbouring rows of bfloat16: target[r / 2][d] is the word (rows[r][d], rows[r + 1][d]).
inline void pair_rows(const float* rows, int64_t count, const Extents& e, float* target) {
#if defined(__AVX512BF16__)
  for (int64_t r = 0; r < count; r += 2)
    for (int64_t d = 0; d < e.channels; d += kWidth)
      store(target + r / 2 * e.channels + d,
            interleave(reinterpret_cast<const uint16_t*>(rows + r * e.words) + d,
                       reinterpret_cast<const uint16_t*>(rows + (r + 1) * e.words) + d));
#endif
}

// Rounds scores [rows][lanes] to bfloat16, a word for two neighbouring keys: target[j / 2][i].
inline void pack_key_pairs(const float* scores, int64_t rows, float* target) {
#if defined(__AVX512BF16__)
  for (int64_t j = 0; j < rows; j += 2)
    for (int64_t i = 0; i < kLanes; i += kWidth)
      store(target + j / 2 * kLanes + i, pack_lanes(load(scores + j * kLanes + i), load(scores + (j + 1) * kLanes + i)));
#endif
}

// Rounds scores [rows][lanes] to bfloat16, a word for two neighbouring lanes: target[j][i / 2].
inline void pack_lane_pairs(const float* scores, int64_t rows, float* target) {
#if defined(__AVX512BF16__)
  for (int64_t j = 0; j < rows; ++j)
    for (int64_t i = 0; i < kLanes; i += 2 * kWidth)
      store(target + (j * kLanes + i) / 2,
            pack_neighbours(load(scores + j * kLanes + i), load(scores + j * kLanes + i + kWidth)));
#endif
}

}  // namespace
