// The primitives of csrc/cuda/primitives.cuh, which documents them, on the machine of machine.h.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

namespace grm::cuda {

inline int thread_index() { return emulation::machine->thread(); }
inline int thread_count() { return emulation::machine->threads(); }
inline int block_index() { return emulation::machine->block(); }

inline Shared shared_memory() { return 0; }

template <class T>
inline T shared_load(Shared address, Here here) {
  static_assert(sizeof(T) == 4, "one word");
  T value;
  emulation::machine->load(address, &value, 4, here);
  return value;
}

template <class T>
inline void shared_store(Shared address, T value, Here here) {
  static_assert(sizeof(T) == 4, "one word");
  emulation::machine->store(address, &value, 4, here);
}

template <class T>
inline T global_load(const void* address, Here here) {
  emulation::machine->load_global(address, sizeof(T), here);
  T value;
  std::memcpy(&value, address, sizeof(T));
  return value;
}

template <class T>
inline void global_store(void* address, T value, Here here) {
  emulation::machine->store_global(address, sizeof(T), here);
  std::memcpy(address, &value, sizeof(T));
}

inline void copy_async(Shared target, const void* source, bool exists, Here here) {
  emulation::machine->copy(target, source, exists, here);
}

inline void copy_commit(Here here) { emulation::machine->commit(here); }

template <int kPending>
inline void copy_wait(Here here) {
  emulation::machine->wait(kPending, here);
}

inline void block_barrier(Here here) {
  emulation::machine->meet({emulation::Meeting::block_barrier, here});
}

inline void warp_barrier(Here here) {
  emulation::machine->meet({emulation::Meeting::warp_barrier, here});
}

template <class T>
inline T shuffle_xor(T value, int mask, Here here) {
  static_assert(sizeof(T) == 4, "one word");
  emulation::Call call = {emulation::Meeting::shuffle, here};
  uint32_t result = 0;
  std::memcpy(&call.in[0], &value, 4);
  call.in[1] = mask;
  call.words = &result;
  emulation::machine->meet(call);
  std::memcpy(&value, &result, 4);
  return value;
}

inline uint32_t ballot(bool predicate, Here here) {
  emulation::Call call = {emulation::Meeting::ballot, here};
  uint32_t result = 0;
  call.in[0] = predicate;
  call.words = &result;
  emulation::machine->meet(call);
  return result;
}

inline void load_matrices(uint32_t (&r)[4], Shared row, Here here) {
  emulation::Call call = {emulation::Meeting::matrices, here};
  call.in[0] = row;
  call.words = r;
  emulation::machine->meet(call);
}

inline void load_matrices_transposed(uint32_t (&r)[4], Shared row, Here here) {
  emulation::Call call = {emulation::Meeting::matrices_transposed, here};
  call.in[0] = row;
  call.words = r;
  emulation::machine->meet(call);
}

template <class Element>
inline void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Here here) {
  emulation::Call call = {emulation::Meeting::multiply, here};
  for (int i = 0; i < 4; ++i) call.in[i] = a[i];
  call.in[4] = b0;
  call.in[5] = b1;
  call.sums = d;
  call.bfloat16 = std::is_same<Element, BFloat16>::value;
  emulation::machine->meet(call);
}

inline float exp2(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}

inline float log(float x) { return std::log(x); }

inline float maximum(float a, float b) { return std::fmax(a, b); }

inline float minimum_or_nan(float a, float b) { return a != a || b != b ? NAN : a < b ? a : b; }

template <>
inline uint32_t pack<BFloat16>(float low, float high) {
  const auto round = [](float x) -> uint32_t {
    uint32_t word;
    std::memcpy(&word, &x, 4);
    return x == x ? (word + 0x7fff + ((word >> 16) & 1)) >> 16 : 0x7fff;
  };
  return round(low) | round(high) << 16;
}

template <>
inline uint32_t pack<Half>(float low, float high) {
  const _Float16 both[2] = {static_cast<_Float16>(low), static_cast<_Float16>(high)};
  uint32_t word;
  std::memcpy(&word, both, 4);
  return word;
}

template <>
inline void unpack<BFloat16>(uint32_t word, float& low, float& high) {
  const uint32_t words[2] = {word << 16, word & 0xffff0000u};
  std::memcpy(&low, &words[0], 4);
  std::memcpy(&high, &words[1], 4);
}

template <>
inline void unpack<Half>(uint32_t word, float& low, float& high) {
  _Float16 both[2];
  std::memcpy(both, &word, 4);
  low = static_cast<float>(both[0]);
  high = static_cast<float>(both[1]);
}

inline int count_bits(uint32_t word) { return __builtin_popcount(word); }

}  // namespace grm::cuda
