// Calls to a cluster that may be killed at any moment.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "grpcpp/grpcpp.h"

namespace diffmoe::test {

// With a deadline.
std::unique_ptr<grpc::ClientContext> CallContext();

// UNAVAILABLE when the cluster is gone; INTERNAL naming the call for any other error.
absl::Status CallStatus(const grpc::Status& status, const std::string& call);

// Whether the API has refused a change because of the state that it met: without effect.
bool Refused(const grpc::Status& status);

}  // namespace diffmoe::test
