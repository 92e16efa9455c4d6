// What the forward and the backward pass of a head share: buffers of the category order, gathering, pair weights, and
// the sums over keys that a block of queries holds.
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
  int64_t channels;  // of a row of float32, padded with zeros to whole registers
  int64_t words;     // of a packed row, padded likewise
  int64_t depth;     // words of a packed row that a product over channels has to visit
  int64_t key_rows;
};

template <int kPack>
inline Extents extents(const ForwardProblem& problem) {
  const int64_t used = round_up(problem.channels, kPack) / kPack, words = round_up(used, kWidth);
  return {round_up(problem.channels, kWidth), words, Shape<kPack, kTileVecs>::kTiled ? words : used,
          max_key_rows(problem.tokens, kKeyPadding<kPack>)};
}

struct HeadBuffers {
  int64_t* order;
  float *p, *s;
  int64_t ranks;

  // A block that was cut short reads the weights of a whole one.
  HeadBuffers(Arena& arena, const ForwardProblem& problem) : ranks(round_up(problem.tokens, kBlock) + kBlock) {
    order = arena.take<int64_t>(problem.tokens);
    p = arena.take<float>(ranks);
    s = arena.take<float>(ranks);
  }

  Layout layout(const ForwardProblem& problem, int64_t image, int64_t padding, bool apart = false) const {
    Layout layout = {};
    layout.order = order;
    layout.p = p;
    layout.s = s;
    const uint8_t* categories = problem.categories ? problem.categories + image * problem.tokens : nullptr;
    if (problem.soft_policy)
      order_by_policy(problem.soft_policy + image * problem.tokens * 3, categories, problem.tokens, padding, layout);
    else
      order_by_category(categories, problem.tokens, padding, apart, layout);
    memset(p + layout.tokens, 0, (ranks - layout.tokens) * sizeof(float));
    memset(s + layout.tokens, 0, (ranks - layout.tokens) * sizeof(float));
    return layout;
  }
};

// Consecutive keys of one segment.
struct Chunk {
  int64_t key, rank, count, padded;
  int64_t left, padded_left;  // keys of the segment after this chunk

  Chunk next() const { return make(key + padded, rank + count, left, padded_left); }

  static Chunk make(int64_t key, int64_t rank, int64_t left, int64_t padded_left) {
    const int64_t count = left < kChunk ? left : kChunk;
    const int64_t padded = padded_left < kChunk ? padded_left : kChunk;
    return {key, rank, count, padded, left - count, padded_left - padded};
  }
};

inline Chunk first_chunk(const Segment& segment) {
  return Chunk::make(segment.first_key, segment.first_rank, segment.count, segment.padded);
}

// M_ij = max(0, 1 - p_i s_j - s_i p_j), M_ii = 1, of a block of queries i and the keys j of a chunk. (A soft policy in
// low precision may add up to more than 1.)
template <class S>
struct PairWeights {
  const float *p_query, *s_query, *p_key, *s_key;
  int64_t first_query, first_key;  // ranks
  bool soft;

  PairWeights(const Layout& layout, int64_t query_rank, int64_t key_rank)
      : p_query(layout.p + query_rank),
        s_query(layout.s + query_rank),
        p_key(layout.p + key_rank),
        s_key(layout.s + key_rank),
        first_query(query_rank),
        first_key(key_rank),
        soft(layout.soft) {}

  // Whether key j of the chunk is one of the block's own tokens; its lane then.
  int64_t own_lane(int64_t j) const { return first_key + j - first_query; }
  bool is_own(int64_t j) const { return own_lane(j) >= 0 && own_lane(j) < S::kLanes; }

  // x with the lane of key j itself replaced; c is the register within the block.
  Vec with_own_lane(Vec x, int64_t j, int c, float value) const {
    if (is_own(j) && own_lane(j) / kWidth == c) x[own_lane(j) % kWidth] = value;
    return x;
  }

