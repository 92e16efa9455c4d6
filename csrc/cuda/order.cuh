// The category order T | A | S of one image, made by every block for itself: a stable counting sort. In it the tokens
// that a token sees are one range of ranks.
#pragma once

#include "../problem.h"
#include "primitives.cuh"

namespace grm::cuda {

constexpr int kMaxTokens = kWarp * kWarp;  // the sort keeps a word of counts for every 32 tokens, a lane for each

// Ranks of T are [0, t_end), of A [t_end, s_begin), of S [s_begin, tokens).
struct Order {
  int tokens, t_end, s_begin;
  Shared token_of_rank;  // words

  GRM_DEVICE int token(int rank) const { return shared_load<int32_t>(token_of_rank + 4 * rank); }
};

struct Range {
  int begin, end;
};

GRM_DEVICE Range intersection(Range a, Range b) {
  return {a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
}

// Ranks that some rank of `block` sees. "Sees" is symmetric, so this serves queries and keys alike.
GRM_DEVICE Range seen_by_some(const Order& order, Range block) {
  return {block.begin >= order.s_begin ? order.t_end : 0, block.end <= order.t_end ? order.s_begin : order.tokens};
}

// Ranks that every rank of `block` sees.
GRM_DEVICE Range seen_by_all(const Order& order, Range block) {
  return {block.end > order.s_begin ? order.t_end : 0, block.begin < order.t_end ? order.s_begin : order.tokens};
}

// Shared memory of the sort, words: the order, and a count for every 32 tokens.
GRM_ANYWHERE int order_words(int tokens) { return tokens + kWarp; }

// All threads of the block take part. `memory` has order_words(tokens) words; `categories` those of the image.
GRM_DEVICE Order sort_tokens(const uint8_t* categories, int tokens, Shared memory) {
  const int lane = lane_index(), warps = thread_count() / kWarp, chunks = (tokens + kWarp - 1) / kWarp;
  const Shared counts = memory + 4 * tokens;
  // Any value above 1 counts as A, so that every token has a rank.
  const auto category_of = [&](int token) -> int {
    return token < tokens ? global_load<uint8_t>(categories + token) : int(kAdaptive);
  };

  GRM_NO_UNROLL for (int chunk = warp_index(); chunk < chunks; chunk += warps) {
    const int category = category_of(chunk * kWarp + lane);
    const int t = count_bits(ballot(category == kTemplate)), s = count_bits(ballot(category == kSearch));
    if (lane == 0) shared_store(counts + 4 * chunk, t | s << 16);
  }
  block_barrier();

  const int count = lane < chunks ? shared_load<int32_t>(counts + 4 * lane) : 0;
  int total = count;
  GRM_UNROLL for (int mask = 1; mask < kWarp; mask *= 2) total += shuffle_xor(total, mask);
  const Order order = {tokens, total & 0xffff, tokens - (total >> 16), memory};

  GRM_NO_UNROLL for (int chunk = warp_index(); chunk < chunks; chunk += warps) {
    int before = lane < chunk ? count : 0;
    GRM_UNROLL for (int mask = 1; mask < kWarp; mask *= 2) before += shuffle_xor(before, mask);
    const int token = chunk * kWarp + lane, category = category_of(token);
    const uint32_t lower = (uint32_t{1} << lane) - 1, is_t = ballot(category == kTemplate);
    const uint32_t is_s = ballot(category == kSearch);
    const int t = (before & 0xffff) + count_bits(is_t & lower), s = (before >> 16) + count_bits(is_s & lower);
    const int rank = category == kTemplate ? t : category == kSearch ? order.s_begin + s : order.t_end + token - t - s;
    if (token < tokens) shared_store(memory + 4 * rank, token);
  }
  block_barrier();
  return order;
}

}  // namespace grm::cuda
