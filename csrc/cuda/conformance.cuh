// Every primitive on known inputs. A warp runs a case, and a lane writes four words of it: on a GPU (conformance.cu)
// and in the emulation, which must agree.
#pragma once

#include "primitives.cuh"

namespace grm::cuda {

enum Case {
  kLoadMatrices,
  kLoadMatricesTransposed,
  kMultiplyBFloat16,
  kMultiplyHalf,
  kShuffleXor,
  kBallot,
  kCopyAsync,
  kPack,
  kUnpack,
  kExp2,
  kLog,
  kMaximum,
  kMinimumOrNan,
  kCountBits,
  kCoordinates,
  kCases
};

constexpr const char* kCaseNames[kCases] = {
    "load_matrices", "load_matrices_transposed", "multiply_bfloat16", "multiply_half", "shuffle_xor",
    "ballot",        "copy_async",               "pack",              "unpack",        "exp2",
    "log",           "maximum",                  "minimum_or_nan",    "count_bits",    "coordinates"};

constexpr int kConformanceWords = 4;              // of a lane
constexpr int kConformanceShared = 2 * 16 * kWarp;  // bytes
constexpr int kConformanceInput = 4 * kWarp;      // words, of which word i is i * 0x9e3779b9

GRM_DEVICE uint32_t bits_of(float x) {
  uint32_t word;
  memcpy(&word, &x, 4);
  return word;
}

GRM_DEVICE float float_of(uint32_t word) {
  float x;
  memcpy(&x, &word, 4);
  return x;
}

// Numbers of all kinds, by index: ties and their neighbours when rounded to 16 bits, what overflows or underflows
// there, infinities, NaN.
GRM_DEVICE float odd_number(int i) {
  const uint32_t numbers[16] = {0x3f800000, 0x3f808000, 0x3f818000, 0x3f808001, 0x3f801000, 0x3f803000,
                                0x477fefff, 0x477ff000, 0x7f7fffff, 0x33800000, 0x33000000, 0x38000000,
                                0x00000000, 0x80000000, 0x7f800000, 0x7fc00000};
  return float_of(numbers[i % 16] ^ (i / 16 % 2 ? 0x80000000u : 0u));
}

// Small integers: products and sums are exact.
template <class Element>
GRM_DEVICE void multiply_integers(uint32_t (&words)[4], int lane) {
  const auto integer = [](int i) { return static_cast<float>(i * 7 % 31 - 15); };
  uint32_t a[4], b[2];
  float d[4];
  for (int i = 0; i < 4; ++i) {
    a[i] = pack<Element>(integer(8 * lane + 2 * i), integer(8 * lane + 2 * i + 1));
    d[i] = static_cast<float>(4 * lane + i);
  }
  for (int i = 0; i < 2; ++i) b[i] = pack<Element>(integer(4 * lane + 2 * i + 5), integer(4 * lane + 2 * i + 6));
  multiply<Element>(d, a, b[0], b[1]);
  for (int i = 0; i < 4; ++i) words[i] = bits_of(d[i]);
}

GRM_KERNEL(kWarp, 1) conformance_kernel(int which, const uint32_t* input, uint32_t* output) {
  const int lane = lane_index();
  const Shared memory = shared_memory();
  uint32_t words[kConformanceWords] = {};
  switch (which) {
    case kLoadMatrices:
    case kLoadMatricesTransposed:
      // Element e of the rows is e; lanes name the rows in another order than theirs.
      for (int i = 0; i < 4; ++i) {
        const uint32_t e = 2 * (4 * lane + i);
        shared_store(memory + 4 * (4 * lane + i), e | (e + 1) << 16);
      }
      warp_barrier();
      if (which == kLoadMatrices)
        load_matrices(words, memory + 16 * (lane * 5 % kWarp));
      else
        load_matrices_transposed(words, memory + 16 * (lane * 5 % kWarp));
      break;
    case kMultiplyBFloat16: multiply_integers<BFloat16>(words, lane); break;
    case kMultiplyHalf: multiply_integers<Half>(words, lane); break;
    case kShuffleXor:
      words[0] = shuffle_xor(3 * lane + 1, 1);
      words[1] = shuffle_xor(3 * lane + 1, 6);
      words[2] = bits_of(shuffle_xor(0.5f * lane, 16));
      words[3] = shuffle_xor(uint32_t{0x80000000u} + lane, 31);
      break;
    case kBallot:
      words[0] = ballot(lane % 3 == 0);
      words[1] = ballot(lane >= 16);
      words[2] = ballot(true);
      words[3] = ballot(false);
      break;
    case kCopyAsync:
      // The first group is overwritten by the second; every fourth lane copies zeros.
      copy_async(memory + 16 * (lane ^ 1), input, true);
      copy_commit();
      copy_wait<0>();
      warp_barrier();
      copy_async(memory + 16 * (lane ^ 3), input + 4 * lane, lane % 4 != 1);
      copy_commit();
      copy_wait<0>();
      warp_barrier();
      for (int i = 0; i < 4; ++i) words[i] = shared_load<uint32_t>(memory + 16 * lane + 4 * i);
      break;
    case kPack:
      words[0] = pack<BFloat16>(odd_number(lane), odd_number(lane + 1));
      words[1] = pack<Half>(odd_number(lane), odd_number(lane + 1));
      break;
    case kUnpack: {
      float low, high;
      unpack<BFloat16>(0x3f80c000u + 0x00810101u * lane, low, high);
      words[0] = bits_of(low), words[1] = bits_of(high);
      unpack<Half>(0x3c00c000u + 0x00810101u * lane, low, high);
      words[2] = bits_of(low), words[3] = bits_of(high);
      break;
    }
    case kExp2:
      words[0] = bits_of(exp2(1.37f * (lane - 20)));
      words[1] = bits_of(exp2(-9.3f * lane));
      words[2] = bits_of(exp2(odd_number(lane)));
      break;
    case kLog:
      words[0] = bits_of(log(0.37f * (lane + 1)));
      words[1] = bits_of(log(1e4f * (lane + 1)));
      break;
    case kMaximum: words[0] = bits_of(maximum(odd_number(lane), odd_number(lane * 7 + 3))); break;
    case kMinimumOrNan: words[0] = bits_of(minimum_or_nan(odd_number(lane), odd_number(lane * 7 + 3))); break;
    case kCountBits: words[0] = count_bits(0x9e3779b9u * lane); break;
    case kCoordinates:
      words[0] = thread_index(), words[1] = thread_count(), words[2] = block_index(), words[3] = lane + warp_index();
      break;
    default: break;
  }
  for (int i = 0; i < kConformanceWords; ++i) global_store(output + kConformanceWords * lane + i, words[i]);
}

}  // namespace grm::cuda
