// Small kernels with a fault each, and with none, by which the tests of the emulation know that it finds them.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "../cuda/primitives.cuh"

namespace grm::emulation {

struct Faulty {
  int threads, shared_bytes;
  std::function<void(const uint32_t* input, uint32_t* output)> kernel;  // 64 words each
};

inline const std::map<std::string, Faulty>& faulty_kernels() {
  using namespace grm::cuda;
  const auto mine = [] { return Shared(4 * thread_index()); };
  const auto next = [] { return Shared(4 * ((thread_index() + 1) % thread_count())); };
  static const std::map<std::string, Faulty> kernels = {
      {"none: barriers where they belong",
       {64, 256,
        [=](const uint32_t*, uint32_t* output) {
          for (int i = 0; i < 3; ++i) {
            shared_store(mine(), thread_index() + i);
            block_barrier();
            const int value = shared_load<int32_t>(next());
            block_barrier();
            if (i == 2) global_store(output + thread_index(), uint32_t(value));
          }
        }}},
      {"none: a warp needs no block barrier",
       {64, 256,
        [=](const uint32_t*, uint32_t*) {
          const auto neighbour = Shared(4 * (thread_index() ^ 1));
          for (int i = 0; i < 3; ++i) {
            shared_store(mine(), i);
            warp_barrier();
            shared_load<int32_t>(neighbour);
            warp_barrier();
          }
        }}},
      {"none: copies waited for",
       {64, 1024,
        [=](const uint32_t* input, uint32_t* output) {
          copy_async(16 * thread_index(), input + thread_index() / 4 * 4, thread_index() % 2);
          copy_commit();
          copy_wait<0>();
          block_barrier();
          global_store(output + thread_index(), shared_load<uint32_t>(4 * next()));
        }}},
      {"no barrier after a write",
       {64, 256,
        [=](const uint32_t*, uint32_t*) {
          shared_store(mine(), 1);
          shared_load<int32_t>(next());
        }}},
      {"no barrier before the next write",
       {64, 256,
        [=](const uint32_t*, uint32_t*) {
          for (int i = 0; i < 2; ++i) {
            shared_store(mine(), i);
            block_barrier();
            shared_load<int32_t>(next());
          }
        }}},
      {"only a warp barrier between warps",
       {64, 256,
        [=](const uint32_t*, uint32_t*) {
          shared_store(mine(), 1);
          warp_barrier();
          shared_load<int32_t>(next());
        }}},
      {"a shuffle is no barrier",
       {32, 128,
        [=](const uint32_t*, uint32_t*) {
          shared_store(mine(), 1);
          shuffle_xor(1, 1);
          shared_load<int32_t>(next());
        }}},
      {"two lanes write one word",
       {32, 128, [=](const uint32_t*, uint32_t*) { shared_store(Shared(4 * (thread_index() / 2)), thread_index()); }}},
      {"too weak a wait",
       {32, 512,
        [=](const uint32_t* input, uint32_t*) {
          copy_async(16 * lane_index(), input, true);
          copy_commit();
          copy_wait<1>();
          block_barrier();
          shared_load<int32_t>(16 * lane_index());
        }}},
      {"a wait for what was not committed",
       {32, 512,
        [=](const uint32_t* input, uint32_t*) {
          copy_async(16 * lane_index(), input, true);
          copy_wait<0>();
          shared_load<int32_t>(16 * lane_index());
        }}},
      {"no barrier after a wait",
       {32, 512,
        [=](const uint32_t* input, uint32_t*) {
          copy_async(16 * lane_index(), input, true);
          copy_commit();
          copy_wait<0>();
          shared_load<int32_t>(16 * (lane_index() ^ 1));
        }}},
      {"a copy over what is still read",
       {64, 1024,
        [=](const uint32_t* input, uint32_t*) {
          for (int i = 0; i < 4; ++i) shared_store(Shared(16 * thread_index() + 4 * i), 0);
          block_barrier();
          shared_load<int32_t>(16 * (63 - thread_index()));
          copy_async(16 * thread_index(), input, true);
          copy_commit();
          copy_wait<0>();
        }}},
      {"a copy that nobody waits for",
       {32, 512, [=](const uint32_t* input, uint32_t*) { copy_async(16 * lane_index(), input, true); }}},
      {"a warp skips a barrier",
       {64, 256,
        [=](const uint32_t*, uint32_t*) {
          if (warp_index() != 1) block_barrier();
        }}},
      {"a warp skips the first of two barriers",
       {64, 256,
        [=](const uint32_t*, uint32_t*) {
          if (warp_index() != 1) block_barrier();
          block_barrier();
        }}},
      {"a shuffle in a divergent branch",
       {32, 0,
        [=](const uint32_t*, uint32_t*) {
          if (lane_index() < 16) shuffle_xor(1, 1);
        }}},
      {"a barrier and a shuffle",
       {32, 0,
        [=](const uint32_t*, uint32_t*) {
          if (lane_index() < 16)
            shuffle_xor(1, 1);
          else
            block_barrier();
        }}},
      {"a word beyond shared memory",
       {32, 124, [=](const uint32_t*, uint32_t*) { shared_store(mine(), 1); }}},
      {"a matrix row beyond shared memory",
       {32, 496,
        [=](const uint32_t*, uint32_t*) {
          for (int i = 0; i < 4; ++i)
            if (lane_index() < 31) shared_store(Shared(16 * lane_index() + 4 * i), 0);
          warp_barrier();
          uint32_t r[4];
          load_matrices(r, 16 * lane_index());
        }}},
      {"a matrix row that is not aligned",
       {32, 1024,
        [=](const uint32_t*, uint32_t*) {
          uint32_t r[4];
          load_matrices(r, 16 * lane_index() + 8);
        }}},
      {"a word that was never written",
       {32, 128, [=](const uint32_t*, uint32_t*) { shared_load<int32_t>(mine()); }}},
      {"a word beyond global memory",
       {32, 0, [=](const uint32_t* input, uint32_t*) { global_load<uint32_t>(input + 33 + lane_index()); }}},
      {"an input that is written",
       {32, 0,
        [=](const uint32_t* input, uint32_t*) { global_store(const_cast<uint32_t*>(input) + lane_index(), 1u); }}},
      {"an output that is written twice",
       {32, 0, [=](const uint32_t*, uint32_t* output) { global_store(output + lane_index() / 2, 1u); }}},
  };
  return kernels;
}

}  // namespace grm::emulation
