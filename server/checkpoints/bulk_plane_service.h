// The coordinator's BulkPlane: checkpoint shards in, extents out, rendezvous, lines of logs.
// Synchronous gRPC, a thread per call. Thread-safe. Order: construct, register with the server,
// Shut down the server, destroy.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "core/base/clock.h"
#include "core/metrics/metrics.h"
#include "diffmoe/worker/v1/bulk_plane.grpc.pb.h"
#include "server/checkpoints/checkpoint_assembler.h"
#include "server/checkpoints/checkpoint_store.h"
#include "server/checkpoints/coordinator_host.h"
#include "server/checkpoints/log_sink.h"
#include "server/checkpoints/rendezvous_store.h"

namespace diffmoe::server {

class BulkPlaneService final : public worker::v1::BulkPlane::Service {
 public:
  // Nothing is owned; all must outlive the object.
  BulkPlaneService(CheckpointStore* store, CoordinatorHost* host,
                   metrics::CheckpointMetrics* metrics, const Clock* clock,
                   const AssemblerOptions& options = {});
  ~BulkPlaneService() override;

  // Call it before the server starts; it outlives the calls.
  void SetLogSink(LogSink* logs) { logs_ = logs; }

  // The group, up to and including this epoch, has ended or was replaced: its rendezvous keys go,
  // its pending checkpoints are discarded, its waiting calls end with ABORTED. Doesn't block.
  void EndGroup(const worker::v1::GroupId& group);
  // Ends every waiting call with UNAVAILABLE, so that the server can be shut down.
  void Shutdown();

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
  grpc::Status PushLogs(grpc::ServerContext* context,
                        grpc::ServerReader<worker::v1::LogLines>* reader,
                        worker::v1::PushLogsResponse* response) override;

 private:
  CheckpointStore* store_;
  CoordinatorHost* host_;
  metrics::CheckpointMetrics* metrics_;
  CheckpointAssembler assembler_;
  RendezvousStore rendezvous_;
  LogSink* logs_ = nullptr;
};

}  // namespace diffmoe::server
