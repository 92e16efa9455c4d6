// How a problem becomes launches: which kernel, how many blocks, how much shared memory. `launcher(name, kernel,
// blocks, threads, shared_bytes, arguments...)` runs them: on a GPU (kernels.cu) or in the emulation.
#pragma once

#include "backward.cuh"
#include "forward.cuh"

namespace grm::cuda {

// What the choice of a launch depends on.
struct Device {
  int multiprocessors;
  int shared_per_block, shared_per_multiprocessor;  // bytes
};

constexpr int kSharedOfBlock = 1024;  // bytes that a block costs besides its own

// What a block of a pass needs.
inline int shared_bytes(bool backward, int tokens, int channels) {
  if (!backward) return ForwardLayout(tokens, channels).bytes;
  return channels == 64 ? BackwardLayout<64>::bytes : BackwardLayout<32>::bytes;
}

struct ForwardLaunch {
  int parts;  // blocks of a head
  int threads, shared_bytes;
};

// Two blocks of four warps where a multiprocessor has the shared memory for them, so that one works while the other
// waits; else one of eight. A head's queries are split only while there are fewer heads than multiprocessors, and into
// the fewest parts in which no warp serves more tiles than with a block for each multiprocessor: every part reads all
// keys and values.
inline ForwardLaunch forward_launch(const ForwardProblem& problem, const Device& device) {
  const int shared = shared_bytes(false, static_cast<int>(problem.tokens), static_cast<int>(problem.channels));
  const bool two = 2 * (shared + kSharedOfBlock) <= device.shared_per_multiprocessor;
  const int64_t heads = problem.batch * problem.heads, tiles = (problem.tokens + kTile - 1) / kTile;
  const int64_t warps = kForwardWarps / (two ? 2 : 1);
  const int64_t wanted = (device.multiprocessors + heads - 1) / heads;
  const int64_t tiles_of_warp = (tiles + wanted * warps - 1) / (wanted * warps);
  const int64_t parts = (tiles + tiles_of_warp * warps - 1) / (tiles_of_warp * warps);
  return {static_cast<int>(parts), static_cast<int>(warps) * kWarp, shared};
}

// Why these kernels cannot serve a pass on a device, null if they can. The Python side has the same rules as a table.
inline const char* refusal(const ForwardProblem& problem, const Device& device, bool backward) {
  if (problem.dtype == DType::float32) return "expected bfloat16 or float16";
  if (problem.channels != 32 && problem.channels != 64) return "expected D of 32 or 64";
  if (problem.soft_policy) return "expected categories, not a soft policy";
  if (problem.tokens > (backward ? kMaxBackwardTokens : kMaxTokens)) return "too many tokens";
  const int bytes = shared_bytes(backward, static_cast<int>(problem.tokens), static_cast<int>(problem.channels));
  if (bytes > device.shared_per_block) return "too many tokens for the shared memory of this GPU";
  // Tokens of all heads, and of all images with a block more, are counted in 32 bits.
  if (problem.batch * problem.heads > INT32_MAX / kMaxTokens - 1) return "too many heads";
  return nullptr;
}

template <class Element, int D, class Launcher>
void launch_forward(const ForwardProblem& problem, const Device& device, const Launcher& launcher) {
  const ForwardLaunch l = forward_launch(problem, device);
  launcher("forward_kernel", forward_kernel<Element, D>, static_cast<int>(problem.batch * problem.heads) * l.parts,
           l.threads, l.shared_bytes, problem, l.parts);
}

// grad_policy is (B, N, 3), null if it is not wanted.
template <class Element, int D, class Launcher>
void launch_backward(const BackwardProblem& problem, float* grad_policy, const Launcher& launcher) {
  const ForwardProblem& f = problem.forward;
  const int heads = static_cast<int>(f.batch * f.heads);
  if (!grad_policy) {
    launcher("backward_kernel", backward_kernel<Element, D, false>, heads, kThreads, BackwardLayout<D>::bytes, problem);
    return;
  }
  launcher("backward_kernel", backward_kernel<Element, D, true>, heads, kThreads, BackwardLayout<D>::bytes, problem);
  const int64_t blocks = (f.batch * f.tokens + kPolicyThreads - 1) / kPolicyThreads;
  launcher("policy_kernel", policy_kernel, static_cast<int>(blocks), kPolicyThreads, 0,
           static_cast<const float*>(problem.policy_partials), grad_policy, static_cast<int>(f.batch),
           static_cast<int>(f.heads), static_cast<int>(f.tokens));
}

// The instance for a problem that is not refused.
template <class Launcher>
void launch_forward(const ForwardProblem& problem, const Device& device, const Launcher& launcher) {
  const bool wide = problem.channels == 64;
  if (problem.dtype == DType::bfloat16)
    wide ? launch_forward<BFloat16, 64>(problem, device, launcher)
         : launch_forward<BFloat16, 32>(problem, device, launcher);
  else
    wide ? launch_forward<Half, 64>(problem, device, launcher)
         : launch_forward<Half, 32>(problem, device, launcher);
}

template <class Launcher>
void launch_backward(const BackwardProblem& problem, float* grad_policy, const Launcher& launcher) {
  const bool wide = problem.forward.channels == 64;
  if (problem.forward.dtype == DType::bfloat16)
    wide ? launch_backward<BFloat16, 64>(problem, grad_policy, launcher)
         : launch_backward<BFloat16, 32>(problem, grad_policy, launcher);
  else
    wide ? launch_backward<Half, 64>(problem, grad_policy, launcher)
         : launch_backward<Half, 32>(problem, grad_policy, launcher);
}

}  // namespace grm::cuda
