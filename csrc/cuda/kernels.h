// What the CUDA kernels offer to the binding, which is compiled without a CUDA compiler.
#pragma once

#include "../problem.h"

namespace grm::cuda {

// Both launch on `stream` (a cudaStream_t) of the current device, and return null, or why they could not. A problem has
// at least one head; its rows begin at multiples of 16 bytes.
const char* forward(const ForwardProblem& problem, void* stream);

// grad_policy: (B, N, 3), null unless problem.policy_partials are wanted; written as a whole.
const char* backward(const BackwardProblem& problem, float* grad_policy, void* stream);

}  // namespace grm::cuda
