// The category order T | A | S of one image, made by every block for itself: a stable counting sort. In it the tokens
// that a token sees are one range of ranks.
#pragma once

#include "../problem.h"
#include "primitives.cuh"

namespace grm::cuda {

constexpr int kMaxTokens = kWarp * kWarp;  // the sort keeps a word of counts for every 32 tokens, a lane for each

// Ranks of T are [0, t_end), of A [t_end, s_begin), of S [s_begin, tokens). Padding has the ranks behind.
struct Order {
  int t_end, s_begin;
  Shared token_of_rank;  // words; before them stands how many tokens count

  // Read again by whoever asks: the backward pass has no register to keep it in.
  GRM_DEVICE int tokens() const { return shared_load<int32_t>(token_of_rank - 4); }

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
  return {block.begin >= order.s_begin ? order.t_end : 0, block.end <= order.t_end ? order.s_begin : order.tokens()};
}

// Ranks that every rank of `block` sees.
GRM_DEVICE Range seen_by_all(const Order& order, Range block) {
  return {block.end > order.s_begin ? order.t_end : 0, block.begin < order.t_end ? order.s_begin : order.tokens()};
}

// Shared memory of the sort, words: how many tokens count, the order, and counts of every 32 tokens.
GRM_ANYWHERE int order_words(int tokens) { return 1 + tokens + kWarp; }

// How many tokens are T and S, in the halves of a word, and padding.
struct Counts {
  int t_and_s, padding;
};

GRM_DEVICE Counts warp_sum(Counts x) {
  GRM_UNROLL for (int mask = 1; mask < kWarp; mask *= 2) {
    x.t_and_s += shuffle_xor(x.t_and_s, mask);
    x.padding += shuffle_xor(x.padding, mask);
  }
  return x;
}

// All threads of the block take part. `memory` has order_words(tokens) words; `categories` those of the image.
GRM_DEVICE Order sort_tokens(const uint8_t* categories, int tokens, Shared memory) {
  const int lane = lane_index(), warps = thread_count() / kWarp, chunks = (tokens + kWarp - 1) / kWarp;
  const Shared tokens_by_rank = memory + 4, counts = tokens_by_rank + 4 * tokens;
  const auto category_of = [&](int token) -> int {
    return token < tokens ? global_load<uint8_t>(categories + token) : int(kAdaptive);
  };

  GRM_NO_UNROLL for (int chunk = warp_index(); chunk < chunks; chunk += warps) {
    const int category = category_of(chunk * kWarp + lane);
    const int t = count_bits(ballot(category == kTemplate)), s = count_bits(ballot(category == kSearch));
    const int padding = count_bits(ballot(category == kPadding));
    if (lane == 0) shared_store(counts + 4 * chunk, t | s << 8 | padding << 16);  // 32 at the most
  }
  block_barrier();

  const int word = lane < chunks ? shared_load<int32_t>(counts + 4 * lane) : 0;
  const Counts count = {(word & 0xff) | (word >> 8 & 0xff) << 16, word >> 16}, total = warp_sum(count);
  const int counted = tokens - total.padding;
  const Order order = {total.t_and_s & 0xffff, counted - (total.t_and_s >> 16), tokens_by_rank};
  if (thread_index() == 0) shared_store(memory, counted);

  // A token of any other category is A, so that every one has a rank.
  GRM_NO_UNROLL for (int chunk = warp_index(); chunk < chunks; chunk += warps) {
    const Counts before = warp_sum(lane < chunk ? count : Counts{});
    const int token = chunk * kWarp + lane, category = category_of(token);
    const uint32_t lower = (uint32_t{1} << lane) - 1, is_t = ballot(category == kTemplate);
    const uint32_t is_s = ballot(category == kSearch), is_padding = ballot(category == kPadding);
    const int t = (before.t_and_s & 0xffff) + count_bits(is_t & lower);
    const int s = (before.t_and_s >> 16) + count_bits(is_s & lower);
    const int padding = before.padding + count_bits(is_padding & lower);
    const int rank = category == kTemplate  ? t
                     : category == kSearch  ? order.s_begin + s
                     : category == kPadding ? counted + padding
                                            : order.t_end + token - t - s - padding;
    if (token < tokens) shared_store(tokens_by_rank + 4 * rank, token);
  }
  block_barrier();
  return order;
}

}  // namespace grm::cuda
