#include "core/storage/chunk_key.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "core/base/log.h"

namespace diffmoe::storage {
namespace {

constexpr size_t kMaxJobId = 128;

}  // namespace

absl::Status CheckId(const CheckpointId& id) {
  const bool plain = std::all_of(id.job_id.begin(), id.job_id.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
  if (id.job_id.empty() || id.job_id.size() > kMaxJobId || !plain) {
    return absl::InvalidArgumentError(
        absl::StrCat("job id must be 1 to ", kMaxJobId, " of [A-Za-z0-9._-], got \"",
                     EscapeForLog(id.job_id.substr(0, kMaxJobId)), "\""));
  }
  if (id.step < 0)
    return absl::InvalidArgumentError(absl::StrCat("step must be >= 0, got ", id.step));
  if (id.epoch < 0)
    return absl::InvalidArgumentError(absl::StrCat("epoch must be >= 0, got ", id.epoch));
  return absl::OkStatus();
}

std::string CheckpointBegin(const CheckpointId& id) {
  return absl::StrFormat("ck/%s/%019d/%019d/", id.job_id, id.step, id.epoch);
}

std::string CheckpointEnd(const CheckpointId& id) {
  std::string end = CheckpointBegin(id);
  ++end.back();
  return end;
}

std::string EncodeChunkKey(const ChunkKey& key) {
  return CheckpointBegin(key.id) + absl::StrFormat("%06d/%08d", key.shard, key.chunk);
}

std::optional<ChunkKey> DecodeChunkKey(std::string_view key) {
  const std::vector<absl::string_view> parts =
      absl::StrSplit(absl::string_view(key.data(), key.size()), '/');
  ChunkKey decoded;
  if (parts.size() != 6 || parts[0] != "ck" || !absl::SimpleAtoi(parts[2], &decoded.id.step) ||
      !absl::SimpleAtoi(parts[3], &decoded.id.epoch) ||
      !absl::SimpleAtoi(parts[4], &decoded.shard) || !absl::SimpleAtoi(parts[5], &decoded.chunk)) {
    return std::nullopt;
  }
  decoded.id.job_id = std::string(parts[1]);
  return decoded;
}

}  // namespace diffmoe::storage

namespace diffmoe {

std::string ToString(const CheckpointId& id) {
  return absl::StrCat("job ", id.job_id, " step ", id.step, " (epoch ", id.epoch, ")");
}

}  // namespace diffmoe
