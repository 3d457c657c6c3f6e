// Connections to the coordinator.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

namespace diffmoe {

// A connection of its own: no shared state of gRPC delays an attempt, and bulk data doesn't queue
// before a heartbeat. One that has died without a word is noticed within half a minute.
inline std::shared_ptr<grpc::Channel> OpenCoordinatorChannel(const std::string& address) {
  constexpr int kConnectTimeoutMs = 5'000;
  constexpr int kKeepaliveTimeMs = 20'000;
  constexpr int kKeepaliveTimeoutMs = 10'000;
  constexpr int kMaxManifestBytes = 64 << 20;
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetMaxReceiveMessageSize(kMaxManifestBytes);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace diffmoe
