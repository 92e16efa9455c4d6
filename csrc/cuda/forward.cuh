// Forward pass: a block keeps the keys and values of a whole head in shared memory, in category order. A warp owns one
// or two tiles of 16 queries at a time, in registers, and walks over the keys that they see.
#pragma once

#include "tiles.cuh"

namespace grm::cuda {

constexpr int kForwardWarps = 8;   // of a multiprocessor, in one block or two: see launch.h
constexpr int kTile = 16;          // queries
constexpr int kForwardKeys = 32;   // that a warp visits at a time
constexpr int kForwardStages = 4;  // parts in which keys and values arrive

struct ForwardLayout {
  int key_rows, values, order, bytes;  // keys begin at 0

  GRM_ANYWHERE ForwardLayout(int tokens, int channels)
      : key_rows((tokens + kForwardKeys - 1) / kForwardKeys * kForwardKeys),
        values(key_rows * channels * 2),
        order(2 * values),
        bytes(order + 4 * order_words(tokens)) {}
};

// What a warp holds of 16 queries: lane 4g + t the rows g and g + 8.
template <int D>
struct Queries {
  int rank;                // of the first row
  uint32_t q[D / 16][4];   // as `a`
  float out[D / 8][4];     // as d, not yet divided by the total
  float maximum[2];        // of the raw scores, the same in the lanes of a quad
  float total[2];          // of this lane's columns
};

// Rows of queries as fragments, their sign changed if `negated`; zeros where there is no such rank.
template <int D>
GRM_DEVICE void load_queries(Queries<D>& x, const Head& head, const Order& order, bool negated) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  const uint32_t sign = negated ? 0x80008000u : 0;
  GRM_UNROLL for (int half = 0; half < 2; ++half) {
    const int rank = x.rank + g + 8 * half;
    const char* row = rank < order.tokens() ? head.row(order.token(rank)) : nullptr;
    GRM_UNROLL for (int part = 0; part < D / 32; ++part) {
      // Every lane reads one of four pieces; fragments have a word of each.
      Words4 piece = {};
      if (row) piece = global_load<Words4>(row + (4 * part + t) * kPiece);
      quad_transpose(piece.word);
      GRM_UNROLL for (int i = 0; i < 4; ++i) x.q[2 * part + i / 2][half + i % 2 * 2] = piece.word[i] ^ sign;
    }
    x.maximum[half] = kNoScore;
    x.total[half] = 0;
  }
  GRM_UNROLL for (int n = 0; n < D / 8; ++n) GRM_UNROLL for (int i = 0; i < 4; ++i) x.out[n][i] = 0;
}

// Scores to exp2 of them less the new maximum, in place; corrects total and out for the new maximum. With kEdge some
// pairs are not allowed.
template <int D, bool kEdge>
GRM_DEVICE void softmax_step(float (&s)[kForwardKeys / 8][4], Queries<D>& x, const Order& order, int key, float scale) {
  constexpr int kColumns = kForwardKeys / 8;
  const int g = lane_index() / 4, t = lane_index() % 4;
  GRM_UNROLL for (int half = 0; half < 2; ++half) {
    const int rank = x.rank + g + 8 * half;
    const Range seen = kEdge ? seen_by_all(order, {rank, rank + 1}) : Range{};
    const auto allowed = [&](int n, int i) {
      const int other = key + 8 * n + 2 * t + i;
      return !kEdge || (other >= seen.begin && other < seen.end);
    };
    float most = x.maximum[half];
    GRM_UNROLL for (int n = 0; n < kColumns; ++n) GRM_UNROLL for (int i = 0; i < 2; ++i) {
      float& score = s[n][2 * half + i];
      if (!allowed(n, i)) score = kNoScore;
      most = maximum(most, score);
    }
    most = quad_maximum(most);
    const float factor = exp2((x.maximum[half] - most) * scale), shift = most * scale;
    x.maximum[half] = most;
    float total = x.total[half] * factor;
    GRM_UNROLL for (int n = 0; n < kColumns; ++n) GRM_UNROLL for (int i = 0; i < 2; ++i) {
      float& score = s[n][2 * half + i];
      const float e = exp2(score * scale - shift);
      score = allowed(n, i) ? e : 0.0f;
      total += score;
    }
    x.total[half] = total;
    GRM_UNROLL for (int n = 0; n < D / 8; ++n) GRM_UNROLL for (int i = 0; i < 2; ++i) x.out[n][2 * half + i] *= factor;
  }
}

