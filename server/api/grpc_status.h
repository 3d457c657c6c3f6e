// absl::Status with ErrorDetails (server/errors.h) as the grpc::Status of the public API.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace diffmoe::server {

grpc::Status ToGrpc(const absl::Status& status);

}  // namespace diffmoe::server
