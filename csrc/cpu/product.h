// Register-tiled matrix products on packed words.
#pragma once

#include "vec.h"

namespace {

// A tile is kTileRows x kTileVecs accumulators: with the operands it fills the registers of the instruction set, and has
// more independent chains than the multiply-add units need to stay busy.
#if defined(__AVX512F__)
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 4;
#endif
constexpr int kTileVecs = 2;

// The last tile of a product may have this many rows: half of kTileRows, or all.
constexpr int kMinRows = 4;
static_assert(kTileRows == kMinRows || kTileRows == 2 * kMinRows);

// tile[r][:] += sum_k a(r, k) * b(k, :), with a(r, k) at a[r * a_row + k * a_depth] and b(k, :) at b + k * b_depth.
template <int kPack, int kRows, int kVecs>
GRM_INLINE void multiply(Vec (&tile)[kRows][kVecs], const float* a, int64_t a_row, int64_t a_depth, const float* b,
                         int64_t b_depth, int64_t depth) {
  for (int64_t k = 0; k < depth; ++k) {
    Vec column[kVecs];
#pragma GCC unroll 4
    for (int c = 0; c < kVecs; ++c) column[c] = load(b + c * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec scalar = broadcast(a[r * a_row]);
#pragma GCC unroll 4
      for (int c = 0; c < kVecs; ++c) tile[r][c] = multiply_add<kPack>(scalar, column[c], tile[r][c]);
    }
    a += a_depth;
    b += b_depth;
  }
}

// How a product meets what is in memory.
enum class Into { overwrite, accumulate };

template <int kPack, int kRows, int kVecs, Into kInto>
GRM_INLINE void product_tile(const float* a, int64_t a_row, int64_t a_depth, const float* b, int64_t b_depth,
                             int64_t depth, float* c, int64_t c_row, float factor) {
  Vec tile[kRows][kVecs] = {};
  multiply<kPack>(tile, a, a_row, a_depth, b, b_depth, depth);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      float* target = c + r * c_row + v * kWidth;
      store(target, kInto == Into::overwrite ? tile[r][v] * factor : load(target) + tile[r][v]);
    }
}

template <int kPack, int kVecs, Into kInto>
GRM_INLINE void product_panel(const float* a, int64_t a_row, int64_t a_depth, const float* b, int64_t b_depth,
                              int64_t depth, float* c, int64_t c_row, int64_t rows, float factor) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows)
    product_tile<kPack, kTileRows, kVecs, kInto>(a + r * a_row, a_row, a_depth, b, b_depth, depth, c + r * c_row, c_row,
                                                 factor);
  if (r < rows)
    product_tile<kPack, kMinRows, kVecs, kInto>(a + r * a_row, a_row, a_depth, b, b_depth, depth, c + r * c_row,
                                                  c_row, factor);
}

// c (rows x columns) = factor * a b, or c += a b. rows is a multiple of kMinRows, columns of kWidth.
template <int kPack, Into kInto>
GRM_INLINE void product(const float* a, int64_t a_row, int64_t a_depth, const float* b, int64_t b_depth, int64_t depth,
                        float* c, int64_t c_row, int64_t rows, int64_t columns, float factor = 1.0f) {
  int64_t j = 0;
  for (; j + kTileVecs * kWidth <= columns; j += kTileVecs * kWidth)
    product_panel<kPack, kTileVecs, kInto>(a, a_row, a_depth, b + j, b_depth, depth, c + j, c_row, rows, factor);
  if (j < columns) product_panel<kPack, 1, kInto>(a, a_row, a_depth, b + j, b_depth, depth, c + j, c_row, rows, factor);
}

}  // namespace