// The first kTiles tiles of queries meet the keys [key, key + kForwardKeys).
template <class Element, int D, int kTiles>
GRM_DEVICE void attend(Queries<D> (&x)[2], const Tile<D>& keys, const Tile<D>& values, const Order& order, int key,
                       bool edge, float scale) {
  constexpr int kColumns = kForwardKeys / 8;
  float s[kTiles][kColumns][4] = {};
  GRM_UNROLL for (int n = 0; n < kColumns / 2; ++n) GRM_UNROLL for (int k = 0; k < D / 16; ++k) {
    uint32_t b[4];
    load_b_of_rows(b, keys, key + 16 * n, k);
    GRM_UNROLL for (int m = 0; m < kTiles; ++m) {
      multiply<Element>(s[m][2 * n], x[m].q[k], b[0], b[1]);
      multiply<Element>(s[m][2 * n + 1], x[m].q[k], b[2], b[3]);
    }
  }
  GRM_UNROLL for (int m = 0; m < kTiles; ++m) {
    if (edge)
      softmax_step<D, true>(s[m], x[m], order, key, scale);
    else
      softmax_step<D, false>(s[m], x[m], order, key, scale);
  }
  GRM_UNROLL for (int k = 0; k < kColumns / 2; ++k) {
    // Two neighbouring fragments d of the scores are one fragment a of the probabilities.
    uint32_t p[kTiles][4];
    GRM_UNROLL for (int m = 0; m < kTiles; ++m) GRM_UNROLL for (int i = 0; i < 4; ++i)
        p[m][i] = pack<Element>(s[m][2 * k + i / 2][i % 2 * 2], s[m][2 * k + i / 2][i % 2 * 2 + 1]);
    GRM_UNROLL for (int n = 0; n < D / 16; ++n) {
      uint32_t b[4];
      load_b_of_channels(b, values, key + 16 * k, n);
      GRM_UNROLL for (int m = 0; m < kTiles; ++m) {
        multiply<Element>(x[m].out[2 * n], p[m], b[0], b[1]);
        multiply<Element>(x[m].out[2 * n + 1], p[m], b[2], b[3]);
      }
    }
  }
}

// out and lse of 16 queries.
template <class Element, int D>
GRM_DEVICE void store_queries(Queries<D>& x, const Head& out, float* lse, const Order& order, float scale) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  GRM_UNROLL for (int half = 0; half < 2; ++half) {
    const int rank = x.rank + g + 8 * half;
    const float total = quad_sum(x.total[half]), inverse = 1 / total;
    char* row = nullptr;
    if (rank < order.tokens()) {
      const int token = order.token(rank);
      row = out.row(token);
      if (t == 0) global_store(lse + token, x.maximum[half] * scale * kLn2 + log(total));
    }
    GRM_UNROLL for (int part = 0; part < D / 32; ++part) {
      uint32_t w[4];
      GRM_UNROLL for (int i = 0; i < 4; ++i)
          w[i] = pack<Element>(x.out[4 * part + i][2 * half] * inverse, x.out[4 * part + i][2 * half + 1] * inverse);
      store_pieces(w, [&](int i) { return row ? row + (4 * part + i) * kPiece : nullptr; });
    }
  }
}

GRM_DEVICE void wait_for_stage(int stage) {
  switch (kForwardStages - 1 - stage) {
    case 3: return copy_wait<3>();
    case 2: return copy_wait<2>();
    case 1: return copy_wait<1>();
    default: return copy_wait<0>();
  }
}
static_assert(kForwardStages == 4, "wait_for_stage has a case for each");

