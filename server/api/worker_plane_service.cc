#include "server/api/worker_plane_service.h"

#include <atomic>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/log.h"
#include "core/base/version.h"
#include "server/api/grpc_status.h"
#include "server/api/stream_outbox.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

using worker::v1::CoordinatorMessage;
using worker::v1::WorkerMessage;

constexpr int kMaxSlots = 1024;
constexpr size_t kMaxIdBytes = 128;

bool IsPlainId(const std::string& id) {
  if (id.empty() || id.size() > kMaxIdBytes) return false;
  for (const char c : id) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '_' || c == '.';
    if (!plain) return false;
  }
  return true;
}

absl::Status CheckHello(const WorkerMessage& message) {
  if (!message.has_hello()) {
    return absl::InvalidArgumentError("the first message of a worker must be Hello");
  }
  const worker::v1::Hello& hello = message.hello();
  if (hello.protocol_version() != kProtocolVersion) {
    return MakeError(absl::StatusCode::kFailedPrecondition, v1::PROTOCOL_MISMATCH,
                     absl::StrCat("the worker speaks protocol version ", hello.protocol_version(),
                                  " (", hello.version(), "), the coordinator version ",
                                  kProtocolVersion, " (", kVersion, "); upgrade the older side"));
  }
  if (!IsPlainId(hello.worker_id())) {
    return absl::InvalidArgumentError(
        absl::StrCat("worker_id: expected 1 to ", kMaxIdBytes, " of [A-Za-z0-9._-]"));
  }
  if (hello.slot_devices().empty() || hello.slot_devices_size() > kMaxSlots) {
    return absl::InvalidArgumentError(absl::StrCat("slot_devices: expected 1 to ", kMaxSlots,
                                                   " entries, got ", hello.slot_devices_size()));
  }
  return absl::OkStatus();
}

}  // namespace

