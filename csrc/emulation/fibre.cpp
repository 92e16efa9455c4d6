#include "fibre.h"

#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace grm::emulation {
namespace {

#if defined(__SANITIZE_ADDRESS__)
// The stack that the running switch goes to, for `arrived`: a fibre's own, or the caller's, learnt at the first switch.
const void* callers_stack = nullptr;
size_t callers_bytes = 0;
bool learn_callers_stack = false;
#endif

}  // namespace

struct Fibre::Stack {
  explicit Stack(size_t bytes) : bytes(bytes), memory(static_cast<char*>(std::aligned_alloc(64, bytes))) {
    if (!memory) throw std::bad_alloc();
  }
  ~Stack() {
    unpoison();
    std::free(memory);
  }
  // Frames that were dropped leave marks of the address sanitizer.
  void unpoison() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(memory, bytes);
#endif
  }

  size_t bytes;
  char* memory;
#if !defined(__x86_64__)
  ucontext_t context;
#endif
};

Fibre::Fibre() = default;
Fibre::Fibre(size_t stack_bytes) : stack_(new Stack(stack_bytes)) {}
Fibre::~Fibre() = default;
Fibre::Fibre(Fibre&&) noexcept = default;

#if defined(__x86_64__)

// Saves what the System V calling convention lets a function keep, exchanges the stacks, takes the other's.
extern "C" void grm_switch_stack(void** save, void* load);
asm(R"(
.text
.type grm_switch_stack, @function
grm_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size grm_switch_stack, .-grm_switch_stack
)");

// The first switch to a fibre "returns" here: entry and its argument were put into saved registers.
extern "C" void grm_enter_fibre();
asm(R"(
.text
.type grm_enter_fibre, @function
grm_enter_fibre:
  movq %r12, %rdi
  callq *%rbx
  ud2
.size grm_enter_fibre, .-grm_enter_fibre
)");

void Fibre::start(void (*entry)(void*), void* argument) {
  stack_->unpoison();
  void** top = reinterpret_cast<void**>(stack_->memory + stack_->bytes);
  *--top = nullptr;
  *--top = nullptr;  // the stack is aligned to 16 where entry is called
  *--top = reinterpret_cast<void*>(grm_enter_fibre);
  void* registers[6] = {nullptr, nullptr, nullptr, argument, reinterpret_cast<void*>(entry), nullptr};  // r15 ... rbp
  for (int i = 5; i >= 0; --i) *--top = registers[i];
  saved_ = top;
}

#else

namespace {

void enter(unsigned entry_high, unsigned entry_low, unsigned argument_high, unsigned argument_low) {
  const auto pointer = [](unsigned high, unsigned low) { return uintptr_t{high} << 32 | low; };
  reinterpret_cast<void (*)(void*)>(pointer(entry_high, entry_low))(
      reinterpret_cast<void*>(pointer(argument_high, argument_low)));
}

}  // namespace

void Fibre::start(void (*entry)(void*), void* argument) {
  stack_->unpoison();
  ucontext_t& context = stack_->context;
  getcontext(&context);
  context.uc_stack.ss_sp = stack_->memory;
  context.uc_stack.ss_size = stack_->bytes;
  context.uc_link = nullptr;
  const uintptr_t e = reinterpret_cast<uintptr_t>(entry), a = reinterpret_cast<uintptr_t>(argument);
  makecontext(&context, reinterpret_cast<void (*)()>(enter), 4, static_cast<unsigned>(e >> 32),
              static_cast<unsigned>(e), static_cast<unsigned>(a >> 32), static_cast<unsigned>(a));
}

#endif

void Fibre::resume(Fibre& from) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  learn_callers_stack = !from.stack_;
  const void* bottom_of_next = stack_ ? stack_->memory : callers_stack;
  __sanitizer_start_switch_fiber(&fake, bottom_of_next, stack_ ? stack_->bytes : callers_bytes);
#endif
#if defined(__x86_64__)
  grm_switch_stack(&from.saved_, saved_);
#else
  static ucontext_t callers;
  swapcontext(from.stack_ ? &from.stack_->context : &callers, stack_ ? &stack_->context : &callers);
#endif
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom;
  size_t bytes;
  __sanitizer_finish_switch_fiber(fake, &bottom, &bytes);
#endif
}

void Fibre::arrived() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom;
  size_t bytes;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (learn_callers_stack) callers_stack = bottom, callers_bytes = bytes;
#endif
}

}  // namespace grm::emulation
