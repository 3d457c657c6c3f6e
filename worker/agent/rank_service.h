// RankPlane: one session per rank, on the worker's unix socket. A session ends with OK when the
// rank has said its last words, which tells the rank that they have arrived. Thread-safe; one
// thread per session and one for its commands.
#pragma once

#include <functional>
#include <utility>

#include "diffmoe/worker/v1/rank_plane.grpc.pb.h"
#include "worker/agent/rank_supervisor.h"

namespace diffmoe {

class RankService final : public worker::v1::RankPlane::Service {
 public:
  // `supervisor` outlives the service; `wake` is called after a session has ended.
  RankService(RankSupervisor* supervisor, std::function<void()> wake)
      : supervisor_(supervisor), wake_(std::move(wake)) {}

  // Errors: INVALID_ARGUMENT, the first message isn't RankHello; those of RankSupervisor::Attach.
  grpc::Status Session(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<worker::v1::RankCommand, worker::v1::RankMessage>* stream) override;

 private:
  RankSupervisor* const supervisor_;
  const std::function<void()> wake_;
};

}  // namespace diffmoe
