// Where lines of logs go that workers push over the bulk plane (server/api/log_reads.h).
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "diffmoe/worker/v1/bulk_plane.pb.h"

namespace diffmoe::server {

// Thread-safe.
class LogSink {
 public:
  virtual ~LogSink() = default;
  // Waits for room. Errors: NOT_FOUND when nobody waits for these lines; CANCELLED once `cancelled`
  // says so; RESOURCE_EXHAUSTED.
  virtual absl::Status Take(worker::v1::LogLines lines, const std::function<bool()>& cancelled) = 0;
  // Nothing more comes; `whole`: all was sent.
  virtual void End(const std::string& read_id, bool whole) = 0;
};

}  // namespace diffmoe::server
