// The key-value store in which ranks of a group find each other: one namespace per (group, epoch),
// in memory. Bounds: a key 1 KiB, a value 1 MiB, a namespace 65,536 keys and 64 MiB, 1,024
// namespaces; beyond: RESOURCE_EXHAUSTED.
//
// Thread safety: every method may be called from any thread; waiting calls block theirs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "diffmoe/worker/v1/bulk_plane.pb.h"

namespace diffmoe::server {

class RendezvousStore {
 public:
  // Waiting get and wait calls are held to this, whatever they ask for.
  static constexpr absl::Duration kMaxWait = absl::Minutes(30);

  RendezvousStore();
  ~RendezvousStore();

  // Carries out one operation. `cancelled` is asked about five times a second while it waits.
  // Errors: INVALID_ARGUMENT; NOT_FOUND never (get waits); DEADLINE_EXCEEDED naming the keys that
  // did not come; ABORTED when the group ended; CANCELLED; RESOURCE_EXHAUSTED.
  absl::StatusOr<worker::v1::KeyValueResponse> Execute(const worker::v1::KeyValueRequest& request,
                                                       absl::FunctionRef<bool()> cancelled);

  // Drops the namespaces of the group up to and including this epoch; their waiters get ABORTED.
  void EndGroup(const worker::v1::GroupId& group);
  // Drops everything; every waiting and later call gets UNAVAILABLE.
  void Shutdown();

 private:
  struct Namespace;
  absl::StatusOr<std::shared_ptr<Namespace>> Find(const worker::v1::GroupId& group);

  absl::Mutex mutex_;
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::pair<std::string, int64_t>, std::shared_ptr<Namespace>> namespaces_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace diffmoe::server
