// What both stores need around RocksDB: status codes, and its log lines in the project's log.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "rocksdb/env.h"
#include "rocksdb/status.h"

namespace diffmoe::storage {

// `action` completes "cannot ...", for example "read records of /data/records". No space:
// RESOURCE_EXHAUSTED; corruption: DATA_LOSS; a path that can't be used: PERMISSION_DENIED; a
// missing key: NOT_FOUND; else INTERNAL.
absl::Status FromRocksDb(const rocksdb::Status& status, absl::string_view action);

// Warnings and errors go to Log under `component`, the rest is dropped; no LOG files are written.
std::shared_ptr<rocksdb::Logger> NewRocksDbLogger(std::string_view component);

}  // namespace diffmoe::storage
