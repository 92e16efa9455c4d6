// One vector register of float32, in the width of the instruction set that this file is compiled for.
// Written with the vector extensions of GCC and Clang; intrinsics only for bfloat16, which they do not know.
// GRM_EMULATE_TILES (tiles.h) has the width of AVX-512 on every machine.
#pragma once

#include <cstdint>
#include <utility>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__) || defined(GRM_EMULATE_TILES)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float Vec __attribute__((vector_size(kWidth * 4), may_alias));
typedef float UnalignedVec __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(kWidth * 4), may_alias));

#define GRM_INLINE static inline __attribute__((always_inline))

GRM_INLINE Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
GRM_INLINE void store(float* p, Vec x) { *reinterpret_cast<UnalignedVec*>(p) = x; }
GRM_INLINE Vec broadcast(float x) { return x - Vec{}; }

// The second argument wins against a NaN in the first, so that a NaN among the scores survives.
GRM_INLINE Vec max(Vec bound, Vec x) { return x < bound ? bound : x; }
GRM_INLINE Vec min(Vec bound, Vec x) { return x > bound ? bound : x; }

GRM_INLINE float sum(Vec x) {
  float total = 0;
  for (int i = 0; i < kWidth; ++i) total += x[i];
  return total;
}

// Whether none of `count` numbers, a multiple of kWidth, is infinite or NaN.
GRM_INLINE bool is_finite(const float* x, int64_t count) {
  Vec even = {}, odd = {};  // 0 times what is not finite is NaN
  for (int64_t i = 0; i < count; i += 2 * kWidth) {
    even += load(x + i) * 0.0f;
    if (i + kWidth < count) odd += load(x + i + kWidth) * 0.0f;
  }
  return sum(even + odd) == 0.0f;
}

// 2^x for x <= 127, relative error 8e-8; arguments below -126 give 2^-126.
GRM_INLINE Vec exp2(Vec x) {
  x = max(broadcast(-126.0f), x);
  const Vec magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
  const Vec shifted = x + magic;
  const Vec f = x - (shifted - magic);  // in [-1/2, 1/2]
  // Minimax polynomial of 2^f for the relative error on that interval.
  Vec y = broadcast(0.000153458124f);
  y = y * f + 0.00133999309f;
  y = y * f + 0.00961848907f;
  y = y * f + 0.0555032864f;
  y = y * f + 0.240226462f;
  y = y * f + 0.693147182f;
  y = y * f + 1.0f;
  // 2^n by its exponent bits; a product, and not a sum of bits, so that a NaN stays one.
  return y * reinterpret_cast<Vec>((reinterpret_cast<Bits>(shifted) << 23) + 0x3f800000u);
}

// A 32-bit word holds one float32 (kPack = 1) or two bfloat16 (kPack = 2); products over words accumulate in float32.
template <int kPack>
GRM_INLINE Vec multiply_add(Vec a, Vec b, Vec c) {
  if constexpr (kPack == 1) {
    return a * b + c;
  } else {
#if defined(__AVX512BF16__)
    return reinterpret_cast<Vec>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(c), reinterpret_cast<__m512bh>(a),
                                                  reinterpret_cast<__m512bh>(b)));
#endif
  }
}

#if defined(__AVX512BF16__)
// Words of (low[i], high[i]), both rounded to bfloat16.
GRM_INLINE Vec pack_lanes(Vec low, Vec high) {
  const __m512i halves = reinterpret_cast<__m512i>(
      _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low)));
  alignas(64) static constexpr uint16_t kInterleave[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                           8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return reinterpret_cast<Vec>(_mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), halves));
}

// Words of (x[2i], x[2i+1]) for the 32 lanes of x = first, second, rounded to bfloat16.
GRM_INLINE Vec pack_neighbours(Vec first, Vec second) {
  return reinterpret_cast<Vec>(
      _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(second), reinterpret_cast<__m512>(first)));
}

// Words (a[i], b[i]) of two rows of 16 bfloat16 each.
GRM_INLINE Vec interleave(const uint16_t* a, const uint16_t* b) {
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)));
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
  return reinterpret_cast<Vec>(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}
#else
// The same three, of kWidth lanes.
GRM_INLINE Bits round_to_bfloat16(Vec x) {
  const Bits bits = reinterpret_cast<Bits>(x);
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return x == x ? rounded : (Bits{} + 0x7fc0u);
}

GRM_INLINE Vec pack_lanes(Vec low, Vec high) {
  return reinterpret_cast<Vec>(round_to_bfloat16(low) | (round_to_bfloat16(high) << 16));
}

GRM_INLINE Vec pack_neighbours(Vec first, Vec second) {
  const Bits a = round_to_bfloat16(first), b = round_to_bfloat16(second);
  Bits words;
  for (int i = 0; i < kWidth; ++i) {
    const Bits& source = i < kWidth / 2 ? a : b;
    const int lane = 2 * i % kWidth;
    words[i] = source[lane] | (source[lane + 1] << 16);
  }
  return reinterpret_cast<Vec>(words);
}

GRM_INLINE Vec interleave(const uint16_t* a, const uint16_t* b) {
  Bits words;
  for (int i = 0; i < kWidth; ++i) words[i] = a[i] | (uint32_t{b[i]} << 16);
  return reinterpret_cast<Vec>(words);
}
#endif

// Transposes kWidth rows of kWidth words in registers: log2(kWidth) rounds, each of which exchanges the off-diagonal
// quarters of ever smaller squares.
template <int kStep, int... kLane>
GRM_INLINE void exchange(Vec& upper, Vec& lower, std::integer_sequence<int, kLane...>) {
  const Vec a = upper, b = lower;
  upper = __builtin_shufflevector(a, b, ((kLane & kStep) ? kWidth + (kLane ^ kStep) : kLane)...);
  lower = __builtin_shufflevector(a, b, ((kLane & kStep) ? kWidth + kLane : (kLane ^ kStep))...);
}

template <int kStep>
GRM_INLINE void transpose_square(Vec (&rows)[kWidth]) {
  if constexpr (kStep > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i)
      if (!(i & kStep)) exchange<kStep>(rows[i], rows[i | kStep], std::make_integer_sequence<int, kWidth>{});
    transpose_square<kStep / 2>(rows);
  }
}

// (rows, columns) words to (columns, rows), both multiples of kWidth; source and target do not overlap.
GRM_INLINE void transpose(const float* source, int64_t rows, int64_t columns, float* target) {
  for (int64_t r = 0; r < rows; r += kWidth)
    for (int64_t c = 0; c < columns; c += kWidth) {
      Vec square[kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) square[i] = load(source + (r + i) * columns + c);
      transpose_square<kWidth / 2>(square);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) store(target + (c + i) * rows + r, square[i]);
    }
}

}  // namespace
