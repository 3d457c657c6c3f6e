// The chain of commits inside a RecordStore's RocksDB: commit n writes key (0, "chain", n) with a
// hash over commit n-1's hash, n and its own writes. The newest kChainLength links are kept; a gap
// among them means that a commit was lost.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/storage/high_water_mark.h"
#include "core/storage/record_store.h"
#include "rocksdb/db.h"
#include "rocksdb/write_batch.h"

namespace diffmoe::storage {

inline constexpr int64_t kChainLength = 1024;

// The commit that follows `previous` with these writes.
CommitPoint NextCommit(const CommitPoint& previous, absl::Span<const RecordWrite> writes);

// Adds the link of `point` to its batch and drops the link that falls off the end.
rocksdb::Status AddLink(const CommitPoint& point, rocksdb::WriteBatch& batch);
// Declares `point` the start of the chain: links before it are not asked for any more.
rocksdb::Status AddBase(const CommitPoint& point, rocksdb::WriteBatch& batch);

// The newest commit; sequence 0 when there is none. Reads one key.
absl::StatusOr<CommitPoint> ReadHead(rocksdb::DB& db);
// Checks the kept links for gaps. DATA_LOSS names the missing commits.
absl::Status CheckLinks(rocksdb::DB& db, const CommitPoint& head);
// The hash of commit `sequence`; NOT_FOUND when its link has been dropped.
absl::StatusOr<ChainHash> ReadLink(rocksdb::DB& db, int64_t sequence);

}  // namespace diffmoe::storage
