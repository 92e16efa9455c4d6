// The Python module of the emulation: runs the CUDA kernels on a CPU and tells what was seen. Tensors are passed as
// (address, bytes, strides) of memory that the caller holds.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "../cuda/conformance.cuh"
#include "../cuda/launch.h"
#include "faulty.h"
#include "machine.h"

namespace py = pybind11;

namespace grm::emulation {
namespace {

using Sites = std::map<std::tuple<std::string, std::string, int>, Site>;

// What Python passes for a tensor.
struct Memory {
  uintptr_t address;
  size_t bytes;  // from the first to the last element
  std::vector<int64_t> strides;

  void* data() const { return reinterpret_cast<void*>(address); }
  Tokens tokens() const { return {data(), strides.at(0), strides.at(1), strides.at(2)}; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data());
  }
};

using Memories = std::map<std::string, Memory>;

// Runs the launches of one call, one after the other.
class Launches {
 public:
  Launches(const Options& options, const Memories& memories) : options_(options), memories_(memories) {}

  // The memories that the next launches write.
  void writing(std::vector<std::string> names) { writable_ = std::move(names); }

  template <class Kernel, class... Arguments>
  void operator()(const char* name, Kernel kernel, int blocks, int threads, int shared_bytes,
                  Arguments... arguments) const {
    std::vector<Region> regions;
    for (const auto& [key, memory] : memories_) {
      const bool writable = std::find(writable_.begin(), writable_.end(), key) != writable_.end();
      regions.push_back({key.c_str(), memory.data(), memory.bytes, writable});
    }
    Machine machine(options_);
    machine.launch(name, blocks, threads, shared_bytes + surplus_, regions, [&] { kernel(arguments...); });
    for (const auto& [place, site] : machine.sites()) {
      const std::string file = std::get<1>(place);
      Site& sum = sites_[{std::get<0>(place), file.substr(file.rfind('/') + 1), std::get<2>(place)}];
      sum.calls += site.calls;
      sum.wavefronts += site.wavefronts;
      sum.conflicts += site.conflicts;
    }
  }

  void with_less_shared_memory(int bytes) { surplus_ = -bytes; }
  const Sites& sites() const { return sites_; }

 private:
  Options options_;
  const Memories& memories_;
  std::vector<std::string> writable_;
  int surplus_ = 0;
  mutable Sites sites_;
};

struct Problem {
  int64_t batch, heads, tokens, channels, group;
  bool bfloat16;
  float scale;
};

ForwardProblem forward_problem(const Problem& p, const Memories& m) {
  return {p.batch, p.heads, p.tokens, p.channels, p.group, p.bfloat16 ? DType::bfloat16 : DType::float16, p.scale,
          m.at("q").tokens(), m.at("k").tokens(), m.at("v").tokens(), m.at("out").tokens(), m.at("lse").as<float>(),
          m.at("categories").as<const uint8_t>(), nullptr};
}

void check(const ForwardProblem& problem, const cuda::Device& device, bool backward) {
  if (const char* reason = cuda::refusal(problem, device, backward)) throw std::invalid_argument(reason);
}

Sites forward(const Problem& p, const Memories& m, const cuda::Device& device, const Options& options,
              int less_shared) {
  const ForwardProblem problem = forward_problem(p, m);
  check(problem, device, false);
  Launches launches(options, m);
  launches.writing({"out", "lse"});
  launches.with_less_shared_memory(less_shared);
  cuda::launch_forward(problem, device, launches);
  return launches.sites();
}

Sites backward(const Problem& p, const Memories& m, const cuda::Device& device, const Options& options,
               int less_shared) {
  const bool policy = m.count("grad_policy");
  const BackwardProblem problem = {
      forward_problem(p, m), m.at("grad_out").tokens(), m.at("grad_q").tokens(), m.at("grad_k").tokens(),
      m.at("grad_v").tokens(), m.count("grad_lse") ? m.at("grad_lse").as<const float>() : nullptr,
      policy ? m.at("partials").as<float>() : nullptr};
  check(problem.forward, device, true);
  Launches launches(options, m);
  // The partial sums are written by one kernel and read by the next.
  const auto launcher = [&](const char* name, auto kernel, int blocks, int threads, int bytes, auto... arguments) {
    const bool reduction = std::string(name) == "policy_kernel";
    launches.writing(reduction ? std::vector<std::string>{"grad_policy"}
                           : std::vector<std::string>{"grad_q", "grad_k", "grad_v", "partials"});
    launches.with_less_shared_memory(reduction ? 0 : less_shared);
    launches(name, kernel, blocks, threads, bytes, arguments...);
  };
  cuda::launch_backward(problem, policy ? m.at("grad_policy").as<float>() : nullptr, launcher);
  return launches.sites();
}

// Words of all lanes, by case.
std::map<std::string, std::vector<uint32_t>> conformance(const Options& options) {
  alignas(16) uint32_t input[cuda::kConformanceInput];
  for (int i = 0; i < cuda::kConformanceInput; ++i) input[i] = i * 0x9e3779b9u;
  std::map<std::string, std::vector<uint32_t>> results;
  for (int which = 0; which < cuda::kCases; ++which) {
    std::vector<uint32_t> output(cuda::kConformanceWords * cuda::kWarp);
    Machine machine(options);
    machine.launch("conformance_kernel", 1, cuda::kWarp, cuda::kConformanceShared,
                   {{"input", input, sizeof input, false}, {"output", output.data(), 4 * output.size(), true}},
                   [&] { cuda::conformance_kernel(which, input, output.data()); });
    results[cuda::kCaseNames[which]] = output;
  }
  return results;
}

std::vector<std::string> faults() {
  std::vector<std::string> names;
  for (const auto& [name, kernel] : faulty_kernels()) names.push_back(name);
  return names;
}

std::vector<uint32_t> run_faulty(const std::string& name, const Options& options) {
  alignas(16) uint32_t input[64] = {};
  std::vector<uint32_t> output(64);
  const Faulty& faulty = faulty_kernels().at(name);
  Machine machine(options);
  machine.launch("faulty", 1, faulty.threads, faulty.shared_bytes,
                 {{"input", input, sizeof input, false}, {"output", output.data(), 4 * output.size(), true}},
                 [&] { faulty.kernel(input, output.data()); });
  return output;
}

}  // namespace
}  // namespace grm::emulation

