// A scripted coordinator for tests of the worker: takes one session of a worker and one of a
// sampler, remembers what they say, sends what the test wants, and keeps checkpoints, keys and
// samples in memory. A checkpoint is committed when the shards of all ranks are in. Thread-safe.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "diffmoe/worker/v1/bulk_plane.grpc.pb.h"
#include "diffmoe/worker/v1/sampler_plane.grpc.pb.h"
#include "diffmoe/worker/v1/worker_plane.grpc.pb.h"

namespace diffmoe::test {

class FakeCoordinator final : public worker::v1::WorkerPlane::Service,
                              public worker::v1::SamplerPlane::Service,
                              public worker::v1::BulkPlane::Service {
 public:
  FakeCoordinator() = default;
  ~FakeCoordinator() override { Stop(); }

  // Listens on `address`; with port 0 on a free one. Also after Stop: what was heard stays.
  void Start(const std::string& address = "127.0.0.1:0");
  void Stop();
  const std::string& address() const { return address_; }
  // Sessions end with this error from now on.
  void RefuseSessions(grpc::Status status);
  // The next PutShard ends with this error after its first data message.
  void FailNextShard(grpc::Status status);
  // While true no checkpoint is committed: its ranks wait.
  void HoldCommits(bool hold);
  // Steps of committed checkpoints, one entry per commit, in their order.
  std::vector<int64_t> Commits() const;
  // The whole tensors of the committed checkpoint, as bytes, and its thresholds as "thresholds".
  std::map<std::string, std::string> Tensors(int64_t step) const;

  // False when no session is open.
  bool Send(const worker::v1::CoordinatorMessage& message);
  bool WaitForSession(int number, absl::Duration limit = absl::Seconds(20));

  std::vector<worker::v1::WorkerMessage> Messages() const;
  // The newest message that `accept` takes, once there is one.
  bool WaitFor(const std::function<bool(const worker::v1::WorkerMessage&)>& accept,
               worker::v1::WorkerMessage* out = nullptr,
               absl::Duration limit = absl::Seconds(20)) const;
  // Waits for the sampler's session number `number`, counted from 1.
  bool WaitForSampler(int number, absl::Duration limit = absl::Seconds(20));
  // False when no sampler has a session.
  bool Send(const worker::v1::SamplerCommand& command);
  // Ends the sampler's session with this status after its next message.
  void EndSampler(const grpc::Status& status);
  std::vector<worker::v1::SampleUpdate> Samples() const;
  // Messages that brought them.
  int SampleMessages() const;

  grpc::Status Session(grpc::ServerContext* context,
                       grpc::ServerReaderWriter<worker::v1::CoordinatorMessage,
                                                worker::v1::WorkerMessage>* stream) override;
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
  grpc::Status Session(grpc::ServerContext* context,
                       grpc::ServerReaderWriter<worker::v1::SamplerCommand,
                                                worker::v1::SamplerMessage>* stream) override;
  grpc::Status PushLogs(grpc::ServerContext* context,
                        grpc::ServerReader<worker::v1::LogLines>* reader,
                        worker::v1::PushLogsResponse* response) override;
  // Texts of the lines that came for a read, each with "RANK " before and "|" behind it, then its
  // notices; "END" once all is there.
  std::string Logs(const std::string& read_id) const;

 private:
  using Stream =
      grpc::ServerReaderWriter<worker::v1::CoordinatorMessage, worker::v1::WorkerMessage>;
  using SamplerStream =
      grpc::ServerReaderWriter<worker::v1::SamplerCommand, worker::v1::SamplerMessage>;
  struct Shard {
    worker::v1::ShardHeader header;
    std::string bytes;
  };

  using Shards = std::map<int32_t, Shard>;  // by rank
  bool Complete(const Shards& shards) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  grpc::Status AwaitCommit(int64_t step, int64_t epoch, const grpc::ServerContext& context)
      ABSL_LOCKS_EXCLUDED(mutex_);
  grpc::Status Get(const worker::v1::KeyValueRequest& request, const std::vector<std::string>& keys)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  mutable absl::Mutex mutex_;
  grpc::Status refusal_ ABSL_GUARDED_BY(mutex_);
  grpc::Status shard_error_ ABSL_GUARDED_BY(mutex_);
  Stream* stream_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int sessions_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<worker::v1::WorkerMessage> messages_ ABSL_GUARDED_BY(mutex_);
  SamplerStream* sampler_ ABSL_GUARDED_BY(mutex_) = nullptr;
  grpc::Status sampler_end_ ABSL_GUARDED_BY(mutex_);
  int sampler_sessions_ ABSL_GUARDED_BY(mutex_) = 0;
  int sample_messages_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<worker::v1::SampleUpdate> samples_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> logs_ ABSL_GUARDED_BY(mutex_);  // by read_id
  bool hold_commits_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<int64_t, Shards> shards_ ABSL_GUARDED_BY(mutex_);  // by step, of the last attempt
  std::vector<std::pair<int64_t, int64_t>> commits_ ABSL_GUARDED_BY(mutex_);  // step, epoch
  std::map<std::string, std::string> keys_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace diffmoe::test
