#include "server/api/sampling_service.h"

#include <google/protobuf/empty.pb.h>
#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/impl/codegen/proto_buffer_reader.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "server/api/finish.h"
#include "server/api/resource_names.h"
#include "server/errors.h"
#include "server/sampling/request_text.h"
#include "server/state/step.h"

namespace diffmoe::server {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using grpc::internal::CallbackServerStreamingHandler;

// In the order of sampling.proto.
constexpr int kSampleMethod = 0;
constexpr int kCalibrateMethod = 2;

// Milliseconds until the client's deadline; 0 when it has none, negative when it has passed.
int64_t DeadlineInMs(const CallbackServerContext& context) {
  const auto deadline = context.deadline();
  const auto now = std::chrono::system_clock::now();
  if (deadline > now + std::chrono::hours(24 * 365)) return 0;
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now).count();
  return left > 0 ? left : -1;
}

// Without port: "ipv4:127.0.0.1:3456" -> "127.0.0.1".
std::string HostOfPeer(const std::string& peer) {
  const size_t begin = peer.find(':');
  const size_t end = peer.rfind(':');
  return begin == end ? peer : peer.substr(begin + 1, end - begin - 1);
}

template <typename Request>
uint64_t BodyHash(Request request) {
  request.clear_request_id();
  return std::hash<std::string>{}(
      absl::StrCat(Request::descriptor()->full_name(), "\n", request.SerializeAsString()));
}

// Strings of the request that are no clean text, from bytes that need not be a valid message.
std::vector<v1::FieldViolation> UncleanStrings(const google::protobuf::Descriptor& type,
                                               const ByteBuffer& bytes) {
  std::vector<v1::FieldViolation> violations;
  google::protobuf::Empty fields;
  ByteBuffer copy = bytes;
  grpc::ProtoBufferReader reader(&copy);
  if (!fields.ParseFromZeroCopyStream(&reader)) return violations;
  const google::protobuf::UnknownFieldSet& unknown =
      fields.GetReflection()->GetUnknownFields(fields);
  for (int i = 0; i < unknown.field_count(); ++i) {
    if (unknown.field(i).type() != google::protobuf::UnknownField::TYPE_LENGTH_DELIMITED) continue;
    const auto* field = type.FindFieldByNumber(unknown.field(i).number());
    if (field == nullptr || field->type() != google::protobuf::FieldDescriptor::TYPE_STRING) {
      continue;
    }
    const std::string& text = unknown.field(i).length_delimited();
    if (IsCleanText(text)) continue;
    violations.push_back(
        Violation(std::string(field->name()),
                  absl::StrCat("expected UTF-8 text without control characters, got \"",
                               absl::CHexEscape(text.substr(0, 200)), "\"")));
  }
  return violations;
}

template <typename Request>
absl::StatusOr<Request> Parse(const ByteBuffer& bytes) {
  auto violations = UncleanStrings(*Request::descriptor(), bytes);
  if (!violations.empty()) return MakeViolations(v1::INVALID_REQUEST, std::move(violations));
  Request request;
  ByteBuffer copy = bytes;
  grpc::ProtoBufferReader reader(&copy);
  if (!request.ParseFromZeroCopyStream(&reader)) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::INVALID_REQUEST,
                     absl::StrCat("the bytes are no ", std::string(Request::descriptor()->name())));
  }
  return request;
}

absl::StatusOr<CheckpointRef> ParseCheckpoint(const std::string& name) {
  if (name.empty()) {
    return MakeError(absl::StatusCode::kNotFound, v1::CHECKPOINT_NOT_FOUND,
                     "checkpoint: expected jobs/{id} or jobs/{id}/checkpoints/{step}, got nothing");
  }
  return ParseCheckpointName(name, "checkpoint", /*job_alone=*/true);
}

// The event of a request; its id and what else is drawn must be filled in.
template <typename Event, typename Request>
absl::StatusOr<Event> ToEvent(const CallbackServerContext& context, uint64_t call,
                              Request request) {
  ASSIGN_OR_RETURN(CheckpointRef ref, ParseCheckpoint(request.checkpoint()));
  Event event;
  event.call = call;
  event.job_id = std::move(ref.job_id);
  event.step = ref.step;
  event.deadline_in_ms = DeadlineInMs(context);
  event.origin = {HostOfPeer(context.peer()), BodyHash(request)};
  event.request = std::move(request);
  return event;
}

}  // namespace

