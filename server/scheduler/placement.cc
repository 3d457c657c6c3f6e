#include "server/scheduler/placement.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "core/base/planted_faults.h"

namespace diffmoe::server {
namespace {

struct Room {
  std::string worker_id;
  std::vector<int> slots;
};

// Workers in the order in which they are filled.
std::vector<Room> FillOrder(std::vector<Room> rooms, size_t wanted) {
  std::stable_sort(rooms.begin(), rooms.end(),
                   [](const Room& a, const Room& b) { return a.slots.size() > b.slots.size(); });
  // The last worker that holds the whole gang is the tightest fit; of equals the first by name.
  const Room* best = nullptr;
  for (const Room& room : rooms) {
    if (room.slots.size() < wanted) break;
    if (best == nullptr || room.slots.size() < best->slots.size()) best = &room;
  }
  if (best != nullptr) return {*best};
  return rooms;
}

std::string Slots(int count, const std::string& kind) {
  return absl::StrCat(count, " ", kind, count == 1 ? " slot" : " slots");
}

}  // namespace

std::string DeviceKind(const std::string& device) { return device.substr(0, device.find(':')); }

PlacementResult PlaceGang(int ranks, const std::string& device_kind,
                          const std::vector<CandidateSlot>& slots) {
  std::map<std::string, std::vector<int>> free_by_worker;
  int total = 0, free = 0;
  for (const CandidateSlot& slot : slots) {
    if (DeviceKind(slot.device) != device_kind) continue;
    ++total;
    if (!slot.free) continue;
    ++free;
    free_by_worker[slot.worker_id].push_back(slot.slot);
  }
  if (Planted(Fault::kGangPlacedPartially) && ranks > 1 && free == ranks - 1) --ranks;
  PlacementResult result;
  result.ever = ranks <= total;
  if (free < ranks) {
    result.missing = ranks - free;
    result.reason = absl::StrCat("needs ", Slots(ranks, device_kind), ", ", free,
                                 free == 1 ? " is" : " are", " free of ", total, " in the cluster");
    return result;
  }
  std::vector<Room> rooms;
  for (auto& [worker_id, free_slots] : free_by_worker) {
    std::sort(free_slots.begin(), free_slots.end());
    rooms.push_back({worker_id, free_slots});
  }
  for (const Room& room : FillOrder(std::move(rooms), static_cast<size_t>(ranks))) {
    for (const int slot : room.slots) {
      if (static_cast<int>(result.ranks.size()) == ranks) return result;
      result.ranks.push_back({room.worker_id, slot});
    }
  }
  return result;
}

}  // namespace diffmoe::server