class WorkerSession final : public grpc::ServerBidiReactor<WorkerMessage, CoordinatorMessage>,
                            public std::enable_shared_from_this<WorkerSession> {
 public:
  WorkerSession(WorkerPlaneService* service, Loop* loop, grpc::CallbackServerContext* context,
                uint64_t number)
      : service_(service), loop_(loop), context_(context), number_(number), outbox_({}) {}

  void Begin() {
    self_ = shared_from_this();
    StartRead(&incoming_);
  }

  void Send(CoordinatorMessage message) {
    OutboxAction action = OutboxAction::kNone;
    if (outbox_.Push(std::move(message), &action)) {
      Do(action);
      return;
    }
    LogWarning("workers", "a worker doesn't read; its session is closed", {{"session", number_}});
    Cancel();
  }

  // What is queued is dropped; a write that hangs is cut off.
  void Close(const absl::Status& status) {
    Do(outbox_.End(ToGrpc(status), /*drop_queue=*/true));
    if (outbox_.writing()) Cancel();
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {
      Leave();
      Do(outbox_.End(grpc::Status::OK, /*drop_queue=*/true));
      return;
    }
    const absl::Status status = introduced_ ? Handle() : Introduce();
    if (!status.ok()) {
      Leave();
      Close(status);
      return;
    }
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override { Do(outbox_.WriteDone(ok)); }
  void OnCancel() override { Do(outbox_.End(grpc::Status::CANCELLED, /*drop_queue=*/true)); }

  void OnDone() override {
    Leave();
    service_->Ended(number_);
    {
      absl::MutexLock lock(&mutex_);
      context_ = nullptr;
    }
    self_.reset();
  }

  absl::Status Introduce() {
    if (absl::Status status = CheckHello(incoming_); !status.ok()) {
      LogWarning(
          "workers", "a worker is refused",
          {{"worker", incoming_.hello().worker_id()}, {"error", std::string(status.message())}});
      return status;
    }
    introduced_ = true;
    absl::Status status = loop_->Post(WorkerHello{number_, std::move(*incoming_.mutable_hello())});
    if (status.ok()) posted_ = true;
    return status;
  }

  absl::Status Handle() {
    switch (incoming_.message_case()) {
      case WorkerMessage::kHeartbeat:
        return loop_->Post(WorkerHeartbeat{number_});
      case WorkerMessage::kRankStarted:
        return loop_->Post(RankStarted{number_, std::move(*incoming_.mutable_rank_started())});
      case WorkerMessage::kRankReport:
        return loop_->Post(RankReported{number_, std::move(*incoming_.mutable_rank_report())});
      case WorkerMessage::kRankExited:
        return loop_->Post(RankExited{number_, std::move(*incoming_.mutable_rank_exited())});
      case WorkerMessage::kSampleUpdate:
        return loop_->Post(SampleUpdated{std::move(*incoming_.mutable_sample_update())});
      case WorkerMessage::kHello:
        return absl::InvalidArgumentError("Hello comes once, first");
      case WorkerMessage::MESSAGE_NOT_SET:
        return absl::OkStatus();  // of a newer minor version
    }
    return absl::OkStatus();
  }

  // Tells the loop, once, that nothing comes any more.
  void Leave() {
    if (!posted_.exchange(false)) return;
    const absl::Status status = loop_->Post(SessionClosed{number_});
    // The heartbeats stop anyway, so the loop finds out by itself.
    if (!status.ok()) LogWarning("workers", "the end of a session could not be queued");
  }

  void Cancel() {
    absl::MutexLock lock(&mutex_);
    if (context_ != nullptr) context_->TryCancel();
  }

  void Do(OutboxAction action) {
    if (action == OutboxAction::kWrite) StartWrite(&outbox_.in_flight());
    if (action == OutboxAction::kWriteAndFinish) {
      StartWriteAndFinish(&outbox_.in_flight(), {}, outbox_.end_status());
    }
    if (action == OutboxAction::kFinish) Finish(outbox_.end_status());
  }

  WorkerPlaneService* service_;
  Loop* loop_;
  absl::Mutex mutex_;
  grpc::CallbackServerContext* context_ ABSL_GUARDED_BY(mutex_);  // null when the stream is over
  const uint64_t number_;
  StreamOutbox<CoordinatorMessage> outbox_;
  WorkerMessage incoming_;
  bool introduced_ = false;
  std::atomic<bool> posted_{false};
  std::shared_ptr<WorkerSession> self_;  // until OnDone
};

grpc::ServerBidiReactor<WorkerMessage, CoordinatorMessage>* WorkerPlaneService::Session(
    grpc::CallbackServerContext* context) {
  const uint64_t number = calls_->NewNumber();
  auto session = std::make_shared<WorkerSession>(this, loop_, context, number);
  absl::Status closed;
  {
    absl::MutexLock lock(&mutex_);
    sessions_[number] = session;
    closed = closed_;
  }
  session->Begin();
  if (!closed.ok()) session->Close(closed);
  return session.get();
}

std::shared_ptr<WorkerSession> WorkerPlaneService::Find(uint64_t session) {
  absl::MutexLock lock(&mutex_);
  const auto it = sessions_.find(session);
  return it == sessions_.end() ? nullptr : it->second;
}

void WorkerPlaneService::Ended(uint64_t session) {
  absl::MutexLock lock(&mutex_);
  sessions_.erase(session);
}

void WorkerPlaneService::Send(uint64_t session, CoordinatorMessage message) {
  if (const auto found = Find(session)) found->Send(std::move(message));
}

void WorkerPlaneService::Close(uint64_t session, const absl::Status& status) {
  if (const auto found = Find(session)) found->Close(status);
}

void WorkerPlaneService::CloseAll(const absl::Status& status) {
  std::vector<std::shared_ptr<WorkerSession>> sessions;
  {
    absl::MutexLock lock(&mutex_);
    closed_ = status;
    for (auto& [number, session] : sessions_) sessions.push_back(session);
  }
  for (const auto& session : sessions) session->Close(status);
}

}  // namespace diffmoe::server
