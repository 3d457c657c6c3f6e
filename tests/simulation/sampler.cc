#include "tests/simulation/sampler.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/simulation/worker.h"

namespace diffmoe::simulation {

using worker::v1::CalibrateTask;
using worker::v1::SampleTask;
using worker::v1::SampleUpdate;

std::string PixelsOf(uint64_t seed, int index) { return absl::StrCat("seed ", seed, " #", index); }

Sampler::Sampler(const RankParts& parts, Rank* rank)
    : parts_(parts),
      rank_(rank),
      row_seconds_(0.001 * static_cast<double>(parts.world->random.Between(1, 20))) {}

void Sampler::Begin() { Connect(); }

void Sampler::Connect() {
  connection_ = std::make_shared<SamplerConnection>();
  const SamplerConnectionPtr connection = connection_;
  connection->host = rank_->host();
  const std::weak_ptr<Rank> rank = rank_->weak_from_this();
  connection->receive = [this, rank](const worker::v1::SamplerCommand& command) {
    const auto alive = rank.lock();
    if (alive && !alive->gone()) Receive(command);
  };
  connection->lost = [this, rank, weak = std::weak_ptr(connection)](const absl::Status& status) {
    const auto alive = rank.lock();
    if (alive && !alive->gone()) Lost(weak.lock(), status);
  };
  connection->last_up_ms = parts_.network->ArrivalMs(connection->host);
  parts_.world->time.At(connection->last_up_ms, [parts = parts_, connection, rank] {
    const auto process = rank.lock();
    if (connection->broken || process == nullptr || process->gone()) return;
    if (parts.coordinator->alive()) {
      return parts.coordinator->AcceptSampler(connection, process->start().group());
    }
    connection->broken = true;  // refused
    connection->lost(absl::UnavailableError("connection refused"));
  });
}

void Sampler::Lost(const SamplerConnectionPtr& connection, const absl::Status& status) {
  if (connection == nullptr || connection_ != connection) return;
  connection_ = nullptr;
  works_.clear();
  if (absl::IsAborted(status)) return rank_->Fail(absl::StatusCode::kCancelled, "not wanted");
  rank_->After(parts_.world->random.Between(25, 2000), [this] { Connect(); });
}

// Each end notices by itself.
void Sampler::BreakSession() {
  if (connection_ == nullptr || connection_->broken) return;
  const SamplerConnectionPtr connection = connection_;
  connection->broken = true;
  parts_.world->trace.Line(connection->host, rank_->start().group().id(), ": its session breaks");
  parts_.world->time.After(parts_.world->random.Between(0, 200), [connection] {
    connection->lost(absl::UnavailableError("the connection broke"));
  });
  parts_.world->time.After(parts_.world->random.Between(0, 300), [parts = parts_, connection] {
    parts.coordinator->SamplerBroke(connection);
  });
}

void Sampler::Gone() {
  if (connection_ == nullptr || connection_->broken) return;
  const SamplerConnectionPtr connection = connection_;
  parts_.world->time.At(
      std::max(connection->last_up_ms, parts_.network->ArrivalMs(connection->host)),
      [parts = parts_, connection] {
        connection->broken = true;
        parts.coordinator->SamplerBroke(connection);
      });
}

void Sampler::Receive(const worker::v1::SamplerCommand& command) {
  if (command.has_sample_task()) Add(command.sample_task());
  if (command.has_calibrate_task()) Add(command.calibrate_task());
  if (command.has_cancel_sample()) works_.erase(command.cancel_sample().request_id());
}

void Sampler::Add(const SampleTask& task) {
  Work work;
  work.checkpoint = {task.job_id(), task.step()};
  work.seed = task.request().seed();
  work.images = task.request().count();
  AddWork(task.request_id(), std::move(work));
}

void Sampler::Add(const CalibrateTask& task) {
  Work work;
  work.checkpoint = {task.job_id(), task.step()};
  work.images = 1;
  work.calibrates = true;
  AddWork(task.request_id(), std::move(work));
}

void Sampler::AddWork(const std::string& id, Work work) {
  work.steps = static_cast<int>(parts_.world->random.Pick<int64_t>({1, 2, 3, 5, 40}));
  if (!works_.emplace(id, std::move(work)).second) {
    return parts_.world->Violate("a task is given once", id);
  }
  LoadNext();
}

void Sampler::GiveBack() {
  const absl::Status stopping = absl::UnavailableError("the sampler is stopping");
  for (const auto& [id, work] : works_) PushError(id, stopping);
  works_.clear();
}

void Sampler::PushError(const std::string& id, const absl::Status& status) {
  SampleUpdate update;
  update.set_request_id(id);
  update.mutable_error()->set_status_code(static_cast<int>(status.code()));
  update.mutable_error()->set_message(std::string(status.message()));
  Push(std::move(update));
}

void Sampler::LoadNext() {
  std::vector<std::string> ids;
  for (const auto& [id, work] : works_) {
    if (!work.loading && !loaded_.contains(work.checkpoint)) ids.push_back(id);
  }
  for (const std::string& id : ids) Load(id);
  StepLater();
}

void Sampler::Load(const std::string& id) {
  Work& work = works_.at(id);
  work.loading = true;
  rank_->Call(
      5000,
      [parts = parts_, work, group = rank_->start().group()](const Network::Answer& answer) {
        if (!parts.coordinator->alive()) {
          return answer({0, absl::UnavailableError("connection refused"), {}, false});
        }
        parts.coordinator->ReadCheckpoint(
            work.checkpoint.first, work.checkpoint.second,
            [parts, work, group, answer](const server::Reply& reply) {
              if (!work.calibrates && parts.coordinator->Wants(group)) {
                parts.checker->OnSamplerRead(work.seed, work.checkpoint.first,
                                             work.checkpoint.second, reply.status);
              }
              answer(reply);
            });
      },
      [this, id](const server::Reply& reply) { Loaded(id, reply.status); });
}

void Sampler::Loaded(const std::string& id, const absl::Status& status) {
  const auto found = works_.find(id);
  if (found == works_.end()) return;  // cancelled
  if (status.ok()) {
    loaded_.insert(found->second.checkpoint);
  } else {
    PushError(id, status);
    works_.erase(found);
  }
  StepLater();
}

void Sampler::StepLater() {
  const bool any = std::any_of(works_.begin(), works_.end(), [this](const auto& entry) {
    return loaded_.contains(entry.second.checkpoint);
  });
  if (stepping_ || !any) return;
  stepping_ = true;
  rank_->After(parts_.world->random.Between(10, 150), [this] {
    stepping_ = false;
    Step();
    StepLater();
  });
}

void Sampler::Step() {
  if (parts_.world->random.Chance(0.003)) BreakSession();
  for (auto entry = works_.begin(); entry != works_.end();) {
    const bool goes_on =
        !loaded_.contains(entry->second.checkpoint) || StepOf(entry->first, entry->second);
    entry = goes_on ? std::next(entry) : works_.erase(entry);
  }
  PushLoad();
}

bool Sampler::StepOf(const std::string& id, Work& work) {
  SampleUpdate update;
  update.set_request_id(id);
  if (!std::exchange(work.begun, true) && !work.calibrates) {
    SampleUpdate started = update;
    started.mutable_response()->mutable_started();
    Push(std::move(started));
  }
  if (++work.step < work.steps) {
    if (work.calibrates) {
      update.mutable_calibration()->mutable_progress()->set_done(0.5);
    } else {
      update.mutable_response()->mutable_progress()->set_step(work.step);
    }
    Push(std::move(update));
    return true;
  }
  work.step = 0;
  if (work.calibrates) {
    update.mutable_calibration()->mutable_finished()->set_images(16);
    Push(std::move(update));
    return false;
  }
  PushImage(id, work);
  if (++work.image < work.images) return true;
  update.mutable_response()->mutable_finished();
  Push(std::move(update));
  return false;
}

void Sampler::PushImage(const std::string& id, const Work& work) {
  const std::string pixels = PixelsOf(work.seed, work.image);
  const auto part = static_cast<size_t>(parts_.world->random.Between(4, 20));
  for (size_t offset = 0; offset < pixels.size(); offset += part) {
    if (parts_.world->random.Chance(0.002)) continue;  // lost on its way
    SampleUpdate update;
    update.set_request_id(id);
    v1::SampleResponse::Image* image = update.mutable_response()->mutable_image();
    image->set_index(work.image);
    image->set_offset(static_cast<int64_t>(offset));
    image->set_pixels(pixels.substr(offset, part));
    image->set_total_bytes(static_cast<int64_t>(pixels.size()));
    Push(std::move(update));
  }
}

void Sampler::PushLoad() {
  SampleUpdate update;
  worker::v1::SamplerLoad* load = update.mutable_load();
  load->set_step_base_seconds(0.01);
  load->set_step_row_seconds(row_seconds_);
  load->set_width_rows(8);
  load->set_requests(static_cast<int>(works_.size()));
  int64_t rows = 0;
  for (const auto& [id, work] : works_) rows += 100 * (work.images - work.image);
  load->set_rows_waiting(rows);
  Push(std::move(update));
}

void Sampler::Push(SampleUpdate update) {
  if (connection_ == nullptr || connection_->broken) return;
  const SamplerConnectionPtr connection = connection_;
  connection->last_up_ms =
      std::max(connection->last_up_ms, parts_.network->ArrivalMs(connection->host));
  // A dead connection is noticed by its keepalive.
  constexpr int64_t kKeepaliveMs = 30'000;
  if (connection->last_up_ms > parts_.world->time.now_ms() + kKeepaliveMs) return BreakSession();
  parts_.world->time.At(connection->last_up_ms,
                        [parts = parts_, connection, update = std::move(update)] {
                          if (connection->broken) return;
                          parts.coordinator->ReceiveSampler(connection, update);
                        });
}

}  // namespace diffmoe::simulation
