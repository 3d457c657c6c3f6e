#include "tests/simulation/sampler.h"

#include <algorithm>
#include <utility>

#include "tests/simulation/worker.h"

namespace diffmoe::simulation {

using worker::v1::SampleTask;
using worker::v1::SampleUpdate;

void Sampler::Begin() {
  ready_ = true;
  Next();
}

void Sampler::Add(const SampleTask& task) {
  tasks_.push_back(task);
  Next();
}

void Sampler::Cancel(const worker::v1::CancelSample& cancel) {
  std::erase_if(tasks_,
                [&](const SampleTask& task) { return task.request_id() == cancel.request_id(); });
  if (current_ != cancel.request_id()) return;
  parts_.world->trace.Line(rank_->host(), cancel.group().id(), " drops ", current_);
  current_.clear();
  Next();
}

void Sampler::Next() {
  if (!ready_ || !current_.empty() || tasks_.empty()) return;
  const SampleTask task = std::move(tasks_.front());
  tasks_.pop_front();
  current_ = task.request_id();
  parts_.world->trace.Line(rank_->host(), task.group().id(), " works on ", current_);
  Load(task);
}

SampleUpdate Sampler::Update(const SampleTask& task) const {
  SampleUpdate update;
  update.set_request_id(task.request_id());
  *update.mutable_group() = task.group();
  return update;
}

void Sampler::PushError(const SampleTask& task, const absl::Status& status) {
  SampleUpdate update = Update(task);
  update.mutable_error()->set_status_code(static_cast<int>(status.code()));
  update.mutable_error()->set_message(std::string(status.message()));
  Push(std::move(update));
  current_.clear();
  Next();
}

void Sampler::Load(const SampleTask& task) {
  const auto begin = [this, task] {
    if (!IsCurrent(task)) return;
    loaded_job_ = task.job_id();
    loaded_step_ = task.step();
    SampleUpdate update = Update(task);
    update.mutable_response()->mutable_started();
    Push(std::move(update));
    rank_->After(parts_.world->random.Between(20, 200), [this, task] { MakeImage(task, 0); });
  };
  if (loaded_job_ == task.job_id() && loaded_step_ == task.step()) return begin();
  rank_->Call(
      5000,
      [parts = parts_, task](const Network::Answer& answer) {
        if (!parts.coordinator->alive()) {
          return answer({0, absl::UnavailableError("connection refused"), {}, false});
        }
        parts.coordinator->ReadCheckpoint(
            task.job_id(), task.step(), [parts, task, answer](const server::Reply& reply) {
              parts.checker->OnSamplerRead(task.request().seed(), task.job_id(), task.step(),
                                           reply.status);
              answer(reply);
            });
      },
      [this, task, begin](const server::Reply& reply) {
        if (reply.status.ok()) return begin();
        if (IsCurrent(task)) PushError(task, reply.status);
      });
}

void Sampler::MakeImage(const SampleTask& task, int index) {
  if (!IsCurrent(task)) return;
  SampleUpdate update = Update(task);
  if (index < task.request().count()) {
    update.mutable_response()->mutable_image()->set_index(index);
    Push(std::move(update));
    rank_->After(parts_.world->random.Between(20, 200),
                 [this, task, index] { MakeImage(task, index + 1); });
    return;
  }
  update.mutable_response()->mutable_finished();
  Push(std::move(update));
  current_.clear();
  Next();
}

void Sampler::Push(SampleUpdate update) {
  last_push_ms_ = std::max(last_push_ms_, parts_.network->ArrivalMs(rank_->host()));
  parts_.world->time.At(last_push_ms_, [rank = rank_->shared_from_this(), parts = parts_,
                                        update = std::move(update)] {
    if (rank->gone()) return;
    const absl::Status status = parts.coordinator->PushSample(update);
    if (!status.ok()) rank->Fail(status.code(), std::string(status.message()));
  });
}

}  // namespace diffmoe::simulation
