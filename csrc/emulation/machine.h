// A multiprocessor on a CPU: runs the blocks of a kernel one after the other, every lane as a fibre, and reports what
// the hardware would leave undefined.
//
// - Lanes run one at a time, and change where lanes have to meet, in the order of a schedule. A meeting of a warp or a
//   block that cannot take place is reported with who waits where.
// - Shared memory has a shadow that knows for every word who wrote and read it last. Two accesses by two threads, one
//   of them a write, must be ordered by a barrier between them: one of the block, or of their warp. That is a relation
//   between threads and holds or not whatever the schedule; barriers join all threads of a block or a warp, so a count
//   of barriers is an exact clock of it. Shuffles and matrix instructions order nothing.
// - An asynchronous copy is performed when its thread waits for it and not before; until then its target is poisoned,
//   and touching it is reported. So is reading what was never written, and leaving the declared memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "fibre.h"

#define GRM_DEVICE inline
#define GRM_ANYWHERE constexpr
#define GRM_KERNEL(threads, blocks) inline void
#define GRM_UNROLL
#define GRM_NO_UNROLL

namespace grm::cuda {

// Where a primitive is called.
struct Here {
  const char* file;
  int line;
  static constexpr Here now(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

}  // namespace grm::cuda

namespace grm::emulation {

using cuda::Here;

constexpr int kLanes = 32;
constexpr int kNobody = -1, kSeveral = -2;  // instead of a thread or a warp

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Schedule { first_in, last_in, random };

// A fault to plant: what the primitive called at file:line does otherwise.
struct Plant {
  std::string action;  // "skip" (a meeting or a wait), "weaken" (a wait), "swap" (fragment words), "shift" (addresses)
  std::string file;
  int line = 0;
  int warp = -1;  // of every block; -1: all
};

// Memory that a kernel may touch.
struct Region {
  const char* name;
  const void* begin;
  size_t bytes;
  bool writable;  // and not readable: every byte is written at most once in a launch
};

// What was seen of the calls of one primitive at one place.
struct Site {
  int64_t calls = 0;       // of a warp; of a thread for what is no access to shared memory
  int64_t wavefronts = 0;  // turns in which the banks of shared memory serve those calls
  int64_t conflicts = 0;   // turns beyond what the amount of memory needs
};

struct Options {
  Schedule schedule = Schedule::first_in;
  uint64_t seed = 0;
  Plant plant;
};

// A meeting of the lanes of a warp, and what each brings and takes.
enum class Meeting { none, shuffle, ballot, matrices, matrices_transposed, multiply, warp_barrier, block_barrier };

struct Call {
  Meeting meeting = Meeting::none;
  Here here = {};
  uint32_t in[6] = {};
  uint32_t* words = nullptr;  // 4 of a matrix, 1 of a shuffle or a ballot
  float* sums = nullptr;      // 4
  bool bfloat16 = false;
};

constexpr uint32_t kPoison = 0x7fff7fff;  // NaN in every type of element

// A place in the sources, as messages name it.
std::string text(Here here);

class Machine {
 public:
  explicit Machine(Options options);

  // Runs `kernel` in every thread of every block.
  void launch(const std::string& name, int blocks, int threads, size_t shared_bytes, std::vector<Region> regions,
              const std::function<void()>& kernel);

  using Place = std::tuple<const char*, const char*, int>;  // primitive, file, line
  const std::map<Place, Site>& sites() const { return sites_; }

  // ---- what the primitives ask for; the running thread is meant ----

  int thread() const { return current_; }
  int threads() const { return threads_; }
  int block() const { return block_; }

  void load(uint32_t address, void* value, int bytes, Here here);
  void store(uint32_t address, const void* value, int bytes, Here here);
  void load_global(const void* address, int bytes, Here here);
  void store_global(void* address, int bytes, Here here);
  void copy(uint32_t target, const void* source, bool exists, Here here);
  void commit(Here here);
  void wait(int pending, Here here);
  void meet(Call call);

 private:
  // When something was done last, and by whom: a thread, several lanes of a warp, or several warps.
  struct Moment {
    int thread = kNobody, warp = kNobody;
    int64_t block_barriers = 0, warp_barriers = 0;
    Here here = {};
  };
  struct Word {
    bool written = false;
    int copying = kNobody;  // the thread whose copy has it as target
    Moment write, read;
  };
  struct Copy {
    uint32_t target;
    uint32_t words[4];
    Here here;
  };
  struct Access {
    const char* primitive;
    Here here;
    uint32_t address;
    int bytes;
  };
  struct Lane {
    Fibre fibre{size_t{256} << 10};
    bool finished = false;
    Call call;
    std::vector<std::vector<Copy>> groups;  // committed, the oldest first
    std::vector<Copy> uncommitted;
    std::vector<Access> accesses;  // since the warp met
  };

  static void run_thread(void* machine);
  void run_block(const std::function<void()>& kernel);
  int next_thread();
  void go_on();  // hands over to the next thread, or to the launch if there is none
  void arrive_at_barrier();
  void perform(int warp);
  void release(int first, int last);
  void settle(int warp);
  void count_wavefronts(const std::vector<uint32_t>& addresses, int bytes, Site& site);

  void touch(uint32_t address, int bytes, bool write, Here here);
  bool before(const Moment& moment) const;
  Moment now(Here here) const;
  const Region& region_of(const void* address, int bytes, bool write, Here here);
  bool planted(const char* action, Here here) const;

  [[noreturn]] void fail(const std::string& what, Here here) const;
  [[noreturn]] void cannot_meet() const;
  std::string who(const Moment& moment) const;
  std::string who(int thread) const;
  Site& site(const char* primitive, Here here);

  Options options_;
  std::mt19937_64 random_;
  std::string kernel_name_;
  std::vector<Lane> lanes_;
  Fibre caller_;
  std::exception_ptr failure_;
  const std::function<void()>* kernel_ = nullptr;

  int threads_ = 0, block_ = 0, current_ = 0;
  std::vector<int> ready_;
  size_t first_ready_ = 0;
  std::vector<int> arrived_;  // lanes of every warp at a meeting of the warp
  int at_barrier_ = 0;
  int64_t block_barriers_ = 0;
  std::vector<int64_t> warp_barriers_;

  std::vector<uint32_t> memory_;
  std::vector<Word> shadow_;
  std::vector<Region> regions_;
  std::vector<std::vector<bool>> stored_;  // bytes of every writable region
  std::map<Place, Site> sites_;
};

// The machine that runs at the moment.
extern Machine* machine;

}  // namespace grm::emulation
