#include "worker/agent/coordinator_link.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/log.h"
#include "nlohmann/json.hpp"
#include "worker/coordinator_channel.h"
#include "worker/grpc_status.h"

namespace diffmoe {
namespace {

namespace pb = worker::v1;

constexpr absl::Duration kWelcomeTimeout = absl::Seconds(10);
constexpr absl::Duration kDrainTimeout = absl::Seconds(2);
constexpr int64_t kDefaultHeartbeatMs = 2'000;

}  // namespace

absl::StatusOr<std::string> ResolveCoordinator(const std::string& coordinator) {
  constexpr char kPrefix[] = "file:";
  if (coordinator.rfind(kPrefix, 0) != 0) return coordinator;
  const std::string path = coordinator.substr(sizeof(kPrefix) - 1);
  std::ifstream in(path);
  if (!in)
    return absl::UnavailableError(absl::StrCat(path, " can't be read: is a coordinator running?"));
  const nlohmann::json info = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (!info.is_object() || !info.contains("grpc_address") || !info["grpc_address"].is_string()) {
    return absl::UnavailableError(absl::StrCat(path, " holds no grpc_address"));
  }
  return info["grpc_address"].get<std::string>();
}

CoordinatorLink::CoordinatorLink(std::string coordinator, Callbacks callbacks, Backoff backoff,
                                 Outbox* outbox, BulkProxy* bulk, metrics::WorkerMetrics* metrics)
    : coordinator_(std::move(coordinator)),
      callbacks_(std::move(callbacks)),
      backoff_(std::move(backoff)),
      outbox_(outbox),
      bulk_(bulk),
      metrics_(metrics) {}

CoordinatorLink::~CoordinatorLink() { Stop(); }

void CoordinatorLink::Start() {
  thread_ = std::thread([this] { Run(); });
}

void CoordinatorLink::Stop() {
  if (!thread_.joinable()) return;
  bool connected = false;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    connected = welcomed_;
    // An attempt that has no Welcome yet can send nothing.
    if (!connected && context_ != nullptr) context_->TryCancel();
  }
  if (connected) outbox_->WaitEmpty(kDrainTimeout);
  outbox_->Interrupt();
  {
    absl::MutexLock lock(&mutex_);
    auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return context_ == nullptr; };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&idle), kDrainTimeout)) context_->TryCancel();
  }
  thread_.join();
}

bool CoordinatorLink::stopping() const {
  absl::MutexLock lock(&mutex_);
  return stopping_;
}

void CoordinatorLink::Run() {
  metrics_->SetConnected(false);
  int64_t attempt = 0;
  while (!stopping()) {
    ++attempt;
    const absl::StatusOr<std::string> address = ResolveCoordinator(coordinator_);
    const int64_t sessions_before = sessions_;
    const absl::Status ended = address.ok() ? RunSession(*address) : address.status();
    if (stopping()) return;
    if (absl::IsFailedPrecondition(ended) && sessions_ == sessions_before) {
      callbacks_.refused(ended);
      return;
    }
    if (sessions_ != sessions_before) {
      attempt = 1;
      backoff_.Reset();
    }
    const absl::Duration delay = backoff_.Next();
    LogWarning(
        "worker", "no session with the coordinator",
        {{"coordinator", address.ok() ? *address : coordinator_},
         {"error", std::string(ended.message())},
         {"attempt", attempt},
         {"next_attempt_in", absl::FormatDuration(absl::Trunc(delay, absl::Milliseconds(1)))}});
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&stopping_), delay);
  }
}

