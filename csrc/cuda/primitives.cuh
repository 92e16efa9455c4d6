// Every hardware instruction that the CUDA kernels use, and the only inline PTX among them. Kernel sources are written
// against these declarations: nvcc takes the definitions at the end of this file, a host compiler with GRM_EMULATION
// those of csrc/emulation, which run the same sources on a CPU.
//
// Sections and instructions named below are those of NVIDIA's "Parallel Thread Execution ISA". A word is 32 bits: two
// neighbouring 16-bit elements, the one of the lower index in the lower half. In fragments g = lane / 4, t = lane % 4.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef GRM_EMULATION
#include "../emulation/machine.h"
#else
#define GRM_DEVICE __device__ __forceinline__
#define GRM_ANYWHERE __host__ __device__ constexpr
// A kernel of at most `threads` threads a block, of which `blocks` share a multiprocessor's registers.
#define GRM_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define GRM_UNROLL _Pragma("unroll")
#define GRM_NO_UNROLL _Pragma("unroll 1")
#endif

namespace grm::cuda {

#ifndef GRM_EMULATION
// Where a primitive is called: the emulation's reports name it, the hardware has no use for it.
struct Here {
  GRM_DEVICE static constexpr Here now() { return {}; }
};
#endif

constexpr int kWarp = 32;  // lanes

// The types of elements, as tags: a fragment holds words whatever its type.
struct BFloat16 {};
struct Half {};

// Four words: 16 bytes, aligned to as many in memory.
struct alignas(16) Words4 {
  uint32_t word[4];
};

// ---- coordinates (section "Special Registers": %tid, %ctaid, %ntid) ----

GRM_DEVICE int thread_index();  // within the block
GRM_DEVICE int thread_count();  // of the block
GRM_DEVICE int block_index();
GRM_DEVICE int lane_index() { return thread_index() % kWarp; }
GRM_DEVICE int warp_index() { return thread_index() / kWarp; }

// ---- memory ----

// A byte address in the shared memory of the block (section "State Spaces": .shared).
using Shared = uint32_t;

// Where the block's dynamic shared memory begins, aligned to 128 bytes (all 32 banks).
GRM_DEVICE Shared shared_memory();

// One aligned word: T is float, int32_t or uint32_t ("ld", "st").
template <class T>
GRM_DEVICE T shared_load(Shared address, Here = Here::now());
template <class T>
GRM_DEVICE void shared_store(Shared address, T value, Here = Here::now());

// T is uint8_t, float, uint32_t or Words4.
template <class T>
GRM_DEVICE T global_load(const void* address, Here = Here::now());
template <class T>
GRM_DEVICE void global_store(void* address, T value, Here = Here::now());

// Starts a copy of 16 bytes, of zeros if not `exists` (the source is not read then); both addresses are multiples of 16
// ("cp.async", with .cg: not kept in the first-level cache).
GRM_DEVICE void copy_async(Shared target, const void* source, bool exists, Here = Here::now());

// The copies that this thread started since its last commit become a group ("cp.async.commit_group").
GRM_DEVICE void copy_commit(Here = Here::now());

// Waits until at most the latest `kPending` groups of this thread are under way ("cp.async.wait_group"). This thread
// sees what the earlier ones have brought; other threads see it after a barrier.
template <int kPending>
GRM_DEVICE void copy_wait(Here = Here::now());

// ---- meeting points: all lanes of a warp, or all threads of a block, have to come ----

// Orders the accesses to memory of the block's threads ("bar.sync 0").
GRM_DEVICE void block_barrier(Here = Here::now());

// Orders those of the warp's lanes ("bar.warp.sync").
GRM_DEVICE void warp_barrier(Here = Here::now());

// The value of lane ^ mask ("shfl.sync.bfly.b32"). T is float, int32_t or uint32_t.
template <class T>
GRM_DEVICE T shuffle_xor(T value, int mask, Here = Here::now());

// Bit i is the predicate of lane i ("vote.sync.ballot.b32").
GRM_DEVICE uint32_t ballot(bool predicate, Here = Here::now());

// Four 8x8 matrices of 16-bit elements: lanes 8i to 8i + 7 give the addresses of the rows 0 to 7 of matrix i, 16 bytes
// each. r[i] becomes elements (g, 2t) and (g, 2t + 1) of matrix i ("ldmatrix.sync.aligned.m8n8.x4.shared.b16").
GRM_DEVICE void load_matrices(uint32_t (&r)[4], Shared row, Here = Here::now());

// The same of the transposed matrices: r[i] becomes elements (2t, g) and (2t + 1, g) ("ldmatrix ... .trans").
GRM_DEVICE void load_matrices_transposed(uint32_t (&r)[4], Shared row, Here = Here::now());

// d += a b with a of 16x16, b of 16x8 and d of 16x8 float32 ("mma.sync.aligned.m16n8k16"; "Matrix Fragments for
// mma.m16n8k16 with floating point type"):
//   a[0] = (g, 2t..)  a[1] = (g + 8, 2t..)  a[2] = (g, 2t + 8..)  a[3] = (g + 8, 2t + 8..)   row of a, two columns
//   b0 = (2t.., g)    b1 = (2t + 8.., g)                                                     two rows of b, column
//   d[0] = (g, 2t)    d[1] = (g, 2t + 1)    d[2] = (g + 8, 2t)    d[3] = (g + 8, 2t + 1)
template <class Element>
GRM_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Here = Here::now());

