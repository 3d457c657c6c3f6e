#include "worker/agent/bulk_proxy.h"

#include <grpcpp/grpcpp.h>

#include <utility>

namespace diffmoe {
namespace {

namespace pb = worker::v1;

// Messages of a shard on their way to the coordinator, so that it works on one while the next is
// taken from the rank. Fewer than a rank sends without an answer (shard_stream.h), which would wait
// for it for ever.
constexpr int kUnanswered = 8;

grpc::Status Away() {
  return grpc::Status(grpc::StatusCode::UNAVAILABLE,
                      "the worker has not reached its coordinator yet");
}

// The status for the rank: the coordinator's own, but for a call that a coordinator on its way out
// has cut off.
grpc::Status Passed(const grpc::ServerContext& context, const grpc::Status& status) {
  if (status.error_code() != grpc::StatusCode::CANCELLED || context.IsCancelled()) return status;
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the coordinator cut the call off");
}

}  // namespace

void BulkProxy::Connect(const std::shared_ptr<grpc::Channel>& channel) {
  std::shared_ptr<Stub> stub = worker::v1::BulkPlane::NewStub(channel);
  absl::MutexLock lock(&mutex_);
  stub_ = std::move(stub);
}

std::shared_ptr<BulkProxy::Stub> BulkProxy::stub() const {
  absl::MutexLock lock(&mutex_);
  return stub_;
}

grpc::Status BulkProxy::PutShard(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<pb::PutShardResponse, pb::PutShardRequest>* stream) {
  const std::shared_ptr<Stub> upstream_stub = stub();
  if (upstream_stub == nullptr) return Away();
  auto upstream_context = grpc::ClientContext::FromServerContext(*context);
  auto upstream = upstream_stub->PutShard(upstream_context.get());
  pb::PutShardRequest request;
  pb::PutShardResponse response;
  bool open = true;
  bool ended = false;
  int unanswered = 0;
  while (open && !ended && stream->Read(&request)) {
    open = upstream->Write(request);
    ended = request.has_end();
    if (!open || !request.has_data()) continue;
    metrics_->CountBulkSent(static_cast<int64_t>(request.data().bytes().size()));
    // Each data message has one answer. The rank may be a few messages ahead; they wait in its
    // stream.
    if (++unanswered < kUnanswered) continue;
    open = upstream->Read(&response) && stream->Write(response);
    --unanswered;
  }
  if (!ended && open) {
    upstream_context->TryCancel();  // the rank is gone: a shard without its end must not look whole
  } else if (open) {
    upstream->WritesDone();
  }
  while (upstream->Read(&response)) stream->Write(response);
  return Passed(*context, upstream->Finish());
}

grpc::Status BulkProxy::GetManifest(grpc::ServerContext* context,
                                    const pb::GetManifestRequest* request, pb::Manifest* response) {
  const std::shared_ptr<Stub> upstream = stub();
  if (upstream == nullptr) return Away();
  const auto upstream_context = grpc::ClientContext::FromServerContext(*context);
  return Passed(*context, upstream->GetManifest(upstream_context.get(), *request, response));
}

grpc::Status BulkProxy::ReadExtents(grpc::ServerContext* context,
                                    const pb::ReadExtentsRequest* request,
                                    grpc::ServerWriter<pb::ReadExtentsResponse>* writer) {
  const std::shared_ptr<Stub> upstream_stub = stub();
  if (upstream_stub == nullptr) return Away();
  auto upstream_context = grpc::ClientContext::FromServerContext(*context);
  auto upstream = upstream_stub->ReadExtents(upstream_context.get(), *request);
  pb::ReadExtentsResponse response;
  while (upstream->Read(&response)) {
    metrics_->CountBulkReceived(static_cast<int64_t>(response.bytes().size()));
    if (!writer->Write(response)) {
      upstream_context->TryCancel();
      break;
    }
  }
  return Passed(*context, upstream->Finish());
}

grpc::Status BulkProxy::KeyValue(grpc::ServerContext* context, const pb::KeyValueRequest* request,
                                 pb::KeyValueResponse* response) {
  const std::shared_ptr<Stub> upstream = stub();
  if (upstream == nullptr) return Away();
  const auto upstream_context = grpc::ClientContext::FromServerContext(*context);
  return Passed(*context, upstream->KeyValue(upstream_context.get(), *request, response));
}

}  // namespace diffmoe
