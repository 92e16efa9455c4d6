// What the CPU kernels offer; kernels.cpp defines one of these for every instruction set that it is compiled for.
#pragma once

#include <cstddef>

#include "../problem.h"

namespace grm::cpu {

struct Kernels {
  const char* name;
  bool (*runs_here)();

  // Whether it is taken without being asked for, where it runs.
  bool (*is_fast_here)();

  // Queries are served in blocks of this many rows of the category order; blocks are independent of each other.
  int64_t query_block;

  // Bytes that one call of forward, backward or backward_finish needs, aligned to 64.
  size_t (*forward_workspace)(const ForwardProblem&);
  size_t (*backward_workspace)(const BackwardProblem&);

  // Serves query blocks [block_begin, block_end) of one head of one image.
  void (*forward)(const ForwardProblem&, int64_t image, int64_t head, int64_t block_begin, int64_t block_end,
                  void* workspace);

  // The backward pass of a head has this many parts, which are independent of each other; the problem alone decides.
  int64_t (*backward_parts)(const ForwardProblem&);

  // Bytes that a part keeps for backward_finish, aligned to 64.
  size_t (*key_sums)(const ForwardProblem&);

  // One part of one head. Its `key_sums` are null where it is the only one, and backward_finish is not needed then.
  void (*backward)(const BackwardProblem&, int64_t image, int64_t head, int64_t part, void* key_sums, void* workspace);

  // After all parts of the head, whose key_sums lie one after the other: the gradients of the keys of the ranks
  // [rank_begin, rank_end) of the category order.
  void (*backward_finish)(const BackwardProblem&, int64_t image, int64_t head, int64_t rank_begin, int64_t rank_end,
                          void* key_sums, void* workspace);

  // ---- division ----

  // Bytes that a whole call needs, and that one call of a function below needs besides; aligned to 64.
  size_t (*division_memory)(const DivisionProblem&);
  size_t (*division_workspace)(const DivisionProblem&);

  // Three steps. Pools the template of an image; then, of all images, outputs [begin, end) of the first layer are made of
  // it, which write nothing beyond them; then the logits of blocks [block_begin, block_end) of `query_block` search
  // tokens, counted through all images, of which the last one of an image may have fewer.
  void (*pool_template)(const DivisionProblem&, int64_t image, void* memory, void* workspace);
  void (*first_layer_of_templates)(const DivisionProblem&, int64_t begin, int64_t end, void* memory, void* workspace);
  void (*divide)(const DivisionProblem&, int64_t block_begin, int64_t block_end, void* memory, void* workspace);
};

// Those in use (csrc/binding.cpp).
const Kernels& kernels_in_use();

}  // namespace grm::cpu
