#include "server/checkpoints/shard_rules.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"

namespace diffmoe::server {
namespace {

using worker::v1::Manifest;
using worker::v1::ShardHeader;
using worker::v1::ShardInfo;
using worker::v1::SlicePlace;
using worker::v1::TensorSlice;

std::string Describe(const ShardHeader& header) {
  return absl::StrCat("shard of rank ", header.rank(), ", job ", EscapeForLog(header.group().id()),
                      " step ", header.step());
}

std::string Named(const TensorSlice& slice) {
  return absl::StrCat("tensor \"", EscapeForLog(slice.tensor().substr(0, kMaxTensorName)), "\"");
}

absl::Status Invalid(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

// The number of elements, or -1 when a dimension is negative or the product doesn't fit.
int64_t ElementCount(const google::protobuf::RepeatedField<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t dimension : shape) {
    if (dimension < 0 || __builtin_mul_overflow(count, dimension, &count)) return -1;
  }
  return count;
}

absl::Status CheckSlice(const TensorSlice& slice, int64_t shard_bytes, const std::string& where) {
  const std::string name = Named(slice);
  if (slice.tensor().empty() || slice.tensor().size() > kMaxTensorName) {
    return Invalid(where, absl::StrCat(name, ": a name has 1 to ", kMaxTensorName, " bytes"));
  }
  const int64_t element_bytes = DtypeBytes(slice.dtype());
  if (element_bytes == 0) {
    return Invalid(where, absl::StrCat(name, ": unknown dtype \"",
                                       EscapeForLog(slice.dtype().substr(0, 16)), "\""));
  }
  if (slice.global_shape_size() > kMaxDimensions) {
    return Invalid(where, absl::StrCat(name, ": ", slice.global_shape_size(),
                                       " dimensions, at most ", kMaxDimensions));
  }
  const int64_t elements = ElementCount(slice.global_shape());
  if (elements < 0) {
    return Invalid(where, absl::StrCat(name, ": shape [", absl::StrJoin(slice.global_shape(), ", "),
                                       "] is impossible"));
  }
  if (slice.first_element() < 0 || slice.elements() <= 0 || slice.elements() > elements ||
      slice.first_element() > elements - slice.elements()) {
    return Invalid(where, absl::StrCat(name, ": elements [", slice.first_element(), ", +",
                                       slice.elements(), ") of ", elements));
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(slice.elements(), element_bytes, &bytes) || slice.shard_offset() < 0 ||
      bytes > shard_bytes || slice.shard_offset() > shard_bytes - bytes) {
    return Invalid(where, absl::StrCat(name, ": ", slice.elements(), " elements of ", element_bytes,
                                       " bytes at offset ", slice.shard_offset(),
                                       " don't fit the shard's ", shard_bytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status CheckNoSharedBytes(const ShardHeader& header, const std::string& where) {
  std::vector<const TensorSlice*> slices;
  for (const TensorSlice& slice : header.slices()) slices.push_back(&slice);
  std::sort(slices.begin(), slices.end(), [](const TensorSlice* a, const TensorSlice* b) {
    return a->shard_offset() < b->shard_offset();
  });
  for (size_t i = 1; i < slices.size(); ++i) {
    const TensorSlice& before = *slices[i - 1];
    const int64_t end = before.shard_offset() + before.elements() * DtypeBytes(before.dtype());
    if (slices[i]->shard_offset() >= end) continue;
    return Invalid(where,
                   absl::StrCat(Named(before), " ends at byte ", end, ", ", Named(*slices[i]),
                                " starts at byte ", slices[i]->shard_offset()));
  }
  return absl::OkStatus();
}

absl::Status CheckSummary(const ShardHeader& header, const std::string& where) {
  if (header.has_summary() != (header.rank() == 0)) {
    return Invalid(
        where, header.rank() == 0 ? "rank 0 must send the summary" : "only rank 0 sends a summary");
  }
  const worker::v1::CheckpointSummary& summary = header.summary();
  const int64_t expected = static_cast<int64_t>(summary.blocks_size()) * summary.experts();
  if (summary.experts() < 0 || summary.thresholds_size() != expected || expected > kMaxThresholds) {
    return Invalid(where,
                   absl::StrCat("summary has ", summary.thresholds_size(), " thresholds, expected ",
                                summary.blocks_size(), " blocks x ", summary.experts(),
                                " experts (at most ", kMaxThresholds, ")"));
  }
  if (summary.trainer_state().size() > kMaxTrainerState) {
    return Invalid(where, absl::StrCat("trainer state has ", summary.trainer_state().size(),
                                       " bytes, at most ", kMaxTrainerState));
  }
  return absl::OkStatus();
}

struct Run {
  const TensorSlice* slice;
  int rank;
};

absl::Status CheckTensor(std::vector<Run> runs) {
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) {
    return a.slice->first_element() < b.slice->first_element();
  });
  const TensorSlice& first = *runs.front().slice;
  const auto same_shape = [&](const TensorSlice& other) {
    return std::equal(first.global_shape().begin(), first.global_shape().end(),
                      other.global_shape().begin(), other.global_shape().end());
  };
  int64_t next = 0;
  for (const Run& run : runs) {
    if (run.slice->dtype() != first.dtype() || !same_shape(*run.slice)) {
      return absl::InvalidArgumentError(
          absl::StrCat(Named(first), " has another dtype or shape on rank ", run.rank,
                       " than on rank ", runs.front().rank));
    }
    if (run.slice->first_element() != next) {
      return absl::InvalidArgumentError(absl::StrCat(
          Named(first), ": elements ", std::min(next, run.slice->first_element()), " to ",
          std::max(next, run.slice->first_element()) - 1,
          run.slice->first_element() < next ? " come twice, again from rank "
                                            : " come from no rank, before those of rank ",
          run.rank));
    }
    next += run.slice->elements();
  }
  const int64_t elements = ElementCount(first.global_shape());
  if (next == elements) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Named(first), ": elements ", next, " to ", elements - 1, " come from no rank"));
}

}  // namespace

int64_t DtypeBytes(const std::string& dtype) {
  static constexpr std::array<std::pair<const char*, int64_t>, 13> kTypes{{{"F64", 8},
                                                                           {"F32", 4},
                                                                           {"F16", 2},
                                                                           {"BF16", 2},
                                                                           {"I64", 8},
                                                                           {"I32", 4},
                                                                           {"I16", 2},
                                                                           {"I8", 1},
                                                                           {"U64", 8},
                                                                           {"U32", 4},
                                                                           {"U16", 2},
                                                                           {"U8", 1},
                                                                           {"BOOL", 1}}};
  for (const auto& [name, bytes] : kTypes) {
    if (dtype == name) return bytes;
  }
  return 0;
}

absl::Status CheckHeader(const ShardHeader& header, int max_world_size) {
  const std::string where = Describe(header);
  if (header.world_size() < 1 || header.world_size() > max_world_size) {
    return Invalid(where, absl::StrCat("world size must be 1 to ", max_world_size, ", got ",
                                       header.world_size()));
  }
  if (header.rank() < 0 || header.rank() >= header.world_size()) {
    return Invalid(where, absl::StrCat("rank must be 0 to ", header.world_size() - 1, ", got ",
                                       header.rank()));
  }
  if (header.step() < 1)
    return Invalid(where, absl::StrCat("step must be >= 1, got ", header.step()));
  if (header.bytes() < 0)
    return Invalid(where, absl::StrCat("bytes must be >= 0, got ", header.bytes()));
  if (header.slices_size() > kMaxSlicesPerShard) {
    return Invalid(where,
                   absl::StrCat(header.slices_size(), " slices, at most ", kMaxSlicesPerShard));
  }
  for (const TensorSlice& slice : header.slices())
    RETURN_IF_ERROR(CheckSlice(slice, header.bytes(), where));
  RETURN_IF_ERROR(CheckNoSharedBytes(header, where));
  return CheckSummary(header, where);
}

absl::Status CheckCoverage(absl::Span<const ShardHeader> headers) {
  std::map<absl::string_view, std::vector<Run>> tensors;
  for (const ShardHeader& header : headers) {
    for (const TensorSlice& slice : header.slices())
      tensors[slice.tensor()].push_back({&slice, header.rank()});
  }
  for (auto& [name, runs] : tensors) RETURN_IF_ERROR(CheckTensor(std::move(runs)));
  return absl::OkStatus();
}

Manifest BuildManifest(absl::Span<const ShardHeader> headers, absl::Span<const ShardLayout> layouts,
                       int64_t commit_time_ms) {
  Manifest manifest;
  const ShardHeader& first = headers.front();
  manifest.set_job_id(first.group().id());
  manifest.set_step(first.step());
  manifest.set_epoch(first.group().epoch());
  manifest.set_world_size(first.world_size());
  manifest.set_commit_time_ms(commit_time_ms);
  for (size_t rank = 0; rank < headers.size(); ++rank) {
    const ShardLayout& layout = layouts[rank];
    ShardInfo& shard = *manifest.add_shards();
    shard.set_shard(layout.shard);
    shard.set_bytes(layout.bytes);
    shard.set_chunk_bytes(layout.chunk_bytes);
    shard.mutable_chunk_xxh3()->Add(layout.chunk_xxh3.begin(), layout.chunk_xxh3.end());
    for (const TensorSlice& slice : headers[rank].slices()) {
      SlicePlace& place = *manifest.add_slices();
      *place.mutable_slice() = slice;
      place.set_shard(layout.shard);
    }
    if (headers[rank].has_summary()) *manifest.mutable_summary() = headers[rank].summary();
  }
  return manifest;
}

CheckpointId IdOf(const Manifest& manifest) {
  return {manifest.job_id(), manifest.step(), manifest.epoch()};
}

absl::StatusOr<ShardLayout> LayoutOf(const Manifest& manifest, int shard) {
  for (const ShardInfo& info : manifest.shards()) {
    if (info.shard() != shard) continue;
    return ShardLayout{shard,
                       info.bytes(),
                       info.chunk_bytes(),
                       {info.chunk_xxh3().begin(), info.chunk_xxh3().end()}};
  }
  return absl::OutOfRangeError(absl::StrCat(ToString(IdOf(manifest)), " has ",
                                            manifest.shards_size(), " shards, no shard ", shard));
}

}  // namespace diffmoe::server