// The queries of a head are tiles of 16. Block i serves part i % parts of those of head i / parts.
template <class Element, int D>
GRM_KERNEL(kForwardWarps* kWarp, 1) forward_kernel(const ForwardProblem problem, int parts) {
  // In 32 bits: a division of 64 takes about a hundred instructions.
  const int heads = static_cast<int>(problem.heads), head_index = block_index() / parts;
  const int part = block_index() % parts, image = head_index / heads, head = head_index % heads;
  const int all_tokens = static_cast<int>(problem.tokens);
  const ForwardLayout layout(all_tokens, D);
  const Shared memory = shared_memory();
  const Order order = sort_tokens(problem.categories + int64_t{image} * all_tokens, all_tokens, memory + layout.order);

  const int tokens = order.tokens();
  const int tiles = (tokens + kTile - 1) / kTile, warps = thread_count() / kWarp;
  const int first = tiles * part / parts, last = tiles * (part + 1) / parts;
  float* const lse = problem.lse + int64_t{head_index} * all_tokens;
  const int padding = all_tokens - tokens, padding_begin = tokens + padding * part / parts;
  const int padding_end = tokens + padding * (part + 1) / parts;
  clear_rows<D>(head_of(problem.out, image, head), order, padding_begin, padding_end, thread_count());
  for (int rank = padding_begin + thread_index(); rank < padding_end; rank += thread_count())
    global_store(lse + order.token(rank), kNoLse);
  if (first == last) return;

  const Tile<D> keys = {memory}, values = {memory + layout.values};
  const int shared_head = head / static_cast<int>(problem.group);
  const Head k = head_of(problem.k, image, shared_head), v = head_of(problem.v, image, shared_head);
  const int stage_keys = (layout.key_rows / kForwardKeys + kForwardStages - 1) / kForwardStages * kForwardKeys;
  GRM_NO_UNROLL for (int stage = 0; stage < kForwardStages; ++stage) {
    const Range rows = intersection({stage * stage_keys, (stage + 1) * stage_keys}, {0, layout.key_rows});
    gather_rows<D>({keys, values}, rows.begin, {k, v}, order, rows.begin, rows.end - rows.begin, thread_count());
    copy_commit();
  }

  // The scores' sign goes to the queries, exactly: the maximum can be taken before scaling.
  const bool negated = problem.scale < 0;
  const float scale = (negated ? -problem.scale : problem.scale) * kLog2E;
  // Two tiles for each warp share what is read of keys and values; the last ones are spread over all warps.
  for (int begin = first, taken; begin < last; begin += taken * warps) {
    taken = last - begin > warps ? 2 : 1;
    const int tile = begin + taken * warp_index(), end = tile + taken < last ? tile + taken : last;
    const Range block = {tile * kTile, end * kTile < tokens ? end * kTile : tokens};
    const Range some = tile < last ? seen_by_some(order, block) : Range{0, 0}, all = seen_by_all(order, block);
    Queries<D> x[2];
    GRM_UNROLL for (int m = 0; m < 2; ++m) {
      x[m].rank = tile + m < end ? (tile + m) * kTile : tokens;
      load_queries(x[m], head_of(problem.q, image, head), order, negated);
    }
    GRM_NO_UNROLL for (int stage = 0; stage < kForwardStages; ++stage) {
      if (begin == first) {
        wait_for_stage(stage);
        block_barrier();
      }
      const Range seen = intersection(some, {stage * stage_keys, (stage + 1) * stage_keys});
      GRM_NO_UNROLL for (int key = seen.begin / kForwardKeys * kForwardKeys; key < seen.end; key += kForwardKeys) {
        const bool edge = key < all.begin || key + kForwardKeys > all.end;
        if (taken == 2)
          attend<Element, D, 2>(x, keys, values, order, key, edge, scale);
        else
          attend<Element, D, 1>(x, keys, values, order, key, edge, scale);
      }
    }
    GRM_UNROLL for (int m = 0; m < 2; ++m)
        store_queries<Element>(x[m], head_of(problem.out, image, head), lse, order, scale);
  }
}

}  // namespace grm::cuda
