// The kernels as nvcc compiles them, and their launches.
#include "kernels.h"

#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "launch.h"

namespace grm::cuda {
namespace {

// What is asked of a device and told of a kernel once.
struct Known {
  std::mutex mutex;
  std::map<int, Device> devices;
  std::set<std::pair<const void*, int>> kernels;  // that may use all shared memory, and on which device

  static Known& instance() {
    static Known known;
    return known;
  }
};

// Launches on a stream of the current device; keeps the first error.
class OnStream {
 public:
  explicit OnStream(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {
    note(cudaGetDevice(&index_));
    Known& known = Known::instance();
    const std::lock_guard<std::mutex> lock(known.mutex);
    if (const auto found = known.devices.find(index_); found != known.devices.end()) {
      device_ = found->second;
      return;
    }
    const auto get = [&](int& value, cudaDeviceAttr name) { note(cudaDeviceGetAttribute(&value, name, index_)); };
    get(device_.multiprocessors, cudaDevAttrMultiProcessorCount);
    get(device_.shared_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    get(device_.shared_per_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    if (error_ == cudaSuccess) known.devices[index_] = device_;
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
    Known& known = Known::instance();
    const std::lock_guard<std::mutex> lock(known.mutex);
    const std::pair<const void*, int> key(reinterpret_cast<const void*>(kernel), index_);
    if (known.kernels.count(key)) return;
    note(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, device_.shared_per_block));
    note(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
    if (error_ == cudaSuccess) known.kernels.insert(key);
  }

  void note(cudaError_t error) const {
    if (error_ == cudaSuccess) error_ = error;
  }

  cudaStream_t stream_;
  int index_ = 0;
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
