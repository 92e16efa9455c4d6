// The category order T | A | S of one image, as the kernels walk it.
#pragma once

#include "../problem.h"
#include "product.h"

namespace {

// Queries are served in blocks of this many lanes; the scores of a block are held transposed, a row for every key.
constexpr int64_t kLanes = kTileVecs * kWidth;

// Keys are laid out segment after segment, every segment padded with zero rows to whole tiles. The padding takes part in
// the products, where its zeros add nothing, but not in the softmax and the sums.
constexpr int64_t kKeyPadding = 8;
static_assert(kKeyPadding % kTileRows == 0);

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Consecutive tokens of the order that share a category (with a soft policy: all of them).
struct Segment {
  int64_t first_rank, count;
  int64_t first_key;  // where the padded keys begin
  int64_t padded() const { return round_up(count, kKeyPadding); }
};

enum class Meeting {
  all,      // every pair of a block and a segment is allowed
  none,     // every pair is blocked
  weighted  // pair by pair: M_ij
};

struct Layout {
  int64_t tokens, segment_count, key_rows;
  Segment segments[3];
  bool soft;
  int64_t* order;       // rank -> token
  float *p, *s;         // by rank, padded with zeros to whole blocks: policy columns T and S

  // Which pairs of query ranks [begin, end) and the keys of a segment are allowed. Segments are T, A, S.
  Meeting meeting(int64_t segment, int64_t begin, int64_t end) const {
    if (soft) return Meeting::weighted;
    if (segment == 1) return Meeting::all;
    const Segment& opposite = segments[segment == 0 ? 2 : 0];
    const int64_t from = begin > opposite.first_rank ? begin : opposite.first_rank;
    const int64_t opposite_end = opposite.first_rank + opposite.count;
    const int64_t to = end < opposite_end ? end : opposite_end;
    return to <= from ? Meeting::all : to - from == end - begin ? Meeting::none : Meeting::weighted;
  }
};

// An upper bound of Layout::key_rows.
inline int64_t most_key_rows(int64_t tokens) { return round_up(tokens, kKeyPadding) + 2 * kKeyPadding; }

inline void order_by_policy(const float* policy, Layout& layout) {
  layout.soft = true;
  layout.segment_count = 1;
  layout.segments[0] = {0, layout.tokens, 0};
  layout.key_rows = layout.segments[0].padded();
  for (int64_t i = 0; i < layout.tokens; ++i) {
    layout.order[i] = i;
    layout.p[i] = policy[3 * i];
    layout.s[i] = policy[3 * i + 1];
  }
}

// Stable counting sort.
inline void order_by_category(const uint8_t* categories, Layout& layout) {
  layout.soft = false;
  layout.segment_count = 3;
  int64_t count[3] = {};
  const auto rank_of = [](uint8_t category) { return category == grm::kTemplate ? 0 : category == grm::kSearch ? 2 : 1; };
  for (int64_t i = 0; i < layout.tokens; ++i) ++count[rank_of(categories[i])];
  int64_t next[3], rank = 0, key = 0;
  for (int g = 0; g < 3; ++g) {
    layout.segments[g] = {rank, count[g], key};
    next[g] = rank;
    rank += count[g];
    key += layout.segments[g].padded();
  }
  layout.key_rows = key;
  for (int64_t i = 0; i < layout.tokens; ++i) {
    const int g = rank_of(categories[i]);
    const int64_t r = next[g]++;
    layout.order[r] = i;
    layout.p[r] = g == 0;
    layout.s[r] = g == 2;
  }
}

}  // namespace
