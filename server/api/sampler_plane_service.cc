#include "server/api/sampler_plane_service.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/log.h"
#include "core/base/version.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

using worker::v1::SamplerCommand;
using worker::v1::SamplerMessage;

class SamplerSession final : public Session<SamplerMessage, SamplerCommand> {
 public:
  SamplerSession(SessionTable<SamplerMessage, SamplerCommand>* table, Loop* loop,
                 grpc::CallbackServerContext* context, uint64_t number)
      : Session("samplers", table, context, number), loop_(loop) {}

 private:
  absl::Status Introduce(SamplerMessage message) override {
    if (!message.has_hello()) {
      return absl::InvalidArgumentError("the first message of a sampler must be SamplerHello");
    }
    const worker::v1::SamplerHello& hello = message.hello();
    if (hello.protocol_version() != kProtocolVersion) {
      return MakeError(
          absl::StatusCode::kFailedPrecondition, v1::PROTOCOL_MISMATCH,
          absl::StrCat("the sampler speaks protocol version ", hello.protocol_version(),
                       ", the coordinator version ", kProtocolVersion, "; upgrade the older side"));
    }
    return loop_->Post(
        SamplerConnected{number(), std::move(*message.mutable_hello()->mutable_group())});
  }

  absl::Status Handle(SamplerMessage message, bool* read_on) override {
    if (message.has_hello()) return absl::InvalidArgumentError("SamplerHello comes once, first");
    if (!message.has_updates()) return absl::OkStatus();  // of a newer minor version
    *read_on = false;
    return loop_->Post(SamplerUpdated{number(), std::move(*message.mutable_updates())});
  }

  void Left() override {
    const absl::Status status = loop_->Post(SamplerDisconnected{number()});
    if (status.ok() || absl::IsUnavailable(status)) return;  // or the coordinator is stopping
    LogError("samplers", "the end of a session could not be queued", {{"session", number()}});
  }

  Loop* const loop_;
};

}  // namespace

grpc::ServerBidiReactor<SamplerMessage, SamplerCommand>* SamplerPlaneService::Session(
    grpc::CallbackServerContext* context) {
  const uint64_t number = calls_->NewNumber();
  return sessions_.Open(number,
                        std::make_shared<SamplerSession>(&sessions_, loop_, context, number));
}

void SamplerPlaneService::Send(uint64_t session, SamplerCommand command) {
  if (const auto found = sessions_.Find(session)) found->Send(std::move(command));
}

void SamplerPlaneService::ReadOn(uint64_t session) {
  if (const auto found = sessions_.Find(session)) found->ReadOn();
}

void SamplerPlaneService::Close(uint64_t session, const absl::Status& status) {
  if (const auto found = sessions_.Find(session)) found->Close(status);
}

}  // namespace diffmoe::server
