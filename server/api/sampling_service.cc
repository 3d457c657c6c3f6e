#include "server/api/sampling_service.h"

#include <algorithm>
#include <chrono>

#include "server/api/resource_names.h"

namespace diffmoe::server {
namespace {

// Milliseconds until the client's deadline, at least 1; 0 when it has none.
int64_t DeadlineInMs(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  const auto now = std::chrono::system_clock::now();
  if (deadline > now + std::chrono::hours(24 * 365)) return 0;
  return std::max<int64_t>(
      1, std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now).count());
}

}  // namespace

grpc::ServerWriteReactor<v1::SampleResponse>* SamplingService::Sample(
    grpc::CallbackServerContext* context, const v1::SampleRequest* request) {
  const uint64_t call = calls_->NewNumber();
  auto* reactor = streams_->Open(call);
  const absl::StatusOr<CheckpointRef> ref =
      ParseCheckpointName(request->checkpoint(), "checkpoint", /*job_alone=*/true);
  absl::Status status = ref.status();
  if (status.ok()) {
    SubmitSample event{call, ref->job_id, ref->step, *request, DeadlineInMs(*context)};
    if (!event.request.has_seed()) event.request.set_seed(draw_seed_());
    status = loop_->Post(std::move(event));
  }
  if (!status.ok()) streams_->End(call, status);
  return reactor;
}

}  // namespace diffmoe::server