PYBIND11_MODULE(emulation, m) {
  using namespace grm::emulation;
  m.doc() = "The CUDA kernels of grm_kernels on a CPU, with checks that hardware does not make.";
  py::register_exception<Fault>(m, "Fault");
  py::enum_<Schedule>(m, "Schedule")
      .value("first_in", Schedule::first_in)
      .value("last_in", Schedule::last_in)
      .value("random", Schedule::random);
  py::class_<Plant>(m, "Plant")
      .def(py::init<std::string, std::string, int, int>(), py::arg("action"), py::arg("file"), py::arg("line"),
           py::arg("warp") = -1);
  py::class_<Options>(m, "Options")
      .def(py::init<Schedule, uint64_t, Plant>(), py::arg("schedule") = Schedule::first_in, py::arg("seed") = 0,
           py::arg("plant") = Plant());
  py::class_<Site>(m, "Site")
      .def_readonly("calls", &Site::calls)
      .def_readonly("wavefronts", &Site::wavefronts)
      .def_readonly("conflicts", &Site::conflicts);
  py::class_<Memory>(m, "Memory").def(py::init<uintptr_t, size_t, std::vector<int64_t>>());
  py::class_<Problem>(m, "Problem")
      .def(py::init<int64_t, int64_t, int64_t, int64_t, int64_t, bool, float>(), py::arg("batch"), py::arg("heads"),
           py::arg("tokens"), py::arg("channels"), py::arg("group"), py::arg("bfloat16"), py::arg("scale"));
  py::class_<grm::cuda::Device>(m, "Device")
      .def(py::init<int, int, int>(), py::arg("multiprocessors"), py::arg("shared_per_block"),
           py::arg("shared_per_multiprocessor"));
  m.def("forward", forward, py::arg("problem"), py::arg("memories"), py::arg("device"), py::arg("options"),
        py::arg("less_shared") = 0);
  m.def("backward", backward, py::arg("problem"), py::arg("memories"), py::arg("device"), py::arg("options"),
        py::arg("less_shared") = 0);
  m.def("conformance", conformance, py::arg("options") = Options());
  m.def("faults", faults);
  m.def("run_faulty", run_faulty, py::arg("name"), py::arg("options"));
  m.def("shared_bytes", grm::cuda::shared_bytes, py::arg("backward"), py::arg("tokens"), py::arg("channels"));
  m.def("parts", [](int batch, int heads, int tokens, int channels, const grm::cuda::Device& device) {
    grm::ForwardProblem problem = {};
    problem.batch = batch, problem.heads = heads, problem.tokens = tokens, problem.channels = channels;
    const grm::cuda::ForwardLaunch launch = grm::cuda::forward_launch(problem, device);
    return std::make_pair(launch.parts, launch.threads);
  });
}
