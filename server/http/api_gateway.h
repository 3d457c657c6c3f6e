// The public API over HTTP and JSON, for the console and for scripts: a thin client of the
// coordinator's own gRPC server. docs/console.md lists the paths.
//
// Thread-safe. Each stream (a watched job, a log, a sampling request) holds a thread of the HTTP
// server; beyond max_streams they are refused. A stream that has nothing to say writes a sign of
// life every few seconds, and so finds out that its client is gone.
//
// Start: after the gRPC server. Stop: Shutdown before the gRPC server stops; it ends the streams,
// and later requests are refused. The routes keep the gateway alive.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/http/http_server.h"
#include "server/http/api_route.h"
#include "server/http/rpc_call.h"

namespace diffmoe::server {

struct ApiGatewayOptions {
  bool writes = false;  // also what changes or costs something: sampling, cancel, pause, resume
  int max_streams = 32;
  absl::Duration call_limit = absl::Seconds(10);
  absl::Duration sign_of_life = absl::Seconds(2);
};

class ApiGateway : public std::enable_shared_from_this<ApiGateway> {
 public:
  ApiGateway(std::shared_ptr<grpc::ChannelInterface> channel, ApiGatewayOptions options)
      : channel_(std::move(channel)), options_(options) {}

  // /api/v1/..., /readyz and /sd/workers.
  void AddRoutes(http::HttpServer* server);
  void Shutdown();

 private:
  class OpenStream;

  http::Reply Serve(const http::Request& request);
  http::Reply One(const ApiRoute& route, const google::protobuf::Message& request);
  http::Reply Many(const ApiRoute& route, const google::protobuf::Message& request);
  http::Reply Console() const;
  http::Reply Ready();
  http::Reply WorkerTargets();
  // Empty once Shutdown was called.
  std::shared_ptr<grpc::ChannelInterface> channel();
  // Nothing when there are too many.
  std::shared_ptr<OpenStream> Open(const ApiRoute& route, const google::protobuf::Message& request);
  void Close(StreamCall* call);

  absl::Mutex mutex_;
  std::shared_ptr<grpc::ChannelInterface> channel_ ABSL_GUARDED_BY(mutex_);
  int streams_ ABSL_GUARDED_BY(mutex_) = 0;
  std::set<StreamCall*> calls_ ABSL_GUARDED_BY(mutex_);
  const ApiGatewayOptions options_;
};

// A gRPC error as a reply: {"error": {"code", "status", "message", "details"}}, details as
// ErrorDetails in JSON.
http::Reply ErrorReplyOf(const grpc::Status& status);

}  // namespace diffmoe::server
