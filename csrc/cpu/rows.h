// Moving rows of tokens between tensors of any dtype and the packed buffers of the kernels.
#pragma once

#include <cstring>

#include "../problem.h"
#include "vec.h"

namespace {

using grm::DType;
using grm::Tokens;

inline int64_t bytes_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

// The channels of one token of one head.
inline const void* row_of(const Tokens& t, DType dtype, int64_t image, int64_t head, int64_t token) {
  const int64_t offset = image * t.batch_stride + head * t.head_stride + token * t.token_stride;
  return static_cast<const char*>(t.data) + offset * bytes_of(dtype);
}

inline void* mutable_row_of(const Tokens& t, DType dtype, int64_t image, int64_t head, int64_t token) {
  return const_cast<void*>(row_of(t, dtype, image, head, token));
}

// Rows are short: register by register, without a call, but for what is left of the last one.
inline void copy_row(const void* source, int64_t bytes, int64_t padded_bytes, void* target) {
  int64_t at = 0;
  for (; at + int64_t{sizeof(Vec)} <= bytes; at += sizeof(Vec))
    memcpy(static_cast<char*>(target) + at, static_cast<const char*>(source) + at, sizeof(Vec));
  if (at == padded_bytes) return;
  memset(static_cast<char*>(target) + at, 0, padded_bytes - at);
  memcpy(static_cast<char*>(target) + at, static_cast<const char*>(source) + at, bytes - at);
}

// target = factor * source, rounded to nearest even.
inline void write_row(const float* source, float factor, DType dtype, int64_t channels, void* target) {
  if (dtype == DType::float32) {
    float* values = static_cast<float*>(target);
    for (int64_t d = 0; d < channels; ++d) values[d] = source[d] * factor;
  } else if (dtype == DType::bfloat16) {
    uint16_t* bits = static_cast<uint16_t*>(target);
    for (int64_t d = 0; d < channels; ++d) {
      const float x = source[d] * factor;
      uint32_t word;
      memcpy(&word, &x, 4);
      const uint32_t rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
      bits[d] = static_cast<uint16_t>(x == x ? rounded : 0x7fc0);
    }
  } else {
    _Float16* values = static_cast<_Float16*>(target);
    for (int64_t d = 0; d < channels; ++d) values[d] = static_cast<_Float16>(source[d] * factor);
  }
}

inline void clear_row(DType dtype, int64_t channels, void* target) { memset(target, 0, channels * bytes_of(dtype)); }

// A row of words: kPack = 1, the channels as float32; kPack = 2, the channels' bfloat16 as they stand. Zero up to `words`.
template <int kPack>
inline void read_words(const void* source, DType dtype, int64_t channels, int64_t words, float* target) {
  if (kPack == 2 || dtype == DType::float32) return copy_row(source, channels * (kPack == 2 ? 2 : 4), words * 4, target);
  if (dtype == DType::bfloat16) {
    const uint16_t* bits = static_cast<const uint16_t*>(source);
    uint32_t* widened = reinterpret_cast<uint32_t*>(target);
    for (int64_t d = 0; d < channels; ++d) widened[d] = uint32_t{bits[d]} << 16;
  } else {
    const _Float16* values = static_cast<const _Float16*>(source);
    for (int64_t d = 0; d < channels; ++d) target[d] = static_cast<float>(values[d]);
  }
  for (int64_t d = channels; d < words; ++d) target[d] = 0;
}

}  // namespace
