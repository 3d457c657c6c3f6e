#include "tests/unit/server/api/fake_worker.h"

#include "tests/unit/server/checkpoints/shards.h"

namespace diffmoe::server {

using worker::v1::CoordinatorMessage;
using worker::v1::WorkerMessage;

constexpr absl::Duration kLimit = absl::Seconds(10);

FakeWorker::FakeWorker(const std::string& address, const Options& options) {
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  plane_ = worker::v1::WorkerPlane::NewStub(channel);
  bulk_ = worker::v1::BulkPlane::NewStub(channel);
  stream_ = plane_->Session(&context_);
  WorkerMessage message;
  worker::v1::Hello* hello = message.mutable_hello();
  hello->set_protocol_version(options.protocol_version);
  hello->set_worker_id(options.id);
  hello->set_host("test");
  for (int i = 0; i < options.slots; ++i) hello->add_slot_devices("cpu");
  for (const auto& rank : options.running) *hello->add_running() = rank;
  stream_->Write(message);
  reader_ = std::thread([this] { ReadAll(); });
}

FakeWorker::~FakeWorker() {
  context_.TryCancel();
  reader_.join();
}

void FakeWorker::ReadAll() {
  CoordinatorMessage message;
  while (stream_->Read(&message)) {
    absl::MutexLock lock(&mutex_);
    received_.push_back(message);
  }
  const grpc::Status status = stream_->Finish();
  absl::MutexLock lock(&mutex_);
  end_status_ = status;
  ended_ = true;
}

std::optional<CoordinatorMessage> FakeWorker::Wait(
    const std::function<bool(const CoordinatorMessage&)>& wanted) {
  auto found = received_.end();
  const auto ready = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (found = received_.begin(); found != received_.end(); ++found) {
      if (wanted(*found)) return true;
    }
    return ended_;
  };
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&ready), kLimit);
  if (!ready() || found == received_.end()) return std::nullopt;
  const CoordinatorMessage message = *found;
  received_.erase(found);
  return message;
}

std::optional<worker::v1::StartRank> FakeWorker::WaitForStart(int64_t epoch, int rank) {
  const auto message = Wait([&](const CoordinatorMessage& m) {
    return m.has_start_rank() && m.start_rank().role() == worker::v1::ROLE_TRAIN &&
           m.start_rank().group().epoch() == epoch && m.start_rank().rank() == rank;
  });
  return message ? std::optional(message->start_rank()) : std::nullopt;
}

std::optional<worker::v1::StartRank> FakeWorker::WaitForSampler() {
  const auto message = Wait([](const CoordinatorMessage& m) {
    return m.has_start_rank() && m.start_rank().role() == worker::v1::ROLE_SAMPLE;
  });
  return message ? std::optional(message->start_rank()) : std::nullopt;
}

std::optional<worker::v1::StopGroup> FakeWorker::WaitForStop() {
  const auto message = Wait([](const CoordinatorMessage& m) { return m.has_stop_group(); });
  return message ? std::optional(message->stop_group()) : std::nullopt;
}

bool FakeWorker::WaitForWelcome() {
  return Wait([](const CoordinatorMessage& m) { return m.has_welcome(); }).has_value();
}

grpc::Status FakeWorker::WaitForEnd() {
  absl::MutexLock lock(&mutex_);
  if (!mutex_.AwaitWithTimeout(absl::Condition(&ended_), kLimit)) {
    return grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "the stream is still open");
  }
  return end_status_;
}

void FakeWorker::SendStarted(const worker::v1::StartRank& start) {
  WorkerMessage message;
  *message.mutable_rank_started()->mutable_group() = start.group();
  message.mutable_rank_started()->set_rank(start.rank());
  Send(message);
}

void FakeWorker::SendReport(const std::string& job, int64_t epoch, int64_t step) {
  WorkerMessage message;
  worker::v1::RankReport* report = message.mutable_rank_report();
  report->mutable_group()->set_id(job);
  report->mutable_group()->set_epoch(epoch);
  report->mutable_progress()->set_step(step);
  report->mutable_progress()->set_loss(0.5);
  report->add_records()->set_step(step);
  Send(message);
}

void FakeWorker::SendExited(const worker::v1::GroupId& group, int rank, worker::v1::ExitCause cause,
                            int64_t step, int signal) {
  WorkerMessage message;
  worker::v1::RankExited* exited = message.mutable_rank_exited();
  *exited->mutable_group() = group;
  exited->set_rank(rank);
  exited->set_cause(cause);
  exited->set_step(step);
  exited->set_signal(signal);
  Send(message);
}

grpc::Status FakeWorker::PutCheckpoint(const std::string& job, int64_t epoch, int64_t step,
                                       int world_size) {
  std::vector<std::thread> others;
  const auto put = [&](int rank) {
    const auto header = MakeHeader(job, step, epoch, rank, world_size);
    RankClient client(bulk_.get(), header);
    client.SendAll(ShardBytes(header));
    client.SendEnd();
    return client.Finish();
  };
  for (int rank = 1; rank < world_size; ++rank) {
    others.emplace_back([&put, rank] { put(rank); });
  }
  const grpc::Status status = put(0);
  for (std::thread& thread : others) thread.join();
  return status;
}

}  // namespace diffmoe::server
