// Memory of the bindings for one call.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

namespace grm {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// Memory for a call, aligned to 64 bytes. A thread keeps its last two pieces, if they are small: a system's fresh pages
// cost more than a small problem's arithmetic.
class Workspace {
 public:
  explicit Workspace(size_t bytes) {
    for (Piece& piece : kept_)
      if (piece.bytes >= bytes && piece.memory) {
        std::swap(piece, piece_);
        return;
      }
    piece_.bytes = (bytes + 63) / 64 * 64;
    piece_.memory.reset(std::aligned_alloc(64, piece_.bytes));
    if (!piece_.memory && bytes) throw std::bad_alloc();
  }

  ~Workspace() {
    if (piece_.bytes > kMaxKept) return;
    Piece& smallest = kept_[0].bytes <= kept_[1].bytes ? kept_[0] : kept_[1];
    if (smallest.bytes < piece_.bytes) std::swap(smallest, piece_);
  }

  Workspace(const Workspace&) = delete;

  char* get() const { return static_cast<char*>(piece_.memory.get()); }

 private:
  static constexpr size_t kMaxKept = size_t{4} << 20;

  struct Piece {
    std::unique_ptr<void, Free> memory;
    size_t bytes = 0;
  };
  static thread_local Piece kept_[2];

  Piece piece_;
};

inline thread_local Workspace::Piece Workspace::kept_[2];

}  // namespace grm
