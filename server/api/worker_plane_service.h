// WorkerPlane: one bidirectional stream per worker. Turns its messages into events and carries the
// loop's messages back. What waits for a worker is bounded (1,024 messages, 64 MB); a worker that
// doesn't read is disconnected, comes back and is told anew.
//
// Thread-safe. Order: construct, register, serve; CloseAll; shut the server down; destroy.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "diffmoe/worker/v1/worker_plane.grpc.pb.h"
#include "server/call_table.h"
#include "server/loop.h"

namespace diffmoe::server {

class WorkerSession;

class WorkerPlaneService final : public worker::v1::WorkerPlane::CallbackService {
 public:
  WorkerPlaneService(Loop* loop, CallTable* calls) : loop_(loop), calls_(calls) {}

  grpc::ServerBidiReactor<worker::v1::WorkerMessage, worker::v1::CoordinatorMessage>* Session(
      grpc::CallbackServerContext* context) override;

  // For the loop. Unknown sessions are ignored: they have ended.
  void Send(uint64_t session, worker::v1::CoordinatorMessage message);
  void Close(uint64_t session, const absl::Status& status);
  // Every session, and every later one.
  void CloseAll(const absl::Status& status);

 private:
  friend class WorkerSession;
  std::shared_ptr<WorkerSession> Find(uint64_t session);
  void Ended(uint64_t session);

  Loop* loop_;
  CallTable* calls_;
  absl::Mutex mutex_;
  std::map<uint64_t, std::shared_ptr<WorkerSession>> sessions_ ABSL_GUARDED_BY(mutex_);
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace diffmoe::server
