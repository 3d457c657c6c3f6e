// WorkerPlane: one bidirectional stream per worker. Turns its messages into events and carries the
// loop's messages back. A worker that doesn't read is disconnected, comes back and is told anew.
//
// Thread-safe. Order: construct, register, serve; CloseAll; shut the server down; destroy.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "diffmoe/worker/v1/worker_plane.grpc.pb.h"
#include "server/api/session.h"
#include "server/call_table.h"
#include "server/loop.h"

namespace diffmoe::server {

class WorkerPlaneService final : public worker::v1::WorkerPlane::CallbackService {
 public:
  WorkerPlaneService(Loop* loop, CallTable* calls) : loop_(loop), calls_(calls) {}

  grpc::ServerBidiReactor<worker::v1::WorkerMessage, worker::v1::CoordinatorMessage>* Session(
      grpc::CallbackServerContext* context) override;

  // For the loop. Unknown sessions are ignored: they have ended.
  void Send(uint64_t session, worker::v1::CoordinatorMessage message);
  void Close(uint64_t session, const absl::Status& status);
  // Every session, and every later one.
  void CloseAll(const absl::Status& status) { sessions_.CloseAll(status); }

 private:
  Loop* const loop_;
  CallTable* const calls_;
  SessionTable<worker::v1::WorkerMessage, worker::v1::CoordinatorMessage> sessions_;
};

}  // namespace diffmoe::server
