// What the warps of the backward kernel do: see backward.cuh for how they share the work.
#pragma once

#include "tiles.cuh"

namespace grm::cuda {

constexpr int kBackwardWarps = 8, kThreads = kBackwardWarps * kWarp;
constexpr int kGroups = 4;    // of keys
constexpr int kQueries = 32;  // of a tile
constexpr int kChunk = 16;    // keys that are visited, seen or skipped together

constexpr int kPolicyThreads = 128;
constexpr int kGroupChunks = 5;  // of a group, whose dk and dv the registers hold
constexpr int kMaxBackwardTokens = kGroups * kGroupChunks * kChunk;  // 320

// Shared memory, made for the most tokens: every place is a constant.
template <int D>
struct BackwardLayout {
  static constexpr int kRows = kMaxBackwardTokens;
  static constexpr int kTileBytes = kQueries * D * 2;
  // A query's P or dS: an odd number of pieces, so that eight rows begin in different banks.
  static constexpr int kStride = 2 * kRows + kPiece;

  static constexpr int keys = 0, values = keys + kRows * D * 2;
  static constexpr int queries = values + kRows * D * 2;  // two tiles: one is used while the other arrives
  static constexpr int grads = queries + 2 * kTileBytes;
  static constexpr int p = grads + 2 * kTileBytes, ds = p + kQueries * kStride;
  // Two words of every rank: lse in units of log 2 and Delta; once its tile was visited, the sums of dM over keys in T
  // and in S.
  static constexpr int ranks = ds + kQueries * kStride;
  static constexpr int row_parts = ranks + 8 * kRows;                  // those sums of a tile, by group of keys
  static constexpr int key_sums = row_parts + kGroups * kQueries * 8;  // over queries in T and in S, by half of them
  static constexpr int order = key_sums + 2 * 8 * kRows;
  static constexpr int bytes = order + 4 * order_words(kRows);
  static_assert(kStride / kPiece % 2 == 1 && kRows % kQueries == 0, "see above");
};

// lse and Delta_i = dout_i . out_i - dlse_i of every rank, zeros beyond the last. A row is read by D / 8 lanes.
template <class Element, int D>
GRM_DEVICE void compute_delta(const BackwardProblem& problem, const Order& order, int64_t image, int64_t head,
                              Shared ranks, int rows) {
  constexpr int kLanesOfRow = D / 8;
  const Head out = head_of(problem.forward.out, image, head), grad_out = head_of(problem.grad_out, image, head);
  const int64_t vector = (image * problem.forward.heads + head) * problem.forward.tokens;
  const int index = thread_index() % kLanesOfRow;
  GRM_NO_UNROLL for (int first = 0; first < rows; first += kThreads / kLanesOfRow) {
    const int rank = first + thread_index() / kLanesOfRow;
    const bool exists = rank < order.tokens();
    const int token = exists ? order.token(rank) : 0;
    float sum = 0;
    if (exists) {
      const Words4 a = global_load<Words4>(out.row(token) + index * kPiece);
      const Words4 b = global_load<Words4>(grad_out.row(token) + index * kPiece);
      GRM_UNROLL for (int i = 0; i < 4; ++i) {
        float a_low, a_high, b_low, b_high;
        unpack<Element>(a.word[i], a_low, a_high);
        unpack<Element>(b.word[i], b_low, b_high);
        sum += a_low * b_low + a_high * b_high;
      }
    }
    GRM_UNROLL for (int mask = 1; mask < kLanesOfRow; mask *= 2) sum += shuffle_xor(sum, mask);
    if (index == 0 && rank < rows) {
      const float row_lse = exists ? global_load<float>(problem.forward.lse + vector + token) : 0.0f;
      const bool given = exists && problem.grad_lse;
      const float row_grad_lse = given ? global_load<float>(problem.grad_lse + vector + token) : 0.0f;
      shared_store(ranks + 8 * rank, row_lse * kLog2E);
      shared_store(ranks + 8 * rank + 4, sum - row_grad_lse);
    }
  }
}

// Where step 1 of a warp reads and writes: P and dS of its first query, the sums of its half of the queries.
template <int D>
struct Places {
  Tile<D> keys, values, grads;
  Shared p, ds, key_sums;
};

// What lane 4g + t of a warp knows of its 16 queries, rows g and g + 8 of the fragments, in step 1. dout would be 16
// registers more, which there are not: it is read again for every chunk of keys.
template <int D>
struct QueryRows {
  int row, rank;  // of the first query: in the tile, and in the order
  uint32_t q[D / 16][4];
  float lse[2], delta[2];
  float sum_t[2], sum_s[2];  // of dM over the keys of T and of S
};

// Sums x[i] over the lanes 4g + t of one t; the result for i = g / 2. Every round halves what a lane holds.
GRM_DEVICE float sum_over_rows(const float (&x)[4]) {
  const bool upper16 = lane_index() & 16, upper8 = lane_index() & 8;
  const float a = (upper16 ? x[2] : x[0]) + shuffle_xor(upper16 ? x[0] : x[2], 16);
  const float b = (upper16 ? x[3] : x[1]) + shuffle_xor(upper16 ? x[1] : x[3], 16);
  const float c = (upper8 ? b : a) + shuffle_xor(upper8 ? a : b, 8);
  return c + shuffle_xor(c, 4);
}

// Adds what 16 queries give to the policy's sums: dm are dM of the chunk of keys from `key` on, as fragments.
template <int D>
GRM_DEVICE void add_policy_sums(const float (&dm)[2][4], QueryRows<D>& x, const Order& order, int key,
                                Shared key_sums) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  const Range keys = {key, key + kChunk}, queries = {x.rank, x.rank + 16};
  const Range in_t = {0, order.t_end}, in_s = {order.s_begin, kMaxTokens};
  const auto meet = [](Range a, Range b) { return a.begin < b.end && b.begin < a.end; };
  const auto within = [](int rank, Range r) { return rank >= r.begin && rank < r.end; };
  // M_ii is fixed, and ranks beyond the last have no part. Elsewhere every dM counts.
  const bool whole = !meet(keys, queries) && keys.end <= order.tokens() && queries.end <= order.tokens();
  const auto counts = [&](int n, int i) {
    const int rank = x.rank + g + i / 2 * 8, other = key + 8 * n + 2 * t + i % 2;
    return whole || (rank != other && rank < order.tokens() && other < order.tokens());
  };
  GRM_UNROLL for (int which = 0; which < 2; ++which) {
    const Range category = which == 0 ? in_t : in_s;
    if (meet(keys, category)) {
      float(&sums)[2] = which == 0 ? x.sum_t : x.sum_s;
      GRM_UNROLL for (int n = 0; n < 2; ++n) GRM_UNROLL for (int i = 0; i < 4; ++i)
          if (counts(n, i) && within(key + 8 * n + 2 * t + i % 2, category)) sums[i / 2] += dm[n][i];
    }
    if (meet(queries, category)) {
      float columns[4];
      GRM_UNROLL for (int n = 0; n < 2; ++n) GRM_UNROLL for (int i = 0; i < 2; ++i) {
        columns[2 * n + i] = 0;
        GRM_UNROLL for (int half = 0; half < 2; ++half)
            if (counts(n, 2 * half + i) && within(x.rank + g + 8 * half, category))
              columns[2 * n + i] += dm[n][2 * half + i];
      }
      const float sum = sum_over_rows(columns);
      const int i = g / 2;
      const Shared address = key_sums + 8 * (key + 8 * (i / 2) + 2 * t + i % 2) + 4 * which;
      if (g % 2 == 0) shared_store(address, shared_load<float>(address) + sum);
    }
  }
}