  // No token is T and S, so of categories M_ii is 1 by itself.
  Vec at(int64_t j, int c) const {
    const Vec blocked = load(p_query + c * kWidth) * s_key[j] + load(s_query + c * kWidth) * p_key[j];
    const Vec m = max(Vec{}, 1.0f - blocked);
    return soft ? with_own_lane(m, j, c, 1.0f) : m;
  }
};

// Rows of tokens lie far apart, out of the sight of the processor's own prefetching.
constexpr int64_t kPrefetchDistance = 4;

// Copies the rows of the tokens of ranks [begin, end).
template <int kPack>
inline void gather_rows(const Tokens& source, const ForwardProblem& problem, int64_t image, int64_t head,
                        const Layout& layout, const Extents& e, int64_t begin, int64_t end, float* target) {
  const auto row = [&](int64_t rank) {
    return static_cast<const char*>(row_of(source, problem.dtype, image, head, layout.order[rank]));
  };
  const int64_t bytes = problem.channels * bytes_of(problem.dtype);
  for (int64_t rank = begin; rank < end; ++rank) {
    if (rank + kPrefetchDistance < end)
      for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row(rank + kPrefetchDistance) + at);
    read_words<kPack>(row(rank), problem.dtype, problem.channels, e.words, target + (rank - begin) * e.words);
  }
}

// Rows of the keys' tokens, segment after segment, zero rows between.
template <int kPack>
inline void gather_keys(const Tokens& source, const ForwardProblem& problem, int64_t image, int64_t head,
                        const Layout& layout, const Extents& e, float* target) {
  for (int64_t g = 0; g < layout.segment_count; ++g) {
    const Segment& segment = layout.segments[g];
    float* rows = target + segment.first_key * e.words;
    gather_rows<kPack>(source, problem, image, head, layout, e, segment.first_rank, segment.first_rank + segment.count,
                       rows);
    memset(rows + segment.count * e.words, 0, (segment.padded - segment.count) * e.words * sizeof(float));
  }
}

// Rows of the queries' tokens [begin, end), zero rows up to a whole block.
template <class S>
inline void gather_lanes(const Tokens& source, const ForwardProblem& problem, int64_t image, int64_t head,
                         const Layout& layout, const Extents& e, int64_t begin, int64_t end, float* target) {
  gather_rows<S::kPack>(source, problem, image, head, layout, e, begin, end, target);
  memset(target + (end - begin) * e.words, 0, (S::kLanes - end + begin) * e.words * sizeof(float));
}

// Pairs of neighbouring rows of bfloat16: target[r / 2][d] is the word (rows[r][d], rows[r + 1][d]).
template <class S>
inline void pair_rows(const float* rows, int64_t count, const Extents& e, float* target) {
  if constexpr (S::kPack == 2)
    for (int64_t r = 0; r < count; r += 2)
      for (int64_t d = 0; d < e.channels; d += kWidth)
        store(target + r / 2 * e.channels + d,
              interleave(reinterpret_cast<const uint16_t*>(rows + r * e.words) + d,
                         reinterpret_cast<const uint16_t*>(rows + (r + 1) * e.words) + d));
}

// Rounds scores [rows][lanes] to bfloat16, a word for two neighbouring keys: target[j / 2][i].
template <class S>
inline void pack_key_pairs(const float* scores, int64_t rows, float* target) {
  if constexpr (S::kPack == 2)
    for (int64_t j = 0; j < rows; j += 2)
      for (int64_t i = 0; i < S::kLanes; i += kWidth)
        store(target + j / 2 * S::kLanes + i,
              pack_lanes(load(scores + j * S::kLanes + i), load(scores + (j + 1) * S::kLanes + i)));
}

// Rounds scores [rows][lanes] to bfloat16, a word for two neighbouring lanes: target[j][i / 2].
template <class S>
inline void pack_lane_pairs(const float* scores, int64_t rows, float* target) {
  if constexpr (S::kPack == 2 && S::kVecs == 1) {
    for (int64_t j = 0; j < rows; ++j) {
      const Vec x = load(scores + j * kWidth), words = pack_neighbours(x, x);
      memcpy(target + j * kWidth / 2, &words, sizeof(words) / 2);
    }
  } else if constexpr (S::kPack == 2) {
    for (int64_t j = 0; j < rows; ++j)
      for (int64_t i = 0; i < S::kLanes; i += 2 * kWidth)
        store(target + (j * S::kLanes + i) / 2,
              pack_neighbours(load(scores + j * S::kLanes + i), load(scores + j * S::kLanes + i + kWidth)));
  }
}

