// Matrix units: eight registers of 16 x 16 words, and the product of two of them. This is the only file that knows the
// instructions (Intel AMX); GRM_EMULATE_TILES puts plain C++ in their place, so that the kernels that are written for them
// run on every machine. The instructions themselves have been compiled and not yet run.
#pragma once

#include <cstdint>
#include <cstring>

#include "product.h"

#if defined(__AMX_BF16__) && !defined(GRM_EMULATE_TILES)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define GRM_TILES
#elif defined(GRM_EMULATE_TILES)
#define GRM_TILES
#endif

namespace {

#if defined(GRM_TILES)
constexpr bool kHasTiles = true;
#else
constexpr bool kHasTiles = false;
#endif

constexpr int64_t kTileEdge = 16;

// GRM_TILE_MULTIPLY(c, a, b): c[m][n] += sum_k of the products of the bfloat16 pairs a[m][k] and b[k][n], in float32.
// Strides are in words. Registers are numbered by literals, as the intrinsics want them.
#if defined(GRM_EMULATE_TILES)

struct Tiles {
  bool configured;
  float registers[8][kTileEdge][kTileEdge];
};
thread_local Tiles tiles;

// What the instructions answer with a fault when the registers were not configured.
inline float (&tile(int number))[kTileEdge][kTileEdge] {
  if (!tiles.configured) __builtin_trap();
  return tiles.registers[number];
}

inline void emulated_load(int t, const float* source, int64_t stride) {
  for (int64_t r = 0; r < kTileEdge; ++r) memcpy(tile(t)[r], source + r * stride, sizeof(tile(t)[r]));
}

inline void emulated_store(int t, float* target, int64_t stride) {
  for (int64_t r = 0; r < kTileEdge; ++r) memcpy(target + r * stride, tile(t)[r], sizeof(tile(t)[r]));
}

inline void emulated_multiply(int c, int a, int b) {
  // A word's first bfloat16 is its low half, and a bfloat16 is the high half of a float32.
  for (int64_t k = 0; k < kTileEdge; ++k) {
    const Vec column = load(tile(b)[k]);
    const Vec low = reinterpret_cast<Vec>(reinterpret_cast<Bits>(column) << 16);
    const Vec high = reinterpret_cast<Vec>(reinterpret_cast<Bits>(column) & 0xffff0000u);
    for (int64_t m = 0; m < kTileEdge; ++m) {
      uint32_t word;
      memcpy(&word, &tile(a)[m][k], 4);
      const uint32_t halves[2] = {word << 16, word & 0xffff0000u};
      float pair[2];
      memcpy(pair, halves, 8);
      store(tile(c)[m], load(tile(c)[m]) + pair[0] * low + pair[1] * high);
    }
  }
}

#define GRM_TILE_ZERO(t) memset(tile(t), 0, sizeof(tile(t)))
#define GRM_TILE_LOAD(t, source, stride) emulated_load(t, source, stride)
#define GRM_TILE_STORE(t, target, stride) emulated_store(t, target, stride)
#define GRM_TILE_MULTIPLY(c, a, b) emulated_multiply(c, a, b)

inline bool tiles_run_here() { return true; }
inline void configure_tiles() {
  memset(&tiles, 0, sizeof(tiles));
  tiles.configured = true;
}
inline void release_tiles() { tiles.configured = false; }
inline void order_memory() {}

#elif defined(GRM_TILES)

#define GRM_TILE_ZERO(t) _tile_zero(t)
#define GRM_TILE_LOAD(t, source, stride) _tile_loadd(t, source, (stride) * 4)
#define GRM_TILE_STORE(t, target, stride) _tile_stored(t, target, (stride) * 4)
#define GRM_TILE_MULTIPLY(c, a, b) _tile_dpbf16ps(c, a, b)

// Linux lets a process use the registers' state once it has asked for it; its threads may then too. A container may
// forbid the question, an old kernel not know it.
inline bool tiles_run_here() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// The intrinsics of GCC 12 do not say that they read memory.
inline void order_memory() { asm volatile("" ::: "memory"); }

inline void configure_tiles() {
  alignas(64) struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } configuration = {};
  static_assert(sizeof(configuration) == 64);
  configuration.palette = 1;
  for (int t = 0; t < 8; ++t) {
    configuration.row_bytes[t] = kTileEdge * 4;
    configuration.rows[t] = kTileEdge;
  }
  asm volatile("" ::"r"(&configuration) : "memory");
  _tile_loadconfig(&configuration);
}
inline void release_tiles() { _tile_release(); }

#else

inline void configure_tiles() {}
inline void release_tiles() {}

#endif

// Holds the registers for the thread while it lives; nothing where they are not used.
template <bool kUsed>
class TileSession {
 public:
  TileSession() {
    if (kUsed) configure_tiles();
  }
  ~TileSession() {
    if (kUsed) release_tiles();
  }
  TileSession(const TileSession&) = delete;
};