// Step 1 for a warp's 16 queries and the chunk of keys from `key` on: P and dS to shared memory if some pairs are
// `seen`, masked if it is an `edge`, where not all are; dM to the policy's sums. `scale` is in units of log 2.
template <class Element, int D, bool kPolicy>
GRM_DEVICE void grad_scores(QueryRows<D>& x, const Places<D>& places, const Order& order, int key, float scale,
                            bool seen, bool edge) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  float s[2][4] = {}, dp[2][4] = {};
  GRM_UNROLL for (int k = 0; k < D / 16; ++k) {
    uint32_t b[4];
    load_b_of_rows(b, places.keys, key, k);
    multiply<Element>(s[0], x.q[k], b[0], b[1]);
    multiply<Element>(s[1], x.q[k], b[2], b[3]);
  }
  GRM_UNROLL for (int k = 0; k < D / 16; ++k) {
    uint32_t a[4], b[4];
    load_a(a, places.grads, x.row, k);
    load_b_of_rows(b, places.values, key, k);
    multiply<Element>(dp[0], a, b[0], b[1]);
    multiply<Element>(dp[1], a, b[2], b[3]);
  }
  // Now s becomes E_ij = exp(S_ij - lse_i), and dp first dP_ij - Delta_i, then, times E_ij, dM_ij.
  GRM_UNROLL for (int n = 0; n < 2; ++n) GRM_UNROLL for (int i = 0; i < 4; ++i) {
    const float exponent = s[n][i] * scale - x.lse[i / 2];
    // The exponent of an allowed pair is 0 at most, but for the rounding of lse. With a policy E of allowed pairs is cut
    // below, since those of blocked ones count as well.
    s[n][i] = exp2(minimum_or_nan(exponent, kPolicy ? kLog2Saturation : 0.0f));
    dp[n][i] -= x.delta[i / 2];
  }
  if (seen) {
    GRM_UNROLL for (int half = 0; half < 2; ++half) {
      const int r = g + 8 * half, rank = x.rank + r;
      const Range allowed = seen_by_all(order, {rank, rank + 1});
      GRM_UNROLL for (int n = 0; n < 2; ++n) {
        const int other = key + 8 * n + 2 * t;
        const bool low = !edge || (other >= allowed.begin && other < allowed.end);
        const bool high = !edge || (other + 1 >= allowed.begin && other + 1 < allowed.end);
        float &e = s[n][2 * half], &next = s[n][2 * half + 1];
        if (kPolicy && low) e = minimum_or_nan(e, 1.0f);
        if (kPolicy && high) next = minimum_or_nan(next, 1.0f);
        dp[n][2 * half] *= e;
        dp[n][2 * half + 1] *= next;
        const Shared offset = r * BackwardLayout<D>::kStride + 2 * other;
        shared_store(places.p + offset, pack<Element>(low ? e : 0, high ? next : 0));
        shared_store(places.ds + offset, pack<Element>(low ? dp[n][2 * half] : 0, high ? dp[n][2 * half + 1] : 0));
      }
    }
  } else {
    GRM_UNROLL for (int n = 0; n < 2; ++n) GRM_UNROLL for (int i = 0; i < 4; ++i) dp[n][i] *= s[n][i];
  }
  if (kPolicy) add_policy_sums(dp, x, order, key, places.key_sums);
}

// Fragments d of 16 rows and 8 kColumns columns to rows of global memory, times a factor. row(r) is where fragment row
// r begins, null if nowhere; `channel` the first column there.
template <class Element, int kColumns, class Row>
GRM_DEVICE void store_fragments(const float (&d)[kColumns][4], float factor, int channel, const Row& row) {
  static_assert(kColumns == 2 || kColumns == 4, "two rows or one make four pieces");
  const int g = lane_index() / 4;
  GRM_UNROLL for (int first = 0; first < 2 * kColumns; first += 4) {
    uint32_t w[4];
    GRM_UNROLL for (int i = 0; i < 4; ++i) {
      const int n = (first + i) % kColumns, half = (first + i) / kColumns;
      w[i] = pack<Element>(d[n][2 * half] * factor, d[n][2 * half + 1] * factor);
    }
    store_pieces(w, [&](int i) -> char* {
      const int n = (first + i) % kColumns, half = (first + i) / kColumns;
      char* begin = row(g + 8 * half);
      return begin ? begin + 2 * (channel + 8 * n) : nullptr;
    });
  }
}

}  // namespace grm::cuda
