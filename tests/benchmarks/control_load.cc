#include "tests/benchmarks/control_load.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "core/base/version.h"
#include "diffmoe/worker/v1/worker_plane.grpc.pb.h"
#include "tests/benchmarks/timing.h"

namespace diffmoe::bench {
namespace {

namespace pb = worker::v1;

// One worker's session. Writes one message at a time.
class FakeSession final
    : public grpc::ClientBidiReactor<pb::WorkerMessage, pb::CoordinatorMessage> {
 public:
  FakeSession(pb::WorkerPlane::Stub* stub, int number) {
    pb::Hello* hello = hello_.mutable_hello();
    hello->set_protocol_version(kProtocolVersion);
    hello->set_worker_id(absl::StrCat("crowd-", number));
    hello->set_host("bench");
    hello->add_slot_devices("none:0");
    heartbeat_.mutable_heartbeat();
    stub->async()->Session(&context_, this);
    writing_ = true;
    StartWrite(&hello_);
    StartRead(&received_);
    StartCall();
  }

  // False when the write before is still under way.
  bool Beat() {
    absl::MutexLock lock(&mutex_);
    if (writing_ || done_) return false;
    writing_ = true;
    StartWrite(&heartbeat_);
    return true;
  }
  bool welcomed() const {
    absl::MutexLock lock(&mutex_);
    return welcomed_;
  }
  void Cancel() { context_.TryCancel(); }
  void AwaitDone() { absl::MutexLock lock(&mutex_, absl::Condition(&done_)); }

 private:
  void OnWriteDone(bool) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    {
      absl::MutexLock lock(&mutex_);
      welcomed_ = welcomed_ || received_.has_welcome();
    }
    StartRead(&received_);
  }
  void OnDone(const grpc::Status&) override {
    absl::MutexLock lock(&mutex_);
    done_ = true;
  }

  grpc::ClientContext context_;
  pb::WorkerMessage hello_, heartbeat_;
  pb::CoordinatorMessage received_;
  mutable absl::Mutex mutex_;
  bool writing_ = false, welcomed_ = false, done_ = false;
};

}  // namespace

v1::TrainingSpec WaitingSpec() {
  v1::TrainingSpec spec;
  spec.set_name("waiting");
  v1::ModelSpec* model = spec.mutable_model();
  model->set_image_size(32);
  model->set_channels(1);
  model->set_patch_size(4);
  model->set_width(64);
  model->set_depth(2);
  model->set_heads(2);
  model->set_classes(10);
  model->set_experts(4);
  spec.mutable_data()->set_format(v1::DATA_FORMAT_IDX);
  spec.mutable_data()->set_path("/data/fashion");
  spec.mutable_train()->set_steps(100);
  spec.mutable_train()->set_global_batch(16);
  return spec;
}

double CallTimes::Percentile(double share) const {
  std::vector<double> sorted = latencies;
  std::sort(sorted.begin(), sorted.end());
  const auto last = static_cast<double>(sorted.size() - 1);
  return sorted[static_cast<size_t>(share * last)];
}

CallTimes RunClients(int clients, int64_t calls,
                     const std::function<std::function<absl::Status(int64_t)>()>& new_client) {
  CallTimes times;
  std::atomic<int64_t> next = 0;
  std::mutex mutex;
  std::vector<std::thread> threads;
  std::vector<std::function<absl::Status(int64_t)>> call_of;
  for (int i = 0; i < clients; ++i) call_of.push_back(new_client());
  const double begin = Now();
  for (const auto& call : call_of) {
    threads.emplace_back([&] {
      std::vector<double> latencies;
      absl::Status error;
      for (int64_t number = next++; number < calls; number = next++) {
        const double start = Now();
        error.Update(call(number));
        latencies.push_back(Now() - start);
      }
      const std::lock_guard<std::mutex> lock(mutex);
      times.latencies.insert(times.latencies.end(), latencies.begin(), latencies.end());
      times.first_error.Update(error);
    });
  }
  for (std::thread& thread : threads) thread.join();
  times.seconds = Now() - begin;
  return times;
}

class WorkerCrowd::Impl {
 public:
  Impl(const std::string& address, int workers, int64_t interval_ms) : interval_ms_(interval_ms) {
    // A few connections, many streams: what is measured is the coordinator.
    constexpr int kConnections = 16;
    for (int i = 0; i < kConnections; ++i) {
      grpc::ChannelArguments arguments;
      arguments.SetInt("diffmoe.connection", i);  // channels with other arguments share nothing
      stubs_.push_back(pb::WorkerPlane::NewStub(
          grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments)));
    }
    for (int i = 0; i < workers; ++i) {
      sessions_.push_back(
          std::make_unique<FakeSession>(stubs_[static_cast<size_t>(i % kConnections)].get(), i));
    }
    thread_ = std::thread([this] { Run(); });
  }
  ~Impl() {
    stopping_.Notify();
    thread_.join();
    for (auto& session : sessions_) session->Cancel();
    for (auto& session : sessions_) session->AwaitDone();
  }

  int welcomed() const {
    return static_cast<int>(std::count_if(sessions_.begin(), sessions_.end(),
                                          [](const auto& s) { return s->welcomed(); }));
  }
  int64_t heartbeats() const { return heartbeats_; }

 private:
  // Beats spread evenly over the interval.
  void Run() {
    const double interval = static_cast<double>(interval_ms_) / 1000;
    double next = Now();
    for (size_t i = 0; !stopping_.HasBeenNotified(); i = (i + 1) % sessions_.size()) {
      if (sessions_[i]->Beat()) ++heartbeats_;
      next += interval / static_cast<double>(sessions_.size());
      const double wait = next - Now();
      stopping_.WaitForNotificationWithTimeout(absl::Seconds(std::max(0.0, wait)));
    }
  }

  const int64_t interval_ms_;
  std::vector<std::unique_ptr<pb::WorkerPlane::Stub>> stubs_;
  std::vector<std::unique_ptr<FakeSession>> sessions_;
  std::atomic<int64_t> heartbeats_ = 0;
  absl::Notification stopping_;
  std::thread thread_;
};

WorkerCrowd::WorkerCrowd(const std::string& address, int workers, int64_t interval_ms)
    : impl_(std::make_unique<Impl>(address, workers, interval_ms)) {}
WorkerCrowd::~WorkerCrowd() = default;
int WorkerCrowd::welcomed() const { return impl_->welcomed(); }
int64_t WorkerCrowd::heartbeats() const { return impl_->heartbeats(); }

}  // namespace diffmoe::bench
