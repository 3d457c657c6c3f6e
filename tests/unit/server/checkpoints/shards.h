// Shards of a small checkpoint, and one rank's client side of PutShard.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "diffmoe/worker/v1/bulk_plane.grpc.pb.h"

namespace diffmoe::server {

// The shard of `rank` of `world_size`: half of tensor "model/w" (U8 [world_size, 700000]), and on
// rank 0 also the scalar "step" (I64).
worker::v1::ShardHeader MakeHeader(const std::string& job, int64_t step, int64_t epoch, int rank,
                                   int world_size);
// Bytes of that shard; `seed` makes them differ.
std::string ShardBytes(const worker::v1::ShardHeader& header, int seed = 0);

class RankClient {
 public:
  RankClient(worker::v1::BulkPlane::Stub* stub, const worker::v1::ShardHeader& header);
  ~RankClient();
  // Sends [offset, offset + size) as one message and waits for its acknowledgement; false when the
  // stream has ended.
  bool Send(std::string_view bytes);
  bool SendDamaged(std::string_view bytes);
  // All bytes in messages of 500,000.
  bool SendAll(const std::string& bytes);
  bool SendEnd();
  // Waits for committed = true and the end of the stream.
  grpc::Status Finish();
  // As a rank that is killed.
  void Cancel() { context_.TryCancel(); }
  bool committed() const { return committed_; }
  int64_t acknowledged() const { return acknowledged_; }

 private:
  bool SendData(std::string_view bytes, uint64_t checksum);
  grpc::ClientContext context_;
  std::unique_ptr<
      grpc::ClientReaderWriter<worker::v1::PutShardRequest, worker::v1::PutShardResponse>>
      stream_;
  bool committed_ = false;
  bool finished_ = false;
  int64_t acknowledged_ = 0;
};

}  // namespace diffmoe::server