// ---- arithmetic ----

// 2^x, to two units in the last place; subnormal results are 0 ("ex2.approx.ftz.f32").
GRM_DEVICE float exp2(float x);

// log x, to one unit in the last place.
GRM_DEVICE float log(float x);

// The larger one; of NaN and a number the number ("max.f32").
GRM_DEVICE float maximum(float a, float b);

// The smaller one; NaN if either is ("min.NaN.f32").
GRM_DEVICE float minimum_or_nan(float a, float b);

// Two floats to a word of elements, rounded to nearest even ("cvt.rn.bf16x2.f32", "cvt.rn.f16x2.f32").
template <class Element>
GRM_DEVICE uint32_t pack(float low, float high);

// The lower and the upper element of a word.
template <class Element>
GRM_DEVICE void unpack(uint32_t word, float& low, float& high);

// Bits that are set ("popc.b32").
GRM_DEVICE int count_bits(uint32_t word);

}  // namespace grm::cuda

#ifdef GRM_EMULATION
#include "../emulation/primitives.h"
#else

namespace grm::cuda {

GRM_DEVICE int thread_index() { return threadIdx.x; }
GRM_DEVICE int thread_count() { return blockDim.x; }
GRM_DEVICE int block_index() { return blockIdx.x; }

GRM_DEVICE Shared shared_memory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return static_cast<Shared>(__cvta_generic_to_shared(memory));
}

// Asm that touches memory is volatile and names memory: the compiler keeps it in order with other such accesses.
template <class T>
GRM_DEVICE T shared_load(Shared address, Here) {
  static_assert(sizeof(T) == 4, "one word");
  uint32_t word;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  T value;
  memcpy(&value, &word, 4);
  return value;
}

template <class T>
GRM_DEVICE void shared_store(Shared address, T value, Here) {
  static_assert(sizeof(T) == 4, "one word");
  uint32_t word;
  memcpy(&word, &value, 4);
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}

template <class T>
GRM_DEVICE T global_load(const void* address, Here) {
  return __ldg(static_cast<const T*>(address));
}

template <>
GRM_DEVICE Words4 global_load<Words4>(const void* address, Here) {
  const uint4 v = __ldg(static_cast<const uint4*>(address));
  return {{v.x, v.y, v.z, v.w}};
}

template <class T>
GRM_DEVICE void global_store(void* address, T value, Here) {
  *static_cast<T*>(address) = value;
}

GRM_DEVICE void copy_async(Shared target, const void* source, bool exists, Here) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(__cvta_generic_to_global(source)),
               "r"(exists ? 16 : 0)
               : "memory");
}

GRM_DEVICE void copy_commit(Here) { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int kPending>
GRM_DEVICE void copy_wait(Here) {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

GRM_DEVICE void block_barrier(Here) { __syncthreads(); }
GRM_DEVICE void warp_barrier(Here) { __syncwarp(); }

template <class T>
GRM_DEVICE T shuffle_xor(T value, int mask, Here) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

GRM_DEVICE uint32_t ballot(bool predicate, Here) { return __ballot_sync(0xffffffffu, predicate); }

GRM_DEVICE void load_matrices(uint32_t (&r)[4], Shared row, Here) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

GRM_DEVICE void load_matrices_transposed(uint32_t (&r)[4], Shared row, Here) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

// Not volatile: without an effect on memory the compiler may move it.
template <>
GRM_DEVICE void multiply<BFloat16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Here) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
GRM_DEVICE void multiply<Half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Here) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

GRM_DEVICE float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

GRM_DEVICE float log(float x) { return logf(x); }

GRM_DEVICE float maximum(float a, float b) { return fmaxf(a, b); }

GRM_DEVICE float minimum_or_nan(float a, float b) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

template <>
GRM_DEVICE uint32_t pack<BFloat16>(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

template <>
GRM_DEVICE uint32_t pack<Half>(float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

template <>
GRM_DEVICE void unpack<BFloat16>(uint32_t word, float& low, float& high) {
  low = __uint_as_float(word << 16);
  high = __uint_as_float(word & 0xffff0000u);
}

template <>
GRM_DEVICE void unpack<Half>(uint32_t word, float& low, float& high) {
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
      : "=f"(low), "=f"(high)
      : "r"(word));
}

GRM_DEVICE int count_bits(uint32_t word) { return __popc(word); }

}  // namespace grm::cuda

#endif
