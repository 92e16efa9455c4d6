// What the CPU kernels offer; kernels.cpp defines one of these for every instruction set that it is compiled for.
#pragma once

#include <cstddef>

#include "../problem.h"

namespace grm::cpu {

struct Kernels {
  const char* name;
  bool (*runs_here)();

  // Queries are served in blocks of this many rows of the category order; blocks are independent of each other.
  int64_t query_block;

  // Bytes that one call of forward or backward needs, aligned to 64.
  size_t (*forward_workspace)(const ForwardProblem&);
  size_t (*backward_workspace)(const BackwardProblem&);

  // Serves query blocks [block_begin, block_end) of one head of one image.
  void (*forward)(const ForwardProblem&, int64_t image, int64_t head, int64_t block_begin, int64_t block_end,
                  void* workspace);
  void (*backward)(const BackwardProblem&, int64_t image, int64_t head, void* workspace);
};

}  // namespace grm::cpu
