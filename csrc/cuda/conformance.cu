// Runs every primitive on a GPU and prints what came out: a line for each case, its name and the words of all lanes.
//
//   nvcc -std=c++17 -arch=native csrc/cuda/conformance.cu -o conformance && ./conformance
#include <cstdio>
#include <vector>

#include "conformance.cuh"

int main() {
  using namespace grm::cuda;
  std::vector<uint32_t> input(kConformanceInput), output(kConformanceWords * kWarp);
  for (int i = 0; i < kConformanceInput; ++i) input[i] = i * 0x9e3779b9u;
  uint32_t *device_input, *device_output;
  cudaMalloc(&device_input, 4 * input.size());
  cudaMalloc(&device_output, 4 * output.size());
  cudaMemcpy(device_input, input.data(), 4 * input.size(), cudaMemcpyHostToDevice);
  for (int which = 0; which < kCases; ++which) {
    conformance_kernel<<<1, kWarp, kConformanceShared>>>(which, device_input, device_output);
    cudaMemcpy(output.data(), device_output, 4 * output.size(), cudaMemcpyDeviceToHost);
    if (const cudaError_t error = cudaGetLastError()) {
      std::fprintf(stderr, "%s: %s\n", kCaseNames[which], cudaGetErrorString(error));
      return 1;
    }
    std::printf("%s", kCaseNames[which]);
    for (const uint32_t word : output) std::printf(" %08x", word);
    std::printf("\n");
  }
  return 0;
}
