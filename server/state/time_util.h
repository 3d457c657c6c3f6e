// Unix milliseconds in Timestamp messages.
#pragma once

#include <google/protobuf/timestamp.pb.h>

#include <cstdint>

namespace diffmoe::server {

inline void SetTimestamp(google::protobuf::Timestamp* timestamp, int64_t unix_ms) {
  timestamp->set_seconds(unix_ms / 1000);
  timestamp->set_nanos(static_cast<int32_t>(unix_ms % 1000 * 1'000'000));
}

}  // namespace diffmoe::server
