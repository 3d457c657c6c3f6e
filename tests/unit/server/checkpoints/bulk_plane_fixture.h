// A real gRPC server over real files, with the rest of the coordinator faked.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/checkpoints/bulk_plane_service.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/server/checkpoints/fake_host.h"
#include "tests/unit/server/checkpoints/shards.h"

namespace diffmoe::server {

class BulkPlaneTest : public ::testing::Test {
 protected:
  void SetUp() override { Start({}); }
  void TearDown() override { Stop(); }

  void Start(const AssemblerOptions& options) {
    chunks_ = ChunkStore::Open(dir_.Sub("chunks")).value();
    store_ = std::make_unique<CheckpointStore>(chunks_.get(), &host_);
    service_ =
        std::make_unique<BulkPlaneService>(store_.get(), &host_, &metrics_, &clock_, options);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    stub_ = worker::v1::BulkPlane::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
  }
  void Stop() {
    if (server_ == nullptr) return;
    service_->Shutdown();
    server_->Shutdown();
    server_.reset();
    service_.reset();
    store_.reset();
    chunks_.reset();
  }

  // All ranks of a checkpoint, one after the other up to their ends, then their results.
  std::vector<grpc::Status> SaveAll(int64_t step, int64_t epoch, int world_size, int seed = 0) {
    std::vector<std::unique_ptr<RankClient>> ranks;
    for (int rank = 0; rank < world_size; ++rank) {
      const worker::v1::ShardHeader header = MakeHeader("demo", step, epoch, rank, world_size);
      ranks.push_back(std::make_unique<RankClient>(stub_.get(), header));
      ranks.back()->SendAll(ShardBytes(header, seed));
      ranks.back()->SendEnd();
    }
    std::vector<grpc::Status> results;
    for (auto& rank : ranks) {
      results.push_back(rank->Finish());
      EXPECT_EQ(rank->committed(), results.back().ok());
    }
    return results;
  }
  void MustSave(int64_t step, int64_t epoch = 1, int seed = 0) {
    for (const grpc::Status& status : SaveAll(step, epoch, 2, seed))
      ASSERT_TRUE(status.ok()) << status.error_message();
  }

  grpc::Status ReadExtent(int64_t step, int shard, int64_t offset, int64_t bytes,
                          std::string* out) {
    grpc::ClientContext context;
    worker::v1::ReadExtentsRequest request;
    request.set_job_id("demo");
    request.set_step(step);
    worker::v1::Extent& extent = *request.add_extents();
    extent.set_shard(shard);
    extent.set_offset(offset);
    extent.set_bytes(bytes);
    auto reader = stub_->ReadExtents(&context, request);
    worker::v1::ReadExtentsResponse response;
    out->clear();
    while (reader->Read(&response)) *out += response.bytes();
    return reader->Finish();
  }
  void ExpectStored(int64_t step, int64_t epoch, int seed) {
    for (int rank = 0; rank < 2; ++rank) {
      const worker::v1::ShardHeader header = MakeHeader("demo", step, epoch, rank, 2);
      std::string got;
      const grpc::Status status = ReadExtent(step, rank, 0, header.bytes(), &got);
      ASSERT_TRUE(status.ok()) << status.error_message();
      EXPECT_TRUE(got == ShardBytes(header, seed)) << "rank " << rank;
    }
  }
  void ExpectNothingIsThere() {
    EXPECT_TRUE(host_.Manifests().empty());
    EXPECT_TRUE(chunks_->List().empty());
    EXPECT_TRUE(std::filesystem::is_empty(dir_.Sub("chunks/work")));
  }

  test::TempDir dir_;
  FakeHost host_;
  SystemClock clock_;
  metrics::Registry registry_{"test", "1"};
  metrics::CheckpointMetrics metrics_{registry_};
  std::unique_ptr<ChunkStore> chunks_;
  std::unique_ptr<CheckpointStore> store_;
  std::unique_ptr<BulkPlaneService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<worker::v1::BulkPlane::Stub> stub_;
};

}  // namespace diffmoe::server
