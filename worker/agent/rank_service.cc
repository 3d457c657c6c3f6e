#include "worker/agent/rank_service.h"

#include <memory>
#include <string>
#include <system_error>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "core/base/log.h"
#include "worker/grpc_status.h"

namespace diffmoe {
namespace {

namespace pb = worker::v1;

using Stream = grpc::ServerReaderWriter<pb::RankCommand, pb::RankMessage>;

constexpr absl::Duration kWriterTimeout = absl::Seconds(2);

// Reads until the rank has said its last words or has gone.
void ReadSession(Stream* stream, const pb::RankHello& hello, RankSupervisor* supervisor) {
  pb::RankMessage message;
  while (stream->Read(&message)) {
    switch (message.message_case()) {
      case pb::RankMessage::kReport:
        supervisor->Report(hello, std::move(*message.mutable_report()));
        break;
      case pb::RankMessage::kFailure:
        supervisor->Failed(hello, message.failure());
        return;
      case pb::RankMessage::kDone:
        supervisor->Done(hello, message.done().step());
        return;
      case pb::RankMessage::kHeartbeat:
        supervisor->Heartbeat(hello, message.heartbeat());
        break;
      case pb::RankMessage::kHello:
      case pb::RankMessage::MESSAGE_NOT_SET:
        break;
    }
  }
}

}  // namespace

grpc::Status RankService::Session(grpc::ServerContext* context, Stream* stream) {
  pb::RankMessage first;
  if (!stream->Read(&first) || !first.has_hello()) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "a session begins with RankHello");
  }
  const pb::RankHello hello = first.hello();
  auto queue = supervisor_->Attach(hello);
  if (!queue.ok()) {
    LogWarning("worker", "a rank's session was refused",
               {{"error", std::string(queue.status().message())}});
    return ToGrpc(queue.status());
  }
  absl::Notification written;
  std::thread writer;
  try {
    writer = std::thread([&written, stream, commands = *queue] {
      pb::RankCommand command;
      while (commands->Next(&command) && stream->Write(command)) {
      }
      written.Notify();
    });
  } catch (const std::system_error& error) {
    supervisor_->Detach(hello);
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                        std::string("the worker has no thread for this session: ") + error.what());
  }
  ReadSession(stream, hello, supervisor_);
  (*queue)->Close();
  if (!written.WaitForNotificationWithTimeout(kWriterTimeout)) context->TryCancel();
  writer.join();
  supervisor_->Detach(hello);
  wake_();
  return grpc::Status::OK;
}

}  // namespace diffmoe
