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

// tile[r][:] += sum_k a(r, k) * b(k, :), with a(r, k) at a[r * a_row + k * a_depth] and b(k, :) at b + k * b_depth.
template <int kPack, int kVecs>
GRM_INLINE void multiply(Vec (&tile)[kTileRows][kVecs], const float* a, int64_t a_row, int64_t a_depth, const float* b,
                         int64_t b_depth, int64_t depth) {
  for (int64_t k = 0; k < depth; ++k) {
    Vec column[kVecs];
#pragma GCC unroll 4
    for (int c = 0; c < kVecs; ++c) column[c] = load(b + c * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
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

template <int kPack, int kVecs, Into kInto>
GRM_INLINE void product_panel(const float* a, int64_t a_row, int64_t a_depth, const float* b, int64_t b_depth,
                              int64_t depth, float* c, int64_t c_row, int64_t rows, float factor) {
  for (int64_t r0 = 0; r0 < rows; r0 += kTileRows) {
    Vec tile[kTileRows][kVecs] = {};
    multiply<kPack, kVecs>(tile, a + r0 * a_row, a_row, a_depth, b, b_depth, depth);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        float* target = c + (r0 + r) * c_row + v * kWidth;
        store(target, kInto == Into::overwrite ? tile[r][v] * factor : load(target) + tile[r][v]);
      }
  }
}

// c (rows x columns) = factor * a b, or c += a b. rows is a multiple of kTileRows, columns of kWidth.
template <int kPack, Into kInto>
GRM_INLINE void product(const float* a, int64_t a_row, int64_t a_depth, const float* b, int64_t b_depth, int64_t depth,
                        float* c, int64_t c_row, int64_t rows, int64_t columns, float factor = 1.0f) {
  int64_t j = 0;
  for (; j + kTileVecs * kWidth <= columns; j += kTileVecs * kWidth)
    product_panel<kPack, kTileVecs, kInto>(a, a_row, a_depth, b + j, b_depth, depth, c + j, c_row, rows, factor);
  if (j < columns) product_panel<kPack, 1, kInto>(a, a_row, a_depth, b + j, b_depth, depth, c + j, c_row, rows, factor);
}

}  // namespace
