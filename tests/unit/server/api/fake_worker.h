// A worker as the coordinator sees it, played by a test over a real gRPC stream.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "core/base/version.h"
#include "diffmoe/worker/v1/bulk_plane.grpc.pb.h"
#include "diffmoe/worker/v1/worker_plane.grpc.pb.h"

namespace diffmoe::server {

class FakeWorker {
 public:
  struct Options {
    std::string id = "w1";
    int slots = 2;
    int protocol_version = kProtocolVersion;
    std::vector<worker::v1::RunningRank> running = {};
  };
  // Opens the session and says Hello.
  FakeWorker(const std::string& address, const Options& options);
  // Breaks the stream, as a dead worker does.
  ~FakeWorker();

  void Send(const worker::v1::WorkerMessage& message) { stream_->Write(message); }
  void SendStarted(const worker::v1::StartRank& start);
  // Rank 0's report at a step, with its loss record.
  void SendReport(const std::string& job, int64_t epoch, int64_t step);
  void SendExited(const worker::v1::GroupId& group, int rank, worker::v1::ExitCause cause,
                  int64_t step = 0, int signal = 0);

  // The next message that `wanted` accepts; those before it are kept for other waits. Nothing after
  // 10 s or when the stream has ended.
  std::optional<worker::v1::CoordinatorMessage> Wait(
      const std::function<bool(const worker::v1::CoordinatorMessage&)>& wanted);
  std::optional<worker::v1::StartRank> WaitForStart(int64_t epoch, int rank);
  std::optional<worker::v1::StartRank> WaitForSampler();
  std::optional<worker::v1::StopGroup> WaitForStop();
  bool WaitForWelcome();
  // How the coordinator ended the stream.
  grpc::Status WaitForEnd();

  // All ranks of a small checkpoint put their shards; the status of rank 0.
  grpc::Status PutCheckpoint(const std::string& job, int64_t epoch, int64_t step, int world_size);
  worker::v1::BulkPlane::Stub* bulk() { return bulk_.get(); }

 private:
  void ReadAll();

  std::unique_ptr<worker::v1::WorkerPlane::Stub> plane_;
  std::unique_ptr<worker::v1::BulkPlane::Stub> bulk_;
  grpc::ClientContext context_;
  std::unique_ptr<
      grpc::ClientReaderWriter<worker::v1::WorkerMessage, worker::v1::CoordinatorMessage>>
      stream_;
  absl::Mutex mutex_;
  std::deque<worker::v1::CoordinatorMessage> received_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status end_status_;
  std::thread reader_;
};

}  // namespace diffmoe::server
