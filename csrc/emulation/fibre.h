// Fibres: functions that run on stacks of their own and hand the processor to each other.
#pragma once

#include <cstddef>
#include <memory>

namespace grm::emulation {

class Fibre {
 public:
  Fibre();  // of the caller's own stack, to be switched from
  explicit Fibre(size_t stack_bytes);
  ~Fibre();
  Fibre(Fibre&&) noexcept;

  // The next switch to this fibre calls entry(argument), which must not return. What ran on its stack is dropped.
  void start(void (*entry)(void*), void* argument);

  // Leaves `from`, which is running, and goes on where this fibre was left.
  void resume(Fibre& from);

  // Called first in `entry`: the sanitizers are told that the switch is over.
  static void arrived();

 private:
  struct Stack;
  std::unique_ptr<Stack> stack_;
  void* saved_ = nullptr;  // stack pointer, or the portable context
};

}  // namespace grm::emulation
