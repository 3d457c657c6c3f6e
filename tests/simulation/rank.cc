#include "tests/simulation/rank.h"

#include "absl/strings/str_cat.h"
#include "tests/simulation/sampler.h"
#include "tests/simulation/training_group.h"
#include "tests/simulation/worker.h"

namespace diffmoe::simulation {

Rank::Rank(const RankParts& parts, Worker* worker, const worker::v1::StartRank& start,
           std::shared_ptr<TrainingGroup> group)
    : parts_(parts), worker_(worker), start_(start), group_(std::move(group)) {}

Rank::~Rank() = default;

const std::string& Rank::host() const { return worker_->id(); }

std::string Rank::Describe() const {
  return absl::StrCat("rank ", number(), " of ", start_.group().id(), " epoch ",
                      start_.group().epoch(), " on ", host());
}

void Rank::Begin() {
  step_ = start_.restore_step();
  if (group_ == nullptr) sampler_ = std::make_unique<Sampler>(parts_, this);
  After(parts_.world->random.Between(100, 800), [this] {
    if (group_ != nullptr) {
      group_->Add(shared_from_this());
    } else {
      sampler_->Begin();
    }
  });
}

TrainingGroup* Rank::training() const {
  return !gone_ && group_ != nullptr && group_->training() ? group_.get() : nullptr;
}

void Rank::Stop(bool save) {
  After(parts_.world->random.Between(0, 5), [this, save] {
    stop_requested_ = true;
    if (hung_) return;
    if (group_ != nullptr) return group_->OnStop(this, save);
    // A last word may be lost; then the coordinator learns from the exit.
    if (parts_.world->random.Chance(0.8)) sampler_->GiveBack();
    After(parts_.world->random.Between(0, 50),
          [this] { Fail(absl::StatusCode::kCancelled, "asked to stop"); });
  });
}

void Rank::Hang(int64_t duration_ms) {
  if (gone_ || hung_ || group_ == nullptr) return;
  parts_.world->trace.Line(host(), Describe(), " is stopped for ", duration_ms, " ms");
  hung_ = true;
  hung_since_ms_ = parts_.world->time.now_ms();
  worker_->OnHang(this);
  group_->OnHang(this);
  After(duration_ms, [this] {
    hung_ = false;
    parts_.world->trace.Line(host(), Describe(), " runs again");
    group_->OnAwake(this);
  });
}

void Rank::Exit(RankEnd end) {
  if (gone_) return;
  gone_ = true;
  if (sampler_ != nullptr) sampler_->Gone();
  worker_->RankGone(this, end);
  if (group_ != nullptr) group_->OnGone(this, end.done);
}

void Rank::Fail(absl::StatusCode code, const std::string& message) {
  RankEnd end;
  end.exit.code = 1;
  end.failure.emplace();
  end.failure->set_status_code(static_cast<int>(code));
  end.failure->set_message(message);
  end.failure->set_step(step_);
  Exit(std::move(end));
}

void Rank::Die() {
  if (gone_) return;
  gone_ = true;
  if (sampler_ != nullptr) sampler_->Gone();
  if (group_ != nullptr) group_->OnGone(this, /*done=*/false);
}

void Rank::After(int64_t delay_ms, std::function<void()> task) {
  parts_.world->time.After(delay_ms, [self = shared_from_this(), task = std::move(task)] {
    if (!self->gone_) task();
  });
}

void Rank::Call(int64_t timeout_ms, std::function<void(Network::Answer)> serve,
                Network::Answer receive) {
  worker_->WhenRunning([self = shared_from_this(), timeout_ms, serve = std::move(serve),
                        receive = std::move(receive)] {
    self->parts_.network->Call(self->host(), timeout_ms, serve,
                               [self, receive](const server::Reply& reply) {
                                 if (!self->gone_) receive(reply);
                               });
  });
}

// Ranks and groups hold each other.
RankGroups::~RankGroups() {
  for (const auto& [key, group] : groups_) group->Release();
}

std::shared_ptr<Rank> RankGroups::NewRank(Worker* worker, const worker::v1::StartRank& start) {
  if (start.role() == worker::v1::ROLE_SAMPLE) {
    return std::make_shared<Rank>(parts_, worker, start, nullptr);
  }
  auto& group = groups_[{start.group().id(), start.group().epoch()}];
  if (group == nullptr) group = std::make_shared<TrainingGroup>(parts_, start);
  return std::make_shared<Rank>(parts_, worker, start, group);
}

}  // namespace diffmoe::simulation
