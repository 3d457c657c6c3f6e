// Where the ranks of a group go. Pure.
#pragma once

#include <string>
#include <vector>

namespace diffmoe::server {

// "cpu" or "cuda" of a slot's device "cpu", "cuda:0".
std::string DeviceKind(const std::string& device);

struct CandidateSlot {
  std::string worker_id;
  int slot = 0;
  std::string device;
  bool free = false;
};

struct PlacedRank {
  std::string worker_id;
  int slot = 0;
};

struct PlacementResult {
  std::vector<PlacedRank> ranks;  // by rank; empty: it doesn't fit now
  std::string reason;             // why not, in words
  int missing = 0;                // free slots of the kind that it lacks
  bool ever = false;              // it would fit if all slots of the kind were free
};

// All `ranks` or none, on free slots of `device_kind`. One worker when one has room (the one with
// the least room, so that large holes stay), else as few as possible; ranks of a worker are
// neighbours. Ties: byte order of the worker id.
PlacementResult PlaceGang(int ranks, const std::string& device_kind,
                          const std::vector<CandidateSlot>& slots);

}  // namespace diffmoe::server