#if defined(GRM_TILES)

// c (rows x columns) = factor * a b, or c += a b, of words that hold two bfloat16: a is [rows][depth], b [depth][columns].
// All sizes are multiples of 16. Up to 2 x 2 registers of c are held at a time.
template <Into kInto>
inline void tile_product(const float* a, int64_t a_row, const float* b, int64_t b_row, int64_t depth, float* c,
                         int64_t c_row, int64_t rows, int64_t columns, float factor = 1.0f) {
  order_memory();
  for (int64_t r = 0; r < rows; r += 2 * kTileEdge) {
    const bool lower = r + kTileEdge < rows;
    for (int64_t n = 0; n < columns; n += 2 * kTileEdge) {
      const bool right = n + kTileEdge < columns;
      float* target = c + r * c_row + n;
      if constexpr (kInto == Into::overwrite) {
        GRM_TILE_ZERO(0);
        GRM_TILE_ZERO(1);
        GRM_TILE_ZERO(2);
        GRM_TILE_ZERO(3);
      } else {
        GRM_TILE_LOAD(0, target, c_row);
        if (right) GRM_TILE_LOAD(1, target + kTileEdge, c_row);
        if (lower) GRM_TILE_LOAD(2, target + kTileEdge * c_row, c_row);
        if (lower && right) GRM_TILE_LOAD(3, target + kTileEdge * c_row + kTileEdge, c_row);
      }
      for (int64_t k = 0; k < depth; k += kTileEdge) {
        GRM_TILE_LOAD(4, a + r * a_row + k, a_row);
        GRM_TILE_LOAD(6, b + k * b_row + n, b_row);
        GRM_TILE_MULTIPLY(0, 4, 6);
        if (right) {
          GRM_TILE_LOAD(7, b + k * b_row + n + kTileEdge, b_row);
          GRM_TILE_MULTIPLY(1, 4, 7);
        }
        if (lower) {
          GRM_TILE_LOAD(5, a + (r + kTileEdge) * a_row + k, a_row);
          GRM_TILE_MULTIPLY(2, 5, 6);
          if (right) GRM_TILE_MULTIPLY(3, 5, 7);
        }
      }
      GRM_TILE_STORE(0, target, c_row);
      if (right) GRM_TILE_STORE(1, target + kTileEdge, c_row);
      if (lower) GRM_TILE_STORE(2, target + kTileEdge * c_row, c_row);
      if (lower && right) GRM_TILE_STORE(3, target + kTileEdge * c_row + kTileEdge, c_row);
    }
  }
  order_memory();
  if (kInto == Into::overwrite && factor != 1.0f)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t n = 0; n < columns; n += kWidth) store(c + r * c_row + n, load(c + r * c_row + n) * factor);
}

// Whether the registers do what is expected of them: a product of small integers, exact in any order of the sums. What
// has never run on a unit like this machine's is not taken on faith.
inline bool tiles_multiply() {
  constexpr int64_t kSize = 2 * kTileEdge;
  float a[kSize][kSize], b[kSize][kSize], c[kSize][kSize];
  const auto left = [](int64_t row, int64_t k) { return static_cast<float>((7 * row + 3 * k) % 11 - 5); };
  const auto right = [](int64_t k, int64_t column) { return static_cast<float>((5 * k + 2 * column) % 13 - 6); };
  const auto word = [](float low, float high) {
    uint32_t bits[2];
    memcpy(&bits[0], &low, 4);
    memcpy(&bits[1], &high, 4);
    const uint32_t both = (bits[0] >> 16) | (bits[1] & 0xffff0000u);
    float packed;
    memcpy(&packed, &both, 4);
    return packed;
  };
  for (int64_t i = 0; i < kSize; ++i)
    for (int64_t k = 0; k < kSize; ++k) {
      a[i][k] = word(left(i, 2 * k), left(i, 2 * k + 1));
      b[k][i] = word(right(2 * k, i), right(2 * k + 1, i));
    }
  const TileSession<true> session;
  tile_product<Into::overwrite>(a[0], kSize, b[0], kSize, kSize, c[0], kSize, kSize, kSize, 2.0f);
  tile_product<Into::accumulate>(a[0], kSize, b[0], kSize, kSize, c[0], kSize, kSize, kSize);
  for (int64_t i = 0; i < kSize; ++i)
    for (int64_t j = 0; j < kSize; ++j) {
      float sum = 0;
      for (int64_t k = 0; k < 2 * kSize; ++k) sum += left(i, k) * right(k, j);
      if (c[i][j] != 3 * sum) return false;
    }
  return true;
}

#else

template <Into kInto>
void tile_product(const float* a, int64_t a_row, const float* b, int64_t b_row, int64_t depth, float* c, int64_t c_row,
                  int64_t rows, int64_t columns, float factor = 1.0f);

#endif

}  // namespace
