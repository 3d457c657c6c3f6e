// CheckpointService over the record store. Thread-safe; nothing is owned.
#pragma once

#include "core/storage/record_store.h"
#include "diffmoe/v1/checkpoint.grpc.pb.h"

namespace diffmoe::server {

class CheckpointService final : public v1::CheckpointService::CallbackService {
 public:
  explicit CheckpointService(const RecordStore* records) : records_(records) {}

  grpc::ServerUnaryReactor* ListCheckpoints(grpc::CallbackServerContext* context,
                                            const v1::ListCheckpointsRequest* request,
                                            v1::ListCheckpointsResponse* response) override;
  grpc::ServerUnaryReactor* GetCheckpoint(grpc::CallbackServerContext* context,
                                          const v1::GetCheckpointRequest* request,
                                          v1::Checkpoint* response) override;
  grpc::ServerUnaryReactor* ListThresholds(grpc::CallbackServerContext* context,
                                           const v1::ListThresholdsRequest* request,
                                           v1::ListThresholdsResponse* response) override;

 private:
  const RecordStore* records_;
};

}  // namespace diffmoe::server
