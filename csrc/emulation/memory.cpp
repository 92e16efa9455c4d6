// The memory of the machine: shared and global, asynchronous copies between them, and the banks of shared memory.
#include <algorithm>
#include <cstring>

#include "machine.h"

namespace grm::emulation {

// ---- shared memory ----

Machine::Moment Machine::now(Here here) const {
  const int warp = current_ / kLanes;
  return {current_, warp, block_barriers_, warp_barriers_[warp], here};
}

// Whether a barrier, or the order within a thread, puts a moment before what the running thread does now.
bool Machine::before(const Moment& moment) const {
  const int warp = current_ / kLanes;
  return moment.thread == kNobody || moment.thread == current_ || moment.block_barriers < block_barriers_ ||
         (moment.warp == warp && moment.warp_barriers < warp_barriers_[warp]);
}

void Machine::touch(uint32_t address, int bytes, bool write, Here here) {
  const char* verb = write ? "writes" : "reads";
  const auto range = [&] { return std::to_string(bytes) + " bytes at shared address " + std::to_string(address); };
  if (address % bytes != 0) fail(std::string(verb) + " " + range() + ", which is not aligned", here);
  if (address + size_t(bytes) > memory_.size() * 4)
    fail(std::string(verb) + " " + range() + ", beyond the " + std::to_string(memory_.size() * 4) + " declared", here);
  for (uint32_t w = address / 4; w < (address + bytes) / 4; ++w) {
    Word& word = shadow_[w];
    if (word.copying != kNobody)
      fail(std::string(verb) + " " + range() + ", the target of an asynchronous copy of " + who(word.copying) +
               " (" + text(word.write.here) + ") that has not been waited for",
           here);
    if (!before(word.write))
      fail("race: " + std::string(verb) + " " + range() + ", no barrier after " + who(word.write) +
               " wrote there (" + text(word.write.here) + ")",
           here);
    if (!write) {
      if (!word.written) fail("reads " + range() + ", which was never written", here);
      // A reader that comes after all earlier ones stands for them.
      const Moment moment = now(here), earlier = word.read;
      word.read = moment;
      if (!before(earlier)) {
        word.read.thread = kSeveral;
        if (earlier.warp != moment.warp) word.read.warp = kSeveral;
      }
    } else {
      if (!before(word.read))
        fail("race: writes " + range() + ", no barrier after " + who(word.read) + " read there (" +
                 text(word.read.here) + ")",
             here);
      word.written = true;
      word.write = now(here);
    }
  }
}

void Machine::load(uint32_t address, void* value, int bytes, Here here) {
  if (planted("shift", here)) address += 16;
  touch(address, bytes, false, here);
  std::memcpy(value, reinterpret_cast<const char*>(memory_.data()) + address, bytes);
  lanes_[current_].accesses.push_back({"shared_load", here, address, bytes});
}

void Machine::store(uint32_t address, const void* value, int bytes, Here here) {
  if (planted("shift", here)) address += 16;
  touch(address, bytes, true, here);
  std::memcpy(reinterpret_cast<char*>(memory_.data()) + address, value, bytes);
  lanes_[current_].accesses.push_back({"shared_store", here, address, bytes});
}

// ---- asynchronous copies ----

void Machine::copy(uint32_t target, const void* source, bool exists, Here here) {
  if (planted("shift", here)) target += 16;
  touch(target, 16, true, here);
  if (exists) region_of(source, 16, false, here);
  Copy copy = {target, {}, here};
  if (exists) std::memcpy(copy.words, source, 16);
  for (uint32_t w = target / 4; w < target / 4 + 4; ++w) {
    shadow_[w].copying = current_;
    memory_[w] = kPoison;
  }
  lanes_[current_].uncommitted.push_back(copy);
  lanes_[current_].accesses.push_back({"copy_async", here, target, 16});
}

void Machine::commit(Here) {
  Lane& lane = lanes_[current_];
  lane.groups.push_back(std::move(lane.uncommitted));
  lane.uncommitted.clear();
}

void Machine::wait(int pending, Here here) {
  ++site("copy_wait", here).calls;
  if (planted("skip", here)) return;
  if (planted("weaken", here)) ++pending;
  std::vector<std::vector<Copy>>& groups = lanes_[current_].groups;
  const int landing = std::max(0, static_cast<int>(groups.size()) - pending);
  for (int i = 0; i < landing; ++i)
    for (const Copy& copy : groups[i]) {
      std::memcpy(&memory_[copy.target / 4], copy.words, 16);
      for (uint32_t w = copy.target / 4; w < copy.target / 4 + 4; ++w) {
        shadow_[w].copying = kNobody;
        shadow_[w].write = now(copy.here);
      }
    }
  groups.erase(groups.begin(), groups.begin() + landing);
}

// ---- global memory ----

const Region& Machine::region_of(const void* address, int bytes, bool write, Here here) {
  const char* begin = static_cast<const char*>(address);
  const char* verb = write ? "writes" : "reads";
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0)
    fail(std::string(verb) + " " + std::to_string(bytes) + " bytes of global memory that are not aligned", here);
  for (const Region& region : regions_) {
    const char* first = static_cast<const char*>(region.begin);
    if (begin < first || begin + bytes > first + region.bytes) continue;
    if (region.writable != write)
      fail(std::string(verb) + " global memory of " + region.name + ", which is for " + (write ? "reading" : "writing"),
           here);
    return region;
  }
  fail(std::string(verb) + " " + std::to_string(bytes) + " bytes of global memory that no argument covers", here);
}

