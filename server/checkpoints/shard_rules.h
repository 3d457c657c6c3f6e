// What a shard header, and all headers of a checkpoint together, must satisfy. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/storage/chunk_store.h"
#include "diffmoe/worker/v1/bulk_plane.pb.h"

namespace diffmoe::server {

inline constexpr int kMaxSlicesPerShard = 100'000;
inline constexpr size_t kMaxTensorName = 512;
inline constexpr int kMaxDimensions = 8;
inline constexpr size_t kMaxTrainerState = size_t{1} << 20;
inline constexpr int kMaxThresholds = 1 << 20;

// Bytes of one element of a safetensors dtype; 0 when unknown.
int64_t DtypeBytes(const std::string& dtype);

// One header alone: ids, rank and world size in range, every slice within its tensor and within the
// shard, no two slices of the shard on the same bytes, the summary present on rank 0 and nowhere
// else. INVALID_ARGUMENT naming rank and tensor.
absl::Status CheckHeader(const worker::v1::ShardHeader& header, int max_world_size);

// All headers of a checkpoint, one per rank: every tensor has one dtype and shape, and its slices
// cover each element exactly once. INVALID_ARGUMENT naming the tensor and the ranks.
absl::Status CheckCoverage(absl::Span<const worker::v1::ShardHeader> headers);

// headers[r] and layouts[r] belong to rank r.
worker::v1::Manifest BuildManifest(absl::Span<const worker::v1::ShardHeader> headers,
                                   absl::Span<const ShardLayout> layouts, int64_t commit_time_ms);

CheckpointId IdOf(const worker::v1::Manifest& manifest);
// The layout of a shard of the manifest. OUT_OF_RANGE when it has no such shard.
absl::StatusOr<ShardLayout> LayoutOf(const worker::v1::Manifest& manifest, int shard);

}  // namespace diffmoe::server
