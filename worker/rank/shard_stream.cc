#include "worker/rank/shard_stream.h"

#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "worker/grpc_status.h"
#include "worker/rank/rank_link_convert.h"

namespace diffmoe {
namespace {

namespace pb = worker::v1;

constexpr int64_t kChunkBytes = 1 << 20;
constexpr int kMaxUnacknowledged = 16;
constexpr int64_t kSlowestBytesPerSecond = 100'000;

using ShardStream = grpc::ClientReaderWriterInterface<pb::PutShardRequest, pb::PutShardResponse>;

void SetDeadline(grpc::ClientContext* context, int64_t base_seconds, int64_t bytes) {
  context->set_deadline(std::chrono::system_clock::now() +
                        std::chrono::seconds(base_seconds + bytes / kSlowestBytesPerSecond));
}

// Sends data messages and keeps the window of unacknowledged ones.
class ShardSender {
 public:
  ShardSender(ShardStream& stream, const std::function<void()>& moved)
      : stream_(stream), moved_(moved) {
    chunk().reserve(kChunkBytes);
  }

  // False when the stream has broken; the reason comes from Finish.
  bool Append(const char* data, int64_t bytes) {
    while (bytes > 0) {
      int64_t part = std::min(bytes, kChunkBytes - static_cast<int64_t>(chunk().size()));
      chunk().append(data, static_cast<size_t>(part));
      data += part;
      bytes -= part;
      if (static_cast<int64_t>(chunk().size()) == kChunkBytes && !Flush()) return false;
    }
    return true;
  }

  bool Flush() {
    if (chunk().empty()) return true;
    sent_bytes_ += static_cast<int64_t>(chunk().size());
    message_.mutable_data()->set_xxh3(XXH3_64bits(chunk().data(), chunk().size()));
    if (!stream_.Write(message_)) return false;
    chunk().clear();
    moved_();
    ++unacknowledged_;
    pb::PutShardResponse response;
    while (unacknowledged_ >= kMaxUnacknowledged) {
      if (!stream_.Read(&response)) return false;
      if (!Accept(response)) return false;
    }
    return true;
  }

  bool Accept(const pb::PutShardResponse& response) {
    --unacknowledged_;
    if (response.received_bytes() > sent_bytes_) {
      protocol_error_ = absl::InternalError(absl::StrCat(
          response.received_bytes(), " bytes acknowledged, but only ", sent_bytes_, " sent"));
      return false;
    }
    return true;
  }

  const absl::Status& protocol_error() const { return protocol_error_; }

 private:
  std::string& chunk() { return *message_.mutable_data()->mutable_bytes(); }

  ShardStream& stream_;
  const std::function<void()>& moved_;
  pb::PutShardRequest message_;
  int64_t sent_bytes_ = 0;
  int unacknowledged_ = 0;
  absl::Status protocol_error_;
};

bool SendAll(ShardStream& stream, ShardSender& sender, const pb::ShardHeader& header,
             absl::Span<const TensorRun> runs) {
  pb::PutShardRequest message;
  *message.mutable_header() = header;
  if (!stream.Write(message)) return false;
  for (const TensorRun& run : runs) {
    if (!sender.Append(run.data, run.elements * BytesPerElement(run.dtype))) return false;
  }
  if (!sender.Flush()) return false;
  message.mutable_end();
  return stream.Write(message) && stream.WritesDone();
}

}  // namespace

absl::Status SendShard(pb::BulkPlane::StubInterface& stub, const pb::ShardHeader& header,
                       absl::Span<const TensorRun> runs, const std::function<void()>& moved) {
  grpc::ClientContext context;
  SetDeadline(&context, 300, header.bytes());
  auto stream = stub.PutShard(&context);
  ShardSender sender(*stream, moved);
  const bool sent = SendAll(*stream, sender, header, runs);
  bool committed = false;
  pb::PutShardResponse response;
  while (sender.protocol_error().ok() && stream->Read(&response)) {
    sender.Accept(response);
    committed = committed || response.committed();
  }
  if (!sender.protocol_error().ok()) context.TryCancel();
  const grpc::Status finished = stream->Finish();
  RETURN_IF_ERROR(sender.protocol_error());
  const std::string what =
      absl::StrCat("shard of rank ", header.rank(), " at step ", header.step());
  RETURN_IF_ERROR(FromGrpc(finished, what));
  if (!sent || !committed) {
    return absl::InternalError(absl::StrCat(what, ": the stream ended without a commit"));
  }
  return absl::OkStatus();
}

absl::Status ReceiveExtents(pb::BulkPlane::StubInterface& stub, const std::string& job_id,
                            int64_t step, absl::Span<const ReadTarget> targets,
                            const std::function<void()>& moved) {
  pb::ReadExtentsRequest request;
  request.set_job_id(job_id);
  request.set_step(step);
  int64_t wanted = 0;
  for (const ReadTarget& target : targets) {
    pb::Extent* extent = request.add_extents();
    extent->set_shard(target.shard);
    extent->set_offset(target.offset);
    extent->set_bytes(target.bytes);
    wanted += target.bytes;
  }
  grpc::ClientContext context;
  SetDeadline(&context, 60, wanted);
  auto stream = stub.ReadExtents(&context, request);
  pb::ReadExtentsResponse response;
  int64_t received = 0;
  size_t index = 0;
  int64_t filled = 0;  // bytes of targets[index]
  while (stream->Read(&response)) {
    const char* data = response.bytes().data();
    int64_t left = static_cast<int64_t>(response.bytes().size());
    received += left;
    moved();
    if (received > wanted) break;
    while (left > 0) {
      const ReadTarget& target = targets[index];
      const int64_t part = std::min(left, target.bytes - filled);
      if (part > 0) std::memcpy(target.destination + filled, data, static_cast<size_t>(part));
      data += part;
      left -= part;
      filled += part;
      if (filled == target.bytes) {
        ++index;
        filled = 0;
      }
    }
  }
  if (received > wanted) context.TryCancel();
  const grpc::Status finished = stream->Finish();
  const std::string what = absl::StrCat("extents of job ", job_id, " at step ", step);
  if (received <= wanted) RETURN_IF_ERROR(FromGrpc(finished, what));
  if (received != wanted) {
    return absl::DataLossError(absl::StrCat(what, ": expected ", wanted, " bytes, got ", received));
  }
  return absl::OkStatus();
}

}  // namespace diffmoe
