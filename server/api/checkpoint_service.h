// CheckpointService over the record store; weights come from the checkpoint store, in a thread per
// call. Thread-safe; nothing is owned.
#pragma once

#include "core/metrics/metrics.h"
#include "core/storage/record_store.h"
#include "diffmoe/v1/checkpoint.grpc.pb.h"
#include "server/checkpoints/checkpoint_store.h"

namespace diffmoe::server {

// ReadCheckpoint blocks in the sink of the store, so it alone is not a callback method.
using CheckpointServiceBase = v1::CheckpointService::WithCallbackMethod_ListCheckpoints<
    v1::CheckpointService::WithCallbackMethod_GetCheckpoint<
        v1::CheckpointService::WithCallbackMethod_ListThresholds<v1::CheckpointService::Service>>>;

class CheckpointService final : public CheckpointServiceBase {
 public:
  CheckpointService(const RecordStore* records, CheckpointStore* checkpoints,
                    metrics::CheckpointMetrics* metrics)
      : records_(records), checkpoints_(checkpoints), metrics_(metrics) {}

  grpc::ServerUnaryReactor* ListCheckpoints(grpc::CallbackServerContext* context,
                                            const v1::ListCheckpointsRequest* request,
                                            v1::ListCheckpointsResponse* response) override;
  grpc::ServerUnaryReactor* GetCheckpoint(grpc::CallbackServerContext* context,
                                          const v1::GetCheckpointRequest* request,
                                          v1::Checkpoint* response) override;
  grpc::ServerUnaryReactor* ListThresholds(grpc::CallbackServerContext* context,
                                           const v1::ListThresholdsRequest* request,
                                           v1::ListThresholdsResponse* response) override;
  grpc::Status ReadCheckpoint(grpc::ServerContext* context,
                              const v1::ReadCheckpointRequest* request,
                              grpc::ServerWriter<v1::ReadCheckpointResponse>* writer) override;

 private:
  absl::Status StreamWeights(const v1::ReadCheckpointRequest& request,
                             grpc::ServerWriter<v1::ReadCheckpointResponse>& writer);

  const RecordStore* records_;
  CheckpointStore* checkpoints_;
  metrics::CheckpointMetrics* metrics_;
};

}  // namespace diffmoe::server
