#include "machine.h"

#include <algorithm>
#include <cstring>
#include <sstream>

namespace grm::emulation {

Machine* machine = nullptr;

std::string text(Here here) {
  const char* slash = std::strrchr(here.file, '/');
  return std::string(slash ? slash + 1 : here.file) + ":" + std::to_string(here.line);
}

namespace {

const char* name_of(Meeting meeting) {
  switch (meeting) {
    case Meeting::shuffle: return "shuffle_xor";
    case Meeting::ballot: return "ballot";
    case Meeting::matrices: return "load_matrices";
    case Meeting::matrices_transposed: return "load_matrices_transposed";
    case Meeting::multiply: return "multiply";
    case Meeting::warp_barrier: return "warp_barrier";
    case Meeting::block_barrier: return "block_barrier";
    case Meeting::none: break;
  }
  return "nothing";
}

bool same_place(Here a, Here b) { return a.line == b.line && std::strcmp(a.file, b.file) == 0; }

float of_bfloat16(uint16_t bits) {
  const uint32_t word = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

float of_half(uint16_t bits) {
  _Float16 value;
  std::memcpy(&value, &bits, 2);
  return static_cast<float>(value);
}

}  // namespace

Machine::Machine(Options options) : options_(std::move(options)), random_(options_.seed) {}

// ---- running ----

void Machine::launch(const std::string& name, int blocks, int threads, size_t shared_bytes,
                     std::vector<Region> regions, const std::function<void()>& kernel) {
  if (threads % kLanes != 0 || threads < kLanes || threads > 1024)
    throw Fault(name + ": a block of " + std::to_string(threads) + " threads; expected whole warps, at most 1024");
  kernel_name_ = name;
  threads_ = threads;
  regions_ = std::move(regions);
  stored_.clear();
  for (const Region& region : regions_) stored_.emplace_back(region.writable ? region.bytes : 0);
  memory_.assign((shared_bytes + 3) / 4, kPoison);
  while (static_cast<int>(lanes_.size()) < threads) lanes_.emplace_back();
  machine = this;
  for (block_ = 0; block_ < blocks; ++block_) run_block(kernel);
}

void Machine::run_block(const std::function<void()>& kernel) {
  kernel_ = &kernel;
  failure_ = nullptr;
  std::fill(memory_.begin(), memory_.end(), kPoison);
  shadow_.assign(memory_.size(), Word());
  arrived_.assign(threads_ / kLanes, 0);
  warp_barriers_.assign(threads_ / kLanes, 0);
  at_barrier_ = 0;
  block_barriers_ = 0;
  ready_.clear();
  first_ready_ = 0;
  for (int i = 0; i < threads_; ++i) {
    Lane& lane = lanes_[i];
    lane.finished = false;
    lane.call = {};
    lane.groups.clear();
    lane.uncommitted.clear();
    lane.accesses.clear();
    lane.fibre.start(run_thread, this);
    ready_.push_back(i);
  }
  current_ = next_thread();
  lanes_[current_].fibre.resume(caller_);
  if (failure_) std::rethrow_exception(failure_);
  for (int i = 0; i < threads_; ++i)
    if (!lanes_[i].finished) cannot_meet();
}

void Machine::run_thread(void* self) {
  Fibre::arrived();
  Machine& m = *static_cast<Machine*>(self);
  try {
    (*m.kernel_)();
    Lane& lane = m.lanes_[m.current_];
    lane.finished = true;
    lane.groups.push_back(lane.uncommitted);
    for (const std::vector<Copy>& group : lane.groups)
      if (!group.empty()) m.fail("ends with asynchronous copies under way", group.front().here);
    if (m.at_barrier_ || m.arrived_[m.current_ / kLanes]) m.cannot_meet();
    const int first = m.current_ / kLanes * kLanes;
    if (std::all_of(&m.lanes_[first], &m.lanes_[first] + kLanes, [](const Lane& l) { return l.finished; }))
      m.settle(m.current_ / kLanes);
  } catch (...) {
    m.failure_ = std::current_exception();
  }
  // The fibre is never resumed: what follows does not return.
  if (m.failure_) m.caller_.resume(m.lanes_[m.current_].fibre);
  m.go_on();
}

int Machine::next_thread() {
  size_t pick = ready_.size() - 1;
  if (options_.schedule == Schedule::first_in) {
    const int thread = ready_[first_ready_++];
    if (first_ready_ == ready_.size()) ready_.clear(), first_ready_ = 0;
    return thread;
  }
  if (options_.schedule == Schedule::random) pick = random_() % ready_.size();
  std::swap(ready_[pick], ready_.back());
  const int thread = ready_.back();
  ready_.pop_back();
  return thread;
}

void Machine::go_on() {
  Fibre& from = lanes_[current_].fibre;
  if (ready_.empty()) {
    caller_.resume(from);
    return;
  }
  const int next = next_thread();
  if (next == current_) return;
  current_ = next;
  lanes_[next].fibre.resume(from);
}

void Machine::release(int first, int last) {
  for (int i = first; i < last; ++i) {
    lanes_[i].call.meeting = Meeting::none;
    ready_.push_back(i);
  }
}

// ---- meetings ----

void Machine::meet(Call call) {
  const int self = current_, warp = self / kLanes, first = warp * kLanes;
  if (planted("skip", call.here)) return;
  if (call.meeting == Meeting::multiply && planted("swap", call.here)) std::swap(call.in[1], call.in[2]);
  lanes_[self].call = call;
  if (call.meeting == Meeting::block_barrier) {
    arrive_at_barrier();
  } else {
    for (int i = first; i < first + kLanes; ++i) {
      const Call& other = lanes_[i].call;
      const bool elsewhere = other.meeting != Meeting::none &&
                             (other.meeting != call.meeting || !same_place(other.here, call.here));
      if (elsewhere || lanes_[i].finished) cannot_meet();
    }
    if (++arrived_[warp] == kLanes) {
      arrived_[warp] = 0;
      settle(warp);
      perform(warp);
      release(first, first + kLanes);
    }
  }
  go_on();
}

void Machine::arrive_at_barrier() {
  const Here here = lanes_[current_].call.here;
  for (int i = 0; i < threads_; ++i) {
    const Call& other = lanes_[i].call;
    const bool elsewhere = other.meeting == Meeting::block_barrier ? !same_place(other.here, here)
                                                                   : i / kLanes == current_ / kLanes &&
                                                                         other.meeting != Meeting::none;
    if (elsewhere || lanes_[i].finished) cannot_meet();
  }
  if (++at_barrier_ < threads_) return;
  at_barrier_ = 0;
  for (int warp = 0; warp < threads_ / kLanes; ++warp) {
    settle(warp);
    ++site(name_of(Meeting::block_barrier), here).calls;
  }
  ++block_barriers_;
  release(0, threads_);
}

void Machine::perform(int warp) {
  Lane* const lanes = &lanes_[warp * kLanes];
  const Call& call = lanes[0].call;
  Site& seen = site(name_of(call.meeting), call.here);
  ++seen.calls;
  switch (call.meeting) {
    case Meeting::warp_barrier: ++warp_barriers_[warp]; break;
    case Meeting::shuffle:
      for (int i = 0; i < kLanes; ++i) *lanes[i].call.words = lanes[(i ^ lanes[i].call.in[1]) % kLanes].call.in[0];
      break;
    case Meeting::ballot: {
      uint32_t bits = 0;
      for (int i = 0; i < kLanes; ++i) bits |= (lanes[i].call.in[0] & 1) << i;
      for (int i = 0; i < kLanes; ++i) *lanes[i].call.words = bits;
      break;
    }
    case Meeting::matrices:
    case Meeting::matrices_transposed: {
      // Row r of matrix m comes from the address of lane 8 m + r, and is read for that lane.
      uint16_t matrix[4][8][8];
      std::vector<uint32_t> addresses;
      const int self = current_;
      for (int i = 0; i < kLanes; ++i) {
        current_ = warp * kLanes + i;
        const uint32_t address = lanes[i].call.in[0] + (planted("shift", call.here) ? 16 : 0);
        touch(address, 16, false, call.here);
        std::memcpy(matrix[i / 8][i % 8], reinterpret_cast<const char*>(memory_.data()) + address, 16);
        addresses.push_back(address);
      }
      current_ = self;
      count_wavefronts(addresses, 16, seen);
      const bool transposed = call.meeting == Meeting::matrices_transposed;
      for (int i = 0; i < kLanes; ++i)
        for (int m = 0; m < 4; ++m) {
          const int g = i / 4, t = i % 4;
          const uint16_t low = transposed ? matrix[m][2 * t][g] : matrix[m][g][2 * t];
          const uint16_t high = transposed ? matrix[m][2 * t + 1][g] : matrix[m][g][2 * t + 1];
          lanes[i].call.words[m] = low | uint32_t{high} << 16;
        }
      break;
    }
    case Meeting::multiply: {
      float a[16][16], b[16][8];
      const auto set = [&](float& low, float& high, uint32_t word) {
        low = call.bfloat16 ? of_bfloat16(word & 0xffff) : of_half(word & 0xffff);
        high = call.bfloat16 ? of_bfloat16(word >> 16) : of_half(word >> 16);
      };
      for (int i = 0; i < kLanes; ++i) {
        const int g = i / 4, t = i % 4;
        const uint32_t* in = lanes[i].call.in;
        set(a[g][2 * t], a[g][2 * t + 1], in[0]);
        set(a[g + 8][2 * t], a[g + 8][2 * t + 1], in[1]);
        set(a[g][2 * t + 8], a[g][2 * t + 9], in[2]);
        set(a[g + 8][2 * t + 8], a[g + 8][2 * t + 9], in[3]);
        set(b[2 * t][g], b[2 * t + 1][g], in[4]);
        set(b[2 * t + 8][g], b[2 * t + 9][g], in[5]);
      }
      float d[16][8] = {};
      for (int m = 0; m < 16; ++m)
        for (int k = 0; k < 16; ++k)
          for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
      for (int i = 0; i < kLanes; ++i)
        for (int j = 0; j < 4; ++j) lanes[i].call.sums[j] += d[i / 4 + j / 2 * 8][i % 4 * 2 + j % 2];
      break;
    }
    case Meeting::block_barrier:
    case Meeting::none: break;
  }
}

void Machine::cannot_meet() const {
  // "warp 2 lanes 0-15 at shuffle_xor (forward.cuh:12)", neighbours that do the same taken together.
  std::ostringstream what;
  what << kernel_name_ << ", block " << block_ << ": cannot meet:";
  for (int first = 0; first < threads_;) {
    const auto state = [&](int i) {
      const Lane& lane = lanes_[i];
      if (lane.finished) return std::string("finished");
      if (lane.call.meeting == Meeting::none) return std::string("on the way");
      return std::string("at ") + name_of(lane.call.meeting) + " (" + text(lane.call.here) + ")";
    };
    int last = first;
    while (last + 1 < threads_ && (last + 1) % kLanes != 0 && state(last + 1) == state(first)) ++last;
    what << (first ? "; " : " ") << "warp " << first / kLanes << " lanes " << first % kLanes << "-" << last % kLanes
         << " " << state(first);
    first = last + 1;
  }
  throw Fault(what.str());
}

// ---- reports ----

Site& Machine::site(const char* primitive, Here here) { return sites_[{primitive, here.file, here.line}]; }

bool Machine::planted(const char* action, Here here) const {
  const Plant& plant = options_.plant;
  if (plant.action.empty() || plant.action != action || plant.line != here.line) return false;
  const std::string place = text(here);
  return place.substr(0, place.find(':')) == plant.file && (plant.warp < 0 || plant.warp == current_ / kLanes);
}

std::string Machine::who(int thread) const {
  return "warp " + std::to_string(thread / kLanes) + " lane " + std::to_string(thread % kLanes);
}

std::string Machine::who(const Moment& moment) const {
  if (moment.thread >= 0) return who(moment.thread);
  return moment.warp == kSeveral ? "several warps" : "several lanes of warp " + std::to_string(moment.warp);
}

void Machine::fail(const std::string& what, Here here) const {
  throw Fault(kernel_name_ + ", block " + std::to_string(block_) + ", " + who(current_) + " (" + text(here) +
              "): " + what);
}

}  // namespace grm::emulation
