// Keys of the chunk store: ck/<job>/<step>/<epoch>/<shard>/<n>, numbers in decimal with leading
// zeros, so that the order of the bytes is the order of the numbers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "core/storage/chunk_store.h"

namespace diffmoe::storage {

inline constexpr int kMaxShard = 999'999;
inline constexpr int64_t kMaxChunk = 99'999'999;  // 95 TiB a shard

struct ChunkKey {
  CheckpointId id;
  int shard = 0;
  int64_t chunk = 0;
};

absl::Status CheckId(const CheckpointId& id);

std::string EncodeChunkKey(const ChunkKey& key);
// Nothing when it isn't such a key.
std::optional<ChunkKey> DecodeChunkKey(std::string_view key);

// Every key of the checkpoint lies in [CheckpointBegin, CheckpointEnd).
std::string CheckpointBegin(const CheckpointId& id);
std::string CheckpointEnd(const CheckpointId& id);

}  // namespace diffmoe::storage
