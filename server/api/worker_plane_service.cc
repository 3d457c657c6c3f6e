#include "server/api/worker_plane_service.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/log.h"
#include "core/base/version.h"
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

class WorkerSession final : public Session<WorkerMessage, CoordinatorMessage> {
 public:
  WorkerSession(SessionTable<WorkerMessage, CoordinatorMessage>* table, Loop* loop,
                grpc::CallbackServerContext* context, uint64_t number)
      : Session("workers", table, context, number), loop_(loop) {}

 private:
  absl::Status Introduce(WorkerMessage message) override {
    if (absl::Status status = CheckHello(message); !status.ok()) {
      LogWarning(
          "workers", "a worker is refused",
          {{"worker", message.hello().worker_id()}, {"error", std::string(status.message())}});
      return status;
    }
    return loop_->Post(WorkerHello{number(), std::move(*message.mutable_hello())});
  }

  absl::Status Handle(WorkerMessage message, bool*) override {
    switch (message.message_case()) {
      case WorkerMessage::kHeartbeat:
        return loop_->Post(WorkerHeartbeat{number()});
      case WorkerMessage::kRankStarted:
        return loop_->Post(RankStarted{number(), std::move(*message.mutable_rank_started())});
      case WorkerMessage::kRankReport:
        return loop_->Post(RankReported{number(), std::move(*message.mutable_rank_report())});
      case WorkerMessage::kRankExited:
        return loop_->Post(RankExited{number(), std::move(*message.mutable_rank_exited())});
      case WorkerMessage::kHello:
        return absl::InvalidArgumentError("Hello comes once, first");
      case WorkerMessage::MESSAGE_NOT_SET:
        return absl::OkStatus();  // of a newer minor version
    }
    return absl::OkStatus();
  }

  void Left() override {
    // The heartbeats stop anyway, so the loop finds out by itself.
    const absl::Status status = loop_->Post(SessionClosed{number()});
    if (!status.ok()) LogWarning("workers", "the end of a session could not be queued");
  }

  Loop* const loop_;
};

}  // namespace

grpc::ServerBidiReactor<WorkerMessage, CoordinatorMessage>* WorkerPlaneService::Session(
    grpc::CallbackServerContext* context) {
  const uint64_t number = calls_->NewNumber();
  return sessions_.Open(number,
                        std::make_shared<WorkerSession>(&sessions_, loop_, context, number));
}

void WorkerPlaneService::Send(uint64_t session, CoordinatorMessage message) {
  if (const auto found = sessions_.Find(session)) found->Send(std::move(message));
}

void WorkerPlaneService::Close(uint64_t session, const absl::Status& status) {
  if (const auto found = sessions_.Find(session)) found->Close(status);
}

}  // namespace diffmoe::server
