// Counts every RPC by method and status, whatever API it is served with. Install it with
// ServerBuilder::experimental().SetInterceptorCreators.
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <memory>
#include <vector>

#include "core/metrics/metrics.h"

namespace diffmoe::server {

std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> RpcObservers(
    metrics::RpcMetrics* metrics);

}  // namespace diffmoe::server
