// CheckpointService: manifests come from the record store, what uses them from the loop, changes go
// to the loop; bytes come from the checkpoint store, in a thread per call. Thread-safe; nothing is
// owned.
#pragma once

#include "core/metrics/metrics.h"
#include "core/storage/record_store.h"
#include "diffmoe/v1/checkpoint.grpc.pb.h"
#include "server/call_table.h"
#include "server/checkpoints/checkpoint_store.h"
#include "server/loop.h"

namespace diffmoe::server {

// ReadCheckpoint and VerifyCheckpoint block in the sink of the store, so they are not callback
// methods.
using CheckpointServiceBase = v1::CheckpointService::WithCallbackMethod_ListCheckpoints<
    v1::CheckpointService::WithCallbackMethod_GetCheckpoint<
        v1::CheckpointService::WithCallbackMethod_UpdateCheckpoint<
            v1::CheckpointService::WithCallbackMethod_DeleteCheckpoint<
                v1::CheckpointService::WithCallbackMethod_ListThresholds<
                    v1::CheckpointService::Service>>>>>;

class CheckpointService final : public CheckpointServiceBase {
 public:
  CheckpointService(Loop* loop, CallTable* calls, const RecordStore* records,
                    CheckpointStore* checkpoints, metrics::CheckpointMetrics* metrics)
      : loop_(loop),
        calls_(calls),
        records_(records),
        checkpoints_(checkpoints),
        metrics_(metrics) {}

  grpc::ServerUnaryReactor* ListCheckpoints(grpc::CallbackServerContext* context,
                                            const v1::ListCheckpointsRequest* request,
                                            v1::ListCheckpointsResponse* response) override;
  grpc::ServerUnaryReactor* GetCheckpoint(grpc::CallbackServerContext* context,
                                          const v1::GetCheckpointRequest* request,
                                          v1::Checkpoint* response) override;
  grpc::ServerUnaryReactor* UpdateCheckpoint(grpc::CallbackServerContext* context,
                                             const v1::UpdateCheckpointRequest* request,
                                             v1::Checkpoint* response) override;
  grpc::ServerUnaryReactor* DeleteCheckpoint(grpc::CallbackServerContext* context,
                                             const v1::DeleteCheckpointRequest* request,
                                             v1::DeleteCheckpointResponse* response) override;
  grpc::ServerUnaryReactor* ListThresholds(grpc::CallbackServerContext* context,
                                           const v1::ListThresholdsRequest* request,
                                           v1::ListThresholdsResponse* response) override;
  grpc::Status ReadCheckpoint(grpc::ServerContext* context,
                              const v1::ReadCheckpointRequest* request,
                              grpc::ServerWriter<v1::ReadCheckpointResponse>* writer) override;

  grpc::Status VerifyCheckpoint(grpc::ServerContext* context,
                                const v1::VerifyCheckpointRequest* request,
                                grpc::ServerWriter<v1::VerifyCheckpointResponse>* writer) override;

 private:
  absl::Status Verify(const v1::VerifyCheckpointRequest& request,
                      grpc::ServerWriter<v1::VerifyCheckpointResponse>& writer);
  absl::Status StreamWeights(const v1::ReadCheckpointRequest& request,
                             grpc::ServerWriter<v1::ReadCheckpointResponse>& writer);

  Loop* loop_;
  CallTable* calls_;
  const RecordStore* records_;
  CheckpointStore* checkpoints_;
  metrics::CheckpointMetrics* metrics_;
};

}  // namespace diffmoe::server
