// Collectives between ranks of one host without sockets: bytes travel through outboxes in shared
// memory (outbox.h).
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "core/parallel/collectives.h"

namespace c10d {
class Store;
}

namespace diffmoe {

struct CollectivesOptions {
  // Of joining and of every collective.
  std::chrono::milliseconds timeout{60'000};
  // Where ranks of several hosts meet.
  std::string interface_address = "127.0.0.1";
  // Size of each of a rank's two outboxes, at least 64 bytes per rank; longer messages travel in
  // rounds.
  size_t outbox_bytes = size_t{1} << 20;
};

// Joins the group: blocks until all `world_size` ranks are there or the time is over
// (CollectiveError). Ranks are processes, or threads of one process. When every rank can read
// every other rank's shared memory, the group uses it; otherwise all ranks use Gloo and log why.
//
// With shared memory a collective fails within 0.1 s when a peer's process has ended or its
// collectives were destroyed, and at once when ranks differ in the collective or in the number of
// bytes; with Gloo, see gloo_collectives.h.
std::unique_ptr<Collectives> MakeCollectives(c10::intrusive_ptr<c10d::Store> store, int rank,
                                             int world_size,
                                             const CollectivesOptions& options = {});

}  // namespace diffmoe
