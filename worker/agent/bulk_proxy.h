// BulkPlane for the ranks of this worker: every call goes to the coordinator unchanged, and so do
// its answers, errors and their details. One message of a call is in the proxy at a time, so that a
// slow side holds back the other one. Deadlines and cancellation travel along. While the
// coordinator can't be reached, or cuts a call off, the call gets UNAVAILABLE; a lost session alone
// disturbs no call.
//
// Thread-safe; one thread per call.
#pragma once

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/metrics/metrics.h"
#include "diffmoe/worker/v1/bulk_plane.grpc.pb.h"

namespace diffmoe {

class BulkProxy final : public worker::v1::BulkPlane::Service {
 public:
  // `metrics` outlives the proxy.
  explicit BulkProxy(metrics::WorkerMetrics* metrics) : metrics_(metrics) {}

  // Calls that begin from now on go over `channel`.
  void Connect(const std::shared_ptr<grpc::Channel>& channel);
  // For the worker's own calls; null before the first session.
  std::shared_ptr<worker::v1::BulkPlane::Stub> coordinator() const { return stub(); }

  grpc::Status PutShard(grpc::ServerContext* context,
                        grpc::ServerReaderWriter<worker::v1::PutShardResponse,
                                                 worker::v1::PutShardRequest>* stream) override;
  grpc::Status GetManifest(grpc::ServerContext* context,
                           const worker::v1::GetManifestRequest* request,
                           worker::v1::Manifest* response) override;
  grpc::Status ReadExtents(grpc::ServerContext* context,
                           const worker::v1::ReadExtentsRequest* request,
                           grpc::ServerWriter<worker::v1::ReadExtentsResponse>* writer) override;
  grpc::Status KeyValue(grpc::ServerContext* context, const worker::v1::KeyValueRequest* request,
                        worker::v1::KeyValueResponse* response) override;

 private:
  using Stub = worker::v1::BulkPlane::Stub;
  // Null before the first session.
  std::shared_ptr<Stub> stub() const;

  metrics::WorkerMetrics* const metrics_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<Stub> stub_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace diffmoe