SamplingService::SamplingService(SamplingParts parts) : parts_(std::move(parts)) {
  MarkMethodRawCallback(kSampleMethod,
                        new CallbackServerStreamingHandler<ByteBuffer, v1::SampleResponse>(
                            [this](CallbackServerContext* context, const ByteBuffer* bytes) {
                              return SampleBytes(context, bytes);
                            }));
  MarkMethodRawCallback(
      kCalibrateMethod,
      new CallbackServerStreamingHandler<ByteBuffer, v1::CalibrateCheckpointResponse>(
          [this](CallbackServerContext* context, const ByteBuffer* bytes) {
            return CalibrateBytes(context, bytes);
          }));
}

std::string SamplingService::DrawId() const {
  return absl::StrFormat("sample-%016x", parts_.draw());
}

grpc::ServerWriteReactor<v1::SampleResponse>* SamplingService::SampleBytes(
    CallbackServerContext* context, const ByteBuffer* bytes) {
  const uint64_t call = parts_.calls->NewNumber();
  auto* reactor = parts_.samples->Open(call);
  const absl::Status posted = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(v1::SampleRequest request, Parse<v1::SampleRequest>(*bytes));
    ASSIGN_OR_RETURN(SubmitSample event, ToEvent<SubmitSample>(*context, call, std::move(request)));
    if (event.request.request_id().empty()) event.request.set_request_id(DrawId());
    if (!event.request.has_seed()) event.request.set_seed(parts_.draw());
    parts_.traces->BeginSampling(call, parts_.traces->Begin(*context, "SamplingService/Sample"),
                                 event.request.request_id());
    return parts_.loop->Post(std::move(event));
  }();
  if (!posted.ok()) {
    parts_.traces->EndSampling(call, posted);
    parts_.samples->End(call, posted);
  }
  return reactor;
}

grpc::ServerWriteReactor<v1::CalibrateCheckpointResponse>* SamplingService::CalibrateBytes(
    CallbackServerContext* context, const ByteBuffer* bytes) {
  const uint64_t call = parts_.calls->NewNumber();
  auto* reactor = parts_.calibrations->Open(call);
  const absl::Status posted = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(v1::CalibrateCheckpointRequest request,
                     Parse<v1::CalibrateCheckpointRequest>(*bytes));
    ASSIGN_OR_RETURN(SubmitCalibration event,
                     ToEvent<SubmitCalibration>(*context, call, std::move(request)));
    if (event.request.request_id().empty()) event.request.set_request_id(DrawId());
    parts_.traces->BeginSampling(
        call, parts_.traces->Begin(*context, "SamplingService/CalibrateCheckpoint"),
        event.request.request_id());
    return parts_.loop->Post(std::move(event));
  }();
  if (!posted.ok()) {
    parts_.traces->EndSampling(call, posted);
    parts_.calibrations->End(call, posted);
  }
  return reactor;
}

grpc::ServerUnaryReactor* SamplingService::CancelSample(CallbackServerContext* context,
                                                        const v1::CancelSampleRequest* request,
                                                        v1::CancelSampleResponse*) {
  std::vector<v1::FieldViolation> violations;
  CheckRequestText("request_id", request->request_id(), &violations);
  if (!violations.empty()) {
    return Finish(context, MakeViolations(v1::INVALID_REQUEST, std::move(violations)));
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const uint64_t call = parts_.calls->NewNumber();
  parts_.calls->Add(call, [reactor](const Reply& reply) { reactor->Finish(ToGrpc(reply.status)); });
  const absl::Status posted = parts_.loop->Post(CancelSampleById{call, request->request_id()});
  if (!posted.ok()) parts_.calls->Answer(Reply{call, posted, {}, false});
  return reactor;
}

grpc::ServerUnaryReactor* SamplingService::GetCalibration(CallbackServerContext* context,
                                                          const v1::GetCalibrationRequest* request,
                                                          v1::Calibration* response) {
  absl::StatusOr<CheckpointRef> ref = ParseCheckpoint(request->checkpoint());
  if (!ref.ok()) return Finish(context, ref.status());
  return AnswerFromState(
      context, parts_.loop, [ref = *std::move(ref), response](const State& state) -> absl::Status {
        ASSIGN_OR_RETURN(const std::shared_ptr<const v1::Calibration> calibration,
                         FindCalibration(state, ref.job_id, ref.step));
        *response = *calibration;
        return absl::OkStatus();
      });
}

}  // namespace diffmoe::server
