// The category order T | A | S of one image, as the kernels walk it.
#pragma once

#include "../problem.h"
#include "tiles.h"

namespace {

// How a block of queries is held: kVecs registers, one lane for each query; the scores of a block are held transposed, a
// row for every key. A word holds kPack channels, queries or keys.
template <int kPack_, int kVecs_>
struct Shape {
  static constexpr int kPack = kPack_, kVecs = kVecs_;
  static constexpr int64_t kLanes = kVecs * kWidth;
  static constexpr bool kTiled = kHasTiles && kPack == 2;
};

// Queries are served in blocks of kTileVecs registers; the last one may be narrow.
constexpr int64_t kBlock = kTileVecs * kWidth;

// Keys are laid out segment after segment, every segment padded with zero rows to whole tiles. The padding takes part in
// the products, where its zeros add nothing, but not in the softmax and the sums.
template <int kPack>
constexpr int64_t kKeyPadding = Shape<kPack, kTileVecs>::kTiled ? 2 * kTileEdge : kMinRows;

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Consecutive tokens of the order that share a category (or all tokens).
struct Segment {
  int64_t first_rank, count;
  int64_t first_key, padded;  // where the padded keys begin, and their number
};

enum class Meeting {
  all,      // every pair of a block and a segment is allowed
  none,     // every pair is blocked
  weighted  // pair by pair: M_ij
};

struct Layout {
  int64_t tokens;       // that count; padding has the ranks behind them
  int64_t segment_count, key_rows;
  Segment segments[3];
  Meeting only;         // with the only segment, where there is one
  bool soft;
  bool apart;           // whether the queries of a block have to share their category
  int64_t* order;       // rank -> token
  float *p, *s;         // by rank, padded with zeros to whole blocks: policy columns T and S

  // Which pairs of query ranks [begin, end) and the keys of a segment are allowed. Three segments are T, A, S.
  Meeting meeting(int64_t segment, int64_t begin, int64_t end) const {
    if (segment_count == 1) return only;
    if (segment == 1) return Meeting::all;
    const Segment& opposite = segments[segment == 0 ? 2 : 0];
    const int64_t from = begin > opposite.first_rank ? begin : opposite.first_rank;
    const int64_t opposite_end = opposite.first_rank + opposite.count;
    const int64_t to = end < opposite_end ? end : opposite_end;
    return to <= from ? Meeting::all : to - from == end - begin ? Meeting::none : Meeting::weighted;
  }

  // Where the block of queries ends that begins at a rank and cannot go beyond another one.
  int64_t block_end(int64_t begin, int64_t limit) const {
    int64_t end = begin + kBlock < limit ? begin + kBlock : limit;
    for (int64_t g = 0; apart && g < segment_count; ++g)
      if (begin < segments[g].first_rank && segments[g].first_rank < end) end = segments[g].first_rank;
    return end;
  }

  void take_one_segment(int64_t padding) {
    segment_count = 1;
    key_rows = round_up(tokens, padding);
    segments[0] = {0, tokens, 0, key_rows};
  }
};

// An upper bound of Layout::key_rows.
inline int64_t max_key_rows(int64_t tokens, int64_t padding) { return round_up(tokens, padding) + 2 * padding; }

// With a soft policy the categories, null if there are none, only say what is padding.
inline void order_by_policy(const float* policy, const uint8_t* categories, int64_t tokens, int64_t padding,
                            Layout& layout) {
  const auto counts = [&](int64_t i) { return !categories || categories[i] != grm::kPadding; };
  layout.soft = true;
  layout.only = Meeting::weighted;
  layout.tokens = 0;
  for (int64_t i = 0; i < tokens; ++i) layout.tokens += counts(i);
  layout.take_one_segment(padding);
  int64_t next = 0, behind = layout.tokens;
  for (int64_t i = 0; i < tokens; ++i) {
    const int64_t r = counts(i) ? next++ : behind++;
    layout.order[r] = i;
    layout.p[r] = policy[3 * i];
    layout.s[r] = policy[3 * i + 1];
  }
}

// Stable counting sort. Where there is one block of queries its keys are one segment, and nothing is sorted but padding:
// it has queries of every category that there is, so there would be padding to add and nothing to skip. If categories are
// to be kept `apart`, all are sorted, and no block meets keys that only some of its queries see.
inline void order_by_category(const uint8_t* categories, int64_t tokens, int64_t padding, bool apart, Layout& layout) {
  layout.soft = false;
  layout.apart = apart;
  int64_t count[4] = {};
  const auto rank_of = [](uint8_t category) {
    return category == grm::kTemplate ? 0 : category == grm::kSearch ? 2 : category == grm::kPadding ? 3 : 1;
  };
  for (int64_t i = 0; i < tokens; ++i) ++count[rank_of(categories[i])];
  int64_t next[4], rank = 0, key = 0;
  layout.segment_count = 3;
  for (int g = 0; g < 3; ++g) {
    layout.segments[g] = {rank, count[g], key, round_up(count[g], padding)};
    next[g] = rank;
    rank += count[g];
    key += layout.segments[g].padded;
  }
  layout.key_rows = key;
  layout.tokens = next[3] = rank;
  const bool sorted = apart || tokens > kBlock;
  if (!sorted) {
    layout.take_one_segment(padding);
    layout.only = count[0] > 0 && count[2] > 0 ? Meeting::weighted : Meeting::all;
  }
  int64_t unsorted = 0;
  for (int64_t i = 0; i < tokens; ++i) {
    const int g = rank_of(categories[i]);
    const int64_t r = sorted || g == 3 ? next[g]++ : unsorted++;
    layout.order[r] = i;
    layout.p[r] = g == 0;
    layout.s[r] = g == 2;
  }
}

}  // namespace
