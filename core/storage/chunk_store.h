// Bytes of checkpoints. A RocksDB in DIR/db that is filled by whole table files only: each shard
// stream is written to files of its own in DIR/work, and all files of a checkpoint are ingested in
// one atomic step. Chunks are kChunkBytes long (the last of a shard may be shorter) under
// ck/<job>/<step>/<epoch>/<shard>/<n>, numbers in fixed width, so that byte order is number order.
// The epoch is part of the key, so a checkpoint can be replaced without a moment in which neither
// the old nor the new one is there.
//
// The store keeps no checksums of its own: the caller's manifest holds the XXH3 of each chunk and
// every read is verified against it. Damage of one file makes only that checkpoint unreadable.
//
// Thread safety: ChunkStore may be used from any thread; a ShardWriter and a ShardReader from one
// at a time. All of them must be gone before their ChunkStore.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rocksdb {
class Env;
}

namespace diffmoe {

inline constexpr int64_t kChunkBytes = int64_t{1} << 20;

// XXH3_64bits.
uint64_t ChunkChecksum(std::string_view bytes);

struct CheckpointId {
  std::string job_id;  // 1 to 128 of [A-Za-z0-9._-]
  int64_t step = 0;
  int64_t epoch = 0;
  friend bool operator==(const CheckpointId&, const CheckpointId&) = default;
  // clang-tidy 14 takes the generated comparison with 0 for a null pointer.
  // NOLINTNEXTLINE(modernize-use-nullptr)
  friend auto operator<=>(const CheckpointId&, const CheckpointId&) = default;
};
// "job fashion-1 step 500 (epoch 3)", for messages.
std::string ToString(const CheckpointId& id);

// What a manifest knows of one shard's bytes.
struct ShardLayout {
  int shard = 0;
  int64_t bytes = 0;
  int64_t chunk_bytes = kChunkBytes;
  std::vector<uint64_t> chunk_xxh3;
};

struct ChunkStoreOptions {
  // A shard's table files are cut at this size.
  int64_t file_bytes = int64_t{256} << 20;
  // NewShard refuses when less than its bytes plus this is free.
  int64_t reserve_bytes = int64_t{64} << 20;
  // When the database is damaged, make a new one of the tables that are there. For an operator's
  // explicit repair (coordinator flag --accept-data-loss); never on by itself.
  bool accept_loss = false;
  // For tests that make the disk fail. Default: rocksdb::Env::Default().
  rocksdb::Env* env = nullptr;
};

// One shard being written. Destroying it before Ingest removes its files.
class ShardWriter final {
 public:
  ~ShardWriter();
  // RESOURCE_EXHAUSTED when the disk is full; INVALID_ARGUMENT beyond the announced size. After an
  // error: destroy it.
  absl::Status Append(std::string_view bytes);
  // Writes what is left and syncs the files. INVALID_ARGUMENT when bytes are missing.
  absl::Status Seal();
  // Complete after Seal.
  const ShardLayout& layout() const;

 private:
  friend class ChunkStore;
  class Impl;
  explicit ShardWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Reads ranges of one shard; keeps the last chunk, so that small neighbouring ranges cost one read.
class ShardReader final {
 public:
  ~ShardReader();
  // Hands [offset, offset + bytes) to `sink` in pieces of at most kChunkBytes; an error of `sink`
  // ends it. Errors: OUT_OF_RANGE; DATA_LOSS naming checkpoint, shard and chunk when it is missing
  // or damaged.
  absl::Status Read(int64_t offset, int64_t bytes,
                    absl::FunctionRef<absl::Status(std::string_view)> sink);

 private:
  friend class ChunkStore;
  class Impl;
  explicit ShardReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A checkpoint whose bytes are in the store.
struct StoredCheckpoint {
  CheckpointId id;
  int64_t bytes = 0;  // on disk
};

class ChunkStore final {
 public:
  // Opens or creates the store and sweeps work files that a crash has left. Tables that the
  // database doesn't list are set aside (chunk_repair.h). Errors as RecordStore::Open.
  static absl::StatusOr<std::unique_ptr<ChunkStore>> Open(const std::string& directory,
                                                          const ChunkStoreOptions& options = {});
  ~ChunkStore();

  // Errors: INVALID_ARGUMENT for a bad id or size; RESOURCE_EXHAUSTED when there is no room for
  // `bytes`.
  absl::StatusOr<std::unique_ptr<ShardWriter>> NewShard(const CheckpointId& id, int shard,
                                                        int64_t bytes);

  // Makes the sealed shards of one checkpoint durable and readable, all or none. A checkpoint of
  // the same id must not be there (delete it first). RESOURCE_EXHAUSTED when the disk is full;
  // works again once there is space.
  absl::Status Ingest(const CheckpointId& id, std::vector<std::unique_ptr<ShardWriter>> shards);

  std::unique_ptr<ShardReader> NewReader(const CheckpointId& id, ShardLayout layout) const;

  // Whether all chunks of the shard are listed by the store and their files are there in full
  // length. Reads no data. DATA_LOSS naming the shard and what is missing.
  absl::Status CheckPresent(const CheckpointId& id, const ShardLayout& layout) const;

  // As CheckPresent, and reads every byte of the shard's files anew and compares it with the
  // layout's checksums; calls `on_bytes` for each piece. DATA_LOSS names the shard and the file or
  // chunk, also when the checkpoint is deleted meanwhile.
  absl::Status Verify(const CheckpointId& id, const ShardLayout& layout,
                      absl::FunctionRef<void(int64_t bytes)> on_bytes) const;

  // Whether the list of files on disk is the one in use, as a restart would read it. DATA_LOSS
  // names the damage.
  absl::Status VerifyIndex() const;

  // Writes a copy of the store as it is now to `directory`, which must not exist; see CopyDatabase.
  // Shards that are being written are left out. Ingests and deletes go on meanwhile.
  absl::Status BackUp(const std::string& directory) const;

  // Removes all bytes of the checkpoint; the space is free at once. OK when there are none.
  absl::Status Delete(const CheckpointId& id);

  // Every checkpoint with bytes in the store, ascending.
  std::vector<StoredCheckpoint> List() const;

  // To be called when no checkpoint is missing: removes the tables that Open has set aside.
  absl::Status ForgetUnlisted();

  // Bytes on disk.
  int64_t size_bytes() const;

 private:
  class Impl;
  explicit ChunkStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace diffmoe
