#include "server/checkpoints/bulk_plane_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "diffmoe/v1/error.pb.h"
#include "server/api/grpc_status.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

using worker::v1::GetManifestRequest;
using worker::v1::GroupId;
using worker::v1::KeyValueRequest;
using worker::v1::KeyValueResponse;
using worker::v1::Manifest;
using worker::v1::PutShardRequest;
using worker::v1::PutShardResponse;
using worker::v1::ReadExtentsRequest;
using worker::v1::ReadExtentsResponse;

constexpr int kMaxExtents = 100'000;

using PutShardStream = grpc::ServerReaderWriter<PutShardResponse, PutShardRequest>;

bool Acknowledge(PutShardStream& stream, int64_t received, bool committed) {
  PutShardResponse response;
  response.set_received_bytes(received);
  response.set_committed(committed);
  return stream.Write(response);
}

absl::Status ReceiveShard(CheckpointAssembler& assembler, grpc::ServerContext& context,
                          PutShardStream& stream) {
  PutShardRequest request;
  if (!stream.Read(&request)) return absl::CancelledError("the stream ended before its header");
  if (!request.has_header())
    return absl::InvalidArgumentError("the first message of a shard must be its header");
  ASSIGN_OR_RETURN(const std::unique_ptr<ShardSession> session, assembler.Begin(request.header()));
  int64_t received = 0;
  while (stream.Read(&request)) {
    if (request.has_end()) {
      RETURN_IF_ERROR(session->Finish([&] { return context.IsCancelled(); }));
      Acknowledge(stream, received, /*committed=*/true);
      return absl::OkStatus();
    }
    if (!request.has_data())
      return absl::InvalidArgumentError("after the header a shard has data and one end");
    ASSIGN_OR_RETURN(received, session->Append(request.data()));
    if (!Acknowledge(stream, received, /*committed=*/false)) break;
  }
  session->Abandon();
  return absl::CancelledError(absl::StrCat("the stream broke after ", received, " bytes"));
}

}  // namespace

BulkPlaneService::BulkPlaneService(CheckpointStore* store, CoordinatorHost* host,
                                   metrics::CheckpointMetrics* metrics, const Clock* clock,
                                   const AssemblerOptions& options)
    : store_(store),
      host_(host),
      metrics_(metrics),
      assembler_(store, host, metrics, clock, options) {}

BulkPlaneService::~BulkPlaneService() = default;

void BulkPlaneService::EndGroup(const GroupId& group) {
  assembler_.EndGroup(group);
  rendezvous_.EndGroup(group);
}

void BulkPlaneService::Shutdown() {
  assembler_.Shutdown();
  rendezvous_.Shutdown();
}

grpc::Status BulkPlaneService::PutShard(grpc::ServerContext* context, PutShardStream* stream) {
  return ToGrpc(ReceiveShard(assembler_, *context, *stream));
}

grpc::Status BulkPlaneService::GetManifest(grpc::ServerContext*, const GetManifestRequest* request,
                                           Manifest* response) {
  absl::StatusOr<Manifest> manifest = store_->GetManifest(request->job_id(), request->step());
  if (manifest.ok()) *response = *std::move(manifest);
  return ToGrpc(manifest.status());
}

grpc::Status BulkPlaneService::ReadExtents(grpc::ServerContext*, const ReadExtentsRequest* request,
                                           grpc::ServerWriter<ReadExtentsResponse>* writer) {
  if (request->extents_size() > kMaxExtents) {
    return ToGrpc(absl::InvalidArgumentError(
        absl::StrCat(request->extents_size(), " extents in one call, at most ", kMaxExtents)));
  }
  ReadExtentsResponse response;
  const absl::Status status = store_->ReadExtents(*request, [&](std::string_view bytes) {
    response.set_bytes(bytes.data(), bytes.size());
    if (!writer->Write(response)) return absl::CancelledError("the reader has gone");
    metrics_->CountRead(static_cast<int64_t>(bytes.size()));
    return absl::OkStatus();
  });
  if (!absl::IsDataLoss(status)) return ToGrpc(status);
  metrics_->CountDamaged();
  return ToGrpc(
      MakeError(absl::StatusCode::kDataLoss, v1::CORRUPT_CHECKPOINT, std::string(status.message()),
                absl::StrCat("jobs/", request->job_id(), "/checkpoints/", request->step())));
}

grpc::Status BulkPlaneService::KeyValue(grpc::ServerContext* context,
                                        const KeyValueRequest* request,
                                        KeyValueResponse* response) {
  const absl::Status current = host_->CheckEpoch(request->group());
  if (!current.ok()) return ToGrpc(current);
  absl::StatusOr<KeyValueResponse> result =
      rendezvous_.Execute(*request, [&] { return context->IsCancelled(); });
  if (result.ok()) *response = *std::move(result);
  return ToGrpc(result.status());
}

grpc::Status BulkPlaneService::PushLogs(grpc::ServerContext* context,
                                        grpc::ServerReader<worker::v1::LogLines>* reader,
                                        worker::v1::PushLogsResponse*) {
  if (logs_ == nullptr) return ToGrpc(absl::NotFoundError("nobody reads logs"));
  worker::v1::LogLines lines;
  std::string read_id;
  absl::Status status;
  while (status.ok() && reader->Read(&lines)) {
    if (!read_id.empty() && lines.read_id() != read_id) {
      status = absl::InvalidArgumentError(absl::StrCat("read_id: expected that of the stream, ",
                                                       read_id, ", got ", lines.read_id()));
      break;
    }
    read_id = lines.read_id();
    status = logs_->Take(std::move(lines), [&] { return context->IsCancelled(); });
  }
  if (!read_id.empty()) logs_->End(read_id, status.ok() && !context->IsCancelled());
  return ToGrpc(status);
}

}  // namespace diffmoe::server
