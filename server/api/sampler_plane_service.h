// SamplerPlane: one bidirectional stream per sampler. Carries requests to it and turns what it says
// into events, one message at a time: the next one is read when the loop has taken in the last one,
// so a sampler can't fill the loop's queue.
//
// Thread-safe. Order: construct, register, serve; CloseAll; shut the server down; destroy.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "diffmoe/worker/v1/sampler_plane.grpc.pb.h"
#include "server/api/session.h"
#include "server/call_table.h"
#include "server/loop.h"

namespace diffmoe::server {

class SamplerPlaneService final : public worker::v1::SamplerPlane::CallbackService {
 public:
  SamplerPlaneService(Loop* loop, CallTable* calls) : loop_(loop), calls_(calls) {}

  grpc::ServerBidiReactor<worker::v1::SamplerMessage, worker::v1::SamplerCommand>* Session(
      grpc::CallbackServerContext* context) override;

  // For the loop. Unknown sessions are ignored: they have ended.
  void Send(uint64_t session, worker::v1::SamplerCommand command);
  void ReadOn(uint64_t session);
  void Close(uint64_t session, const absl::Status& status);
  void CloseAll(const absl::Status& status) { sessions_.CloseAll(status); }

 private:
  Loop* const loop_;
  CallTable* const calls_;
  SessionTable<worker::v1::SamplerMessage, worker::v1::SamplerCommand> sessions_;
};

}  // namespace diffmoe::server