void Machine::load_global(const void* address, int bytes, Here here) { region_of(address, bytes, false, here); }

void Machine::store_global(void* address, int bytes, Here here) {
  const Region& region = region_of(address, bytes, true, here);
  std::vector<bool>& stored = stored_[&region - regions_.data()];
  const size_t begin = static_cast<char*>(address) - static_cast<const char*>(region.begin);
  for (size_t i = begin; i < begin + bytes; ++i) {
    if (stored[i]) fail("writes byte " + std::to_string(i) + " of " + region.name + " a second time", here);
    stored[i] = true;
  }
}

// ---- banks ----

// A turn serves every bank's one word; accesses of 16 bytes are served for eight lanes at a time.
void Machine::count_wavefronts(const std::vector<uint32_t>& addresses, int bytes, Site& seen) {
  const size_t group = 128 / bytes;
  for (size_t first = 0; first < addresses.size(); first += group) {
    std::vector<uint32_t> words;
    for (size_t i = first; i < std::min(first + group, addresses.size()); ++i)
      for (int b = 0; b < bytes; b += 4) words.push_back((addresses[i] + b) / 4);
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    int turns[32] = {};
    for (const uint32_t word : words) ++turns[word % 32];
    const int most = *std::max_element(turns, turns + 32);
    seen.wavefronts += most;
    seen.conflicts += most - 1;
  }
}

// Brings together what the lanes of a warp accessed by the same instruction: the n-th time that each came by.
void Machine::settle(int warp) {
  std::map<std::tuple<const char*, const char*, int, int>, std::pair<int, std::vector<uint32_t>>> instructions;
  for (int i = warp * kLanes; i < (warp + 1) * kLanes; ++i) {
    std::map<std::pair<const char*, int>, int> times;
    for (const Access& access : lanes_[i].accesses) {
      const int time = times[{access.here.file, access.here.line}]++;
      auto& [bytes, addresses] = instructions[{access.primitive, access.here.file, access.here.line, time}];
      bytes = access.bytes;
      addresses.push_back(access.address);
    }
    lanes_[i].accesses.clear();
  }
  for (const auto& [key, accesses] : instructions) {
    Site& seen = site(std::get<0>(key), {std::get<1>(key), std::get<2>(key)});
    ++seen.calls;
    count_wavefronts(accesses.second, accesses.first, seen);
  }
}

}  // namespace grm::emulation
