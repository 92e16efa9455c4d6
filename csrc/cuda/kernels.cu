// The kernels as nvcc compiles them, and their launches.
#include "kernels.h"

#include "launch.h"

namespace grm::cuda {
namespace {

// Launches on a stream of the current device; keeps the first error.
class OnStream {
 public:
  explicit OnStream(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {
    int index = 0;
    note(cudaGetDevice(&index));
    const auto get = [&](int& value, cudaDeviceAttr name) { note(cudaDeviceGetAttribute(&value, name, index)); };
    get(device_.multiprocessors, cudaDevAttrMultiProcessorCount);
    get(device_.shared_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    get(device_.shared_per_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  }

  const Device& device() const { return device_; }
  const char* error() const { return error_ == cudaSuccess ? nullptr : cudaGetErrorString(error_); }

  template <class... Parameters, class... Arguments>
  void operator()(const char*, void (*kernel)(Parameters...), int blocks, int threads, int shared_bytes,
                  Arguments... arguments) const {
    if (error_ != cudaSuccess) return;
    if (shared_bytes > 0) allow_shared_memory(kernel);
    kernel<<<blocks, threads, shared_bytes, stream_>>>(arguments...);
    note(cudaGetLastError());
  }

 private:
  // A kernel gets more than 48 KiB of shared memory on request only.
  template <class... Parameters>
  void allow_shared_memory(void (*kernel)(Parameters...)) const {
    note(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, device_.shared_per_block));
    note(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
  }

  void note(cudaError_t error) const {
    if (error_ == cudaSuccess) error_ = error;
  }

  cudaStream_t stream_;
  Device device_ = {};
  mutable cudaError_t error_ = cudaSuccess;
};

}  // namespace

const char* forward(const ForwardProblem& problem, void* stream) {
  const OnStream launcher(stream);
  if (launcher.error()) return launcher.error();
  if (const char* reason = refusal(problem, launcher.device(), false)) return reason;
  launch_forward(problem, launcher.device(), launcher);
  return launcher.error();
}

const char* backward(const BackwardProblem& problem, float* grad_policy, void* stream) {
  const OnStream launcher(stream);
  if (launcher.error()) return launcher.error();
  if (const char* reason = refusal(problem.forward, launcher.device(), true)) return reason;
  launch_backward(problem, grad_policy, launcher);
  return launcher.error();
}

}  // namespace grm::cuda