absl::Status CoordinatorLink::RunSession(const std::string& address) {
  auto stub = pb::WorkerPlane::NewStub(OpenCoordinatorChannel(address));
  grpc::ClientContext context;
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return absl::CancelledError("the worker stops");
    context_ = &context;
    welcomed_ = false;
    read_ended_ = false;
  }
  outbox_->BeginSession();
  auto stream = stub->Session(&context);
  std::thread reader;
  try {
    reader = std::thread([this, &stream, &address] { ReadSession(stream.get(), address); });
  } catch (const std::system_error& error) {
    context.TryCancel();
    stream->Finish();
    absl::MutexLock lock(&mutex_);
    context_ = nullptr;
    return absl::ResourceExhaustedError(
        absl::StrCat("no thread for the session with the coordinator: ", error.what()));
  }
  Converse(stream.get(), &context, address);
  reader.join();
  const grpc::Status finished = stream->Finish();
  absl::MutexLock lock(&mutex_);
  context_ = nullptr;
  const bool was_welcomed = welcomed_;
  welcomed_ = false;
  if (finished.ok()) return absl::UnavailableError("the coordinator closed the session");
  if (finished.error_code() == grpc::StatusCode::CANCELLED && !was_welcomed) {
    return absl::UnavailableError(
        absl::StrCat("no Welcome within ", absl::FormatDuration(kWelcomeTimeout)));
  }
  return absl::Status(static_cast<absl::StatusCode>(finished.error_code()),
                      finished.error_message());
}

void CoordinatorLink::Converse(Stream* stream, grpc::ClientContext* context,
                               const std::string& address) {
  pb::WorkerMessage hello;
  *hello.mutable_hello() = callbacks_.hello();
  stream->Write(hello);
  bool welcomed = false;
  bool ended = false;
  {
    absl::MutexLock lock(&mutex_);
    auto answered = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return welcomed_ || read_ended_ || stopping_;
    };
    mutex_.AwaitWithTimeout(absl::Condition(&answered), kWelcomeTimeout);
    welcomed = welcomed_;
    ended = read_ended_;
  }
  if (!welcomed) {
    // Cancelling a call that has ended would hide the status it ended with.
    if (!ended) context->TryCancel();
    return;
  }
  LogInfo("worker", "session with the coordinator is open", {{"coordinator", address}});
  if (sessions_++ > 0) metrics_->CountReconnect();
  metrics_->SetConnected(true);
  if (SendUntilLost(stream)) {
    stream->WritesDone();
    absl::MutexLock lock(&mutex_);
    if (!mutex_.AwaitWithTimeout(absl::Condition(&read_ended_), kDrainTimeout)) {
      context->TryCancel();
    }
  }
  metrics_->SetConnected(false);
  outbox_->SessionLost();
}

// True when the link stops and everything has been sent; false when the session is lost.
bool CoordinatorLink::SendUntilLost(Stream* stream) {
  absl::Duration interval;
  {
    absl::MutexLock lock(&mutex_);
    int64_t interval_ms = welcome_.heartbeat_interval_ms();
    if (interval_ms <= 0) interval_ms = kDefaultHeartbeatMs;
    interval = absl::Milliseconds(std::clamp<int64_t>(interval_ms, 50, 60'000));
  }
  int64_t sequence = 0;
  absl::Time next_heartbeat = absl::Now();
  pb::WorkerMessage message;
  while (true) {
    // The wall clock may jump: never wait longer than one interval.
    absl::Duration wait = std::min(next_heartbeat - absl::Now(), interval);
    if (wait <= absl::ZeroDuration()) {
      next_heartbeat = absl::Now() + interval;
      message.Clear();
      message.mutable_heartbeat()->set_sequence(++sequence);
      if (!stream->Write(message)) return false;
      continue;
    }
    switch (outbox_->Next(wait, &message)) {
      case Outbox::NextResult::kMessage:
        if (!stream->Write(message)) return false;
        break;
      case Outbox::NextResult::kTimeout:
        next_heartbeat = absl::Now();
        break;
      case Outbox::NextResult::kInterrupted: {
        absl::MutexLock lock(&mutex_);
        return !read_ended_;
      }
    }
  }
}

void CoordinatorLink::ReadSession(Stream* stream, const std::string& address) {
  pb::CoordinatorMessage message;
  while (stream->Read(&message)) {
    if (message.has_welcome()) {
      bulk_->Connect(OpenCoordinatorChannel(address));  // before anything that may need it
      absl::MutexLock lock(&mutex_);
      welcome_ = message.welcome();
      welcomed_ = true;
    } else {
      if (message.has_start_rank()) {
        message.mutable_start_rank()->set_coordinator_address(address);
      }
      callbacks_.received(std::move(message));
    }
  }
  {
    absl::MutexLock lock(&mutex_);
    read_ended_ = true;
  }
  outbox_->Interrupt();
}

}  // namespace diffmoe
