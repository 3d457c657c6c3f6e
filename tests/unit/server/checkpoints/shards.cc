#include "tests/unit/server/checkpoints/shards.h"

#include <algorithm>

#include "core/storage/chunk_store.h"

namespace diffmoe::server {

using worker::v1::PutShardRequest;
using worker::v1::PutShardResponse;
using worker::v1::ShardHeader;
using worker::v1::TensorSlice;

constexpr int64_t kRow = 700'000;

ShardHeader MakeHeader(const std::string& job, int64_t step, int64_t epoch, int rank,
                       int world_size) {
  ShardHeader header;
  header.mutable_group()->set_id(job);
  header.mutable_group()->set_epoch(epoch);
  header.set_step(step);
  header.set_rank(rank);
  header.set_world_size(world_size);
  header.set_bytes(kRow + (rank == 0 ? 8 : 0));
  TensorSlice& weights = *header.add_slices();
  weights.set_tensor("model/w");
  weights.set_dtype("U8");
  weights.add_global_shape(world_size);
  weights.add_global_shape(kRow);
  weights.set_first_element(rank * kRow);
  weights.set_elements(kRow);
  weights.set_shard_offset(rank == 0 ? 8 : 0);
  if (rank != 0) return header;
  TensorSlice& counter = *header.add_slices();
  counter.set_tensor("step");
  counter.set_dtype("I64");
  counter.set_elements(1);
  header.mutable_summary()->set_loss(0.5);
  header.mutable_summary()->add_blocks(1);
  header.mutable_summary()->set_experts(2);
  header.mutable_summary()->add_thresholds(0.25);
  header.mutable_summary()->add_thresholds(0.75);
  return header;
}

std::string ShardBytes(const ShardHeader& header, int seed) {
  std::string bytes(static_cast<size_t>(header.bytes()), '\0');
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] =
        static_cast<char>((i * 2654435761u >> 7) + static_cast<size_t>(header.rank() + seed * 31));
  }
  return bytes;
}

RankClient::RankClient(worker::v1::BulkPlane::Stub* stub, const ShardHeader& header)
    : stream_(stub->PutShard(&context_)) {
  PutShardRequest request;
  *request.mutable_header() = header;
  stream_->Write(request);
}

RankClient::~RankClient() {
  if (finished_) return;
  Cancel();
  stream_->Finish();
}

bool RankClient::SendData(std::string_view bytes, uint64_t checksum) {
  PutShardRequest request;
  request.mutable_data()->set_bytes(bytes.data(), bytes.size());
  request.mutable_data()->set_xxh3(checksum);
  PutShardResponse response;
  if (!stream_->Write(request) || !stream_->Read(&response)) return false;
  acknowledged_ = response.received_bytes();
  return true;
}

bool RankClient::Send(std::string_view bytes) { return SendData(bytes, ChunkChecksum(bytes)); }
bool RankClient::SendDamaged(std::string_view bytes) {
  return SendData(bytes, ChunkChecksum(bytes) ^ 1);
}

bool RankClient::SendAll(const std::string& bytes) {
  for (size_t at = 0; at < bytes.size(); at += 500'000) {
    if (!Send(std::string_view(bytes).substr(at, 500'000))) return false;
  }
  return true;
}

bool RankClient::SendEnd() {
  PutShardRequest request;
  request.mutable_end();
  return stream_->Write(request);
}

grpc::Status RankClient::Finish() {
  stream_->WritesDone();
  PutShardResponse response;
  while (stream_->Read(&response)) committed_ = committed_ || response.committed();
  finished_ = true;
  return stream_->Finish();
}

}  // namespace diffmoe::server
