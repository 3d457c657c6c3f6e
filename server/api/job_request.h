// What every request that makes or changes a job is checked for, beside its spec. Pure.
#pragma once

#include <google/protobuf/map.h>

#include <string>

#include "absl/status/status.h"
#include "server/state/event.h"

namespace diffmoe::server {

using LabelMap = google::protobuf::Map<std::string, std::string>;

// request_id: at most 64 bytes; priority: -1000 to 1000; labels: at most 32, keys of [a-z0-9._/-]
// up to 63 bytes, values up to 256 bytes of printable UTF-8. INVALID_ARGUMENT with all violations.
absl::Status CheckJobRequest(const std::string& request_id, int priority, const LabelMap& labels);

template <typename Request>
JobMeta MetaOf(const Request& request, std::string request_hash) {
  return {request.request_id(),
          std::move(request_hash),
          request.priority(),
          {request.labels().begin(), request.labels().end()}};
}

}  // namespace diffmoe::server
