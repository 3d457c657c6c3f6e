// The last acknowledged commit of a RecordStore, in a small file of its own. Two slots are written
// in turn, in place, each with a checksum, so that a torn write leaves the one before. Writing
// needs no free space. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace diffmoe::storage {

using ChainHash = std::array<uint8_t, 16>;

struct CommitPoint {
  int64_t sequence = 0;
  ChainHash hash{};
  friend bool operator==(const CommitPoint&, const CommitPoint&) = default;
};

class HighWaterMark {
 public:
  // Opens the file if it is there; creates nothing. Errors: DATA_LOSS when the file is damaged;
  // FAILED_PRECONDITION for a newer format; PERMISSION_DENIED, INTERNAL.
  static absl::StatusOr<HighWaterMark> Open(const std::string& path);

  HighWaterMark(HighWaterMark&& other) noexcept;
  HighWaterMark& operator=(HighWaterMark&& other) noexcept;
  ~HighWaterMark();

  // Nothing: there is no file yet.
  const std::optional<CommitPoint>& point() const { return point_; }

  // Writes and syncs; creates the file when it isn't there, whole or not at all.
  absl::Status Set(const CommitPoint& point);
  // The same in place of a damaged file.
  static absl::StatusOr<HighWaterMark> Recreate(const std::string& path, const CommitPoint& point);

 private:
  explicit HighWaterMark(std::string path) : path_(std::move(path)) {}
  absl::Status Create(const CommitPoint& point);
  std::string path_;
  int fd_ = -1;
  uint64_t generation_ = 0;
  std::optional<CommitPoint> point_;
};

}  // namespace diffmoe::storage