// Sums over words of a and b: c (rows x columns) = factor * a b, or c += a b, with a row-major.
template <class S, Into kInto>
inline void multiply_rows(const float* a, int64_t a_row, const float* b, int64_t b_row, int64_t depth, float* c,
                          int64_t c_row, int64_t rows, int64_t columns, float factor = 1.0f) {
  if constexpr (S::kTiled)
    tile_product<kInto>(a, a_row, b, b_row, depth, c, c_row, rows, columns, factor);
  else
    product<S::kPack, kInto>(a, a_row, 1, b, b_row, depth, c, c_row, rows, columns, factor);
}

// Keys or values of all keys as the right side of LaneSums::add.
// A word holds a channel of kPack neighbouring keys: [key rows / kPack][channels]. Matrix units take their left operand
// row by row, so there this side is the left one: of every chunk [channels][keys of the chunk / 2].
template <class S>
inline void pair_keys(const float* rows, const Layout& layout, const Extents& e, float* scratch, float* target) {
  if constexpr (S::kTiled) {
    for (int64_t g = 0; g < layout.segment_count; ++g)
      for (Chunk chunk = first_chunk(layout.segments[g]); chunk.padded > 0; chunk = chunk.next()) {
        pair_rows<S>(rows + chunk.key * e.words, chunk.padded, e, scratch);
        transpose(scratch, chunk.padded / 2, e.channels, target + chunk.key / 2 * e.channels);
      }
  } else {
    pair_rows<S>(rows, layout.key_rows, e, target);
  }
}

// For the queries of a block, of which there are `count`, sums over keys of (packed scores of the pair) x (row of the
// key): [lanes][channels], with matrix units [channels][lanes].
template <class S>
struct LaneSums {
  int64_t count;
  float* sums;
  float* scratch;  // as large
  bool empty = true;

  void add(const float* packed, const float* pairs, const Chunk& chunk, const Extents& e) {
    if (empty)
      multiply<Into::overwrite>(packed, pairs, chunk, e);
    else
      multiply<Into::accumulate>(packed, pairs, chunk, e);
    empty = false;
  }

  void scale(const Vec (&factor)[S::kVecs], const Extents& e) {
    if (empty) return;
    if constexpr (S::kTiled) {
      for (int64_t d = 0; d < e.channels; ++d)
        for (int c = 0; c < S::kVecs; ++c) {
          float* target = sums + d * S::kLanes + c * kWidth;
          store(target, load(target) * factor[c]);
        }
    } else {
      alignas(64) float factors[S::kLanes];
      for (int c = 0; c < S::kVecs; ++c) store(factors + c * kWidth, factor[c]);
      for (int64_t i = 0; i < count; ++i)
        for (int64_t d = 0; d < e.channels; d += kWidth) {
          float* target = sums + i * e.channels + d;
          store(target, load(target) * factors[i]);
        }
    }
  }

  // [count][channels]
  const float* rows(const Extents& e) {
    if constexpr (!S::kTiled) return sums;
    transpose(sums, e.channels, S::kLanes, scratch);
    return scratch;
  }

 private:
  template <Into kInto>
  void multiply(const float* packed, const float* pairs, const Chunk& chunk, const Extents& e) {
    const float* right = pairs + chunk.key / S::kPack * e.channels;
    if constexpr (S::kTiled)
      tile_product<kInto>(right, chunk.padded / 2, packed, S::kLanes, chunk.padded / 2, sums, S::kLanes, e.channels,
                          S::kLanes);
    else
      product<S::kPack, kInto>(packed, 1, S::kLanes, right, e.channels, round_up(chunk.count, S::kPack) / S::kPack, sums,
                               e.channels, round_up(count, kMinRows), e.channels);
  }
};

}  // namespace
