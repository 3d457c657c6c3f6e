// Answers of unary calls.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "server/api/grpc_status.h"
#include "server/loop.h"

namespace diffmoe::server {

inline grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context,
                                        const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

// `answer` fills the response on the loop thread; its status ends the call.
inline grpc::ServerUnaryReactor* AnswerFromState(grpc::CallbackServerContext* context, Loop* loop,
                                                 std::function<absl::Status(const State&)> answer) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status posted =
      loop->Query([reactor, answer = std::move(answer)](const State& state) {
        reactor->Finish(ToGrpc(answer(state)));
      });
  if (!posted.ok()) reactor->Finish(ToGrpc(posted));
  return reactor;
}

}  // namespace diffmoe::server
