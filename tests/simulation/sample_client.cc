#include "tests/simulation/sample_client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/simulation/sampler.h"

namespace diffmoe::simulation {
namespace {

bool AskAgain(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
         absl::IsFailedPrecondition(status);
}

// How a valid request may end when the cluster has faults.
bool MayEndSo(const absl::Status& status) {
  return status.ok() || AskAgain(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsCancelled(status) || absl::IsDataLoss(status) || absl::IsNotFound(status);
}

}  // namespace

struct SampleClient::Call {
  std::string job_id;
  v1::SampleRequest request;
  int64_t deadline_in_ms = 0;
  int attempts = 4;
  // Of this attempt.
  uint64_t number = 0;
  int images = 0;
  std::string pixels;  // of the image that comes
  bool finished = false;
};

void SampleClient::Later(int64_t delay_ms, std::function<void()> task) {
  ++busy_;
  world_->time.After(delay_ms, [this, task = std::move(task)] {
    --busy_;
    task();
  });
}

void SampleClient::UseJob(const std::string& job_id) {
  Random& random = world_->random;
  const int64_t samples = random.Chance(0.4) ? random.Between(1, 6) : 0;
  for (int64_t i = 0; i < samples; ++i) {
    const auto call = std::make_shared<Call>();
    call->job_id = job_id;
    v1::SampleRequest& request = call->request;
    request.set_checkpoint(server::JobName(job_id));
    request.set_count(static_cast<int>(random.Between(1, 4)));
    request.add_classes(1);
    request.set_seed(static_cast<uint64_t>(name_.back()) * 1000 + ++samples_);
    if (random.Chance(0.7)) request.set_request_id(absl::StrCat(name_, "-sample-", samples_));
    request.set_user(absl::StrCat("user", random.Between(1, 2)));
    if (random.Chance(0.3)) call->deadline_in_ms = random.Between(200, 20'000);
    Later(random.Between(1000, 25'000), [this, call] { Sample(call); });
  }
  if (random.Chance(0.15)) {
    Later(random.Between(1000, 25'000), [this, job_id] { Calibrate(job_id, 4); });
  }
}

void SampleClient::Sample(const CallPtr& call) {
  call->number = 0;
  call->images = 0;
  call->pixels.clear();
  call->finished = false;
  ++busy_;
  world_->time.At(network_->ArrivalMs(name_), [this, call] {
    call->number = coordinator_->Sample(
        call->job_id, call->request, call->deadline_in_ms,
        {[this, call](const v1::SampleResponse& response) { OnResponse(*call, response); },
         [](const v1::CalibrateCheckpointResponse&) {},
         [this, call](const absl::Status& status) { OnEnd(call, status); }});
    if (call->number != 0 && world_->random.Chance(0.3)) CancelLater(call);
  });
}

void SampleClient::CancelLater(const CallPtr& call) {
  const bool by_id = !call->request.request_id().empty() && world_->random.Chance(0.5);
  world_->time.After(world_->random.Between(1, 3000), [this, call, by_id] {
    if (!by_id) return coordinator_->CancelSample(call->number);
    coordinator_->CancelSampleById(call->request.request_id(), [this](const server::Reply& reply) {
      if (!MayEndSo(reply.status)) {
        world_->Violate("a cancel of a sample is taken", reply.status.ToString());
      }
    });
  });
}

void SampleClient::OnResponse(Call& call, const v1::SampleResponse& response) {
  if (response.has_finished()) call.finished = true;
  if (!response.has_image()) return;
  const v1::SampleResponse::Image& image = response.image();
  if (image.index() != call.images || image.offset() != static_cast<int64_t>(call.pixels.size())) {
    return world_->Violate("images come once and in order",
                           absl::StrCat("byte ", image.offset(), " of image ", image.index(),
                                        " of seed ", call.request.seed(), " came as byte ",
                                        call.pixels.size(), " of image ", call.images));
  }
  call.pixels += image.pixels();
  if (static_cast<int64_t>(call.pixels.size()) < image.total_bytes()) return;
  if (call.pixels != PixelsOf(call.request.seed(), image.index())) {
    world_->Violate("a request makes the same images on every sampler", call.pixels);
  }
  call.pixels.clear();
  ++call.images;
}

void SampleClient::OnEnd(const CallPtr& call, const absl::Status& status) {
  --busy_;
  world_->trace.Line(name_, "sample with seed ", call->request.seed(),
                     " ended: ", absl::StatusCodeToString(status.code()), ": ", status.message());
  if (status.ok() && (!call->finished || call->images != call->request.count())) {
    world_->Violate("a finished sample has all its images", call->job_id);
  }
  if (!MayEndSo(status)) world_->Violate("a valid sample is taken", status.ToString());
  if (!AskAgain(status) || call->attempts-- <= 0) return;
  Later(world_->random.Between(500, 5000), [this, call] { Sample(call); });
}

void SampleClient::Calibrate(const std::string& job_id, int attempts) {
  v1::CalibrateCheckpointRequest request;
  request.set_checkpoint(server::JobName(job_id));
  const auto finished = std::make_shared<bool>(false);
  ++busy_;
  const auto response = [finished](const v1::CalibrateCheckpointResponse& message) {
    *finished = *finished || message.has_finished();
  };
  const auto end = [=, this](const absl::Status& status) {
    --busy_;
    if (status.ok() && !*finished) world_->Violate("a finished calibration has a result", job_id);
    if (!MayEndSo(status)) world_->Violate("a valid calibration is taken", status.ToString());
    if (!AskAgain(status) || attempts <= 0) return;
    Later(world_->random.Between(500, 5000),
          [this, job_id, attempts] { Calibrate(job_id, attempts - 1); });
  };
  world_->time.At(network_->ArrivalMs(name_), [=, this] {
    coordinator_->Calibrate(job_id, request, {[](const v1::SampleResponse&) {}, response, end});
  });
}

}  // namespace diffmoe::simulation
