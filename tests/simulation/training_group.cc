#include "tests/simulation/training_group.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tests/simulation/worker.h"

namespace diffmoe::simulation {
namespace {

constexpr int64_t kJoinBudgetMs = 20'000;
constexpr int64_t kStepBudgetMs = 8000;
constexpr int64_t kCallTimeoutMs = 10'000;
constexpr int64_t kReportIntervalMs = 1000;
constexpr int64_t kMaxRetryMs = 5000;

}  // namespace

TrainingGroup::TrainingGroup(const RankParts& parts, const worker::v1::StartRank& start)
    : parts_(parts),
      job_id_(start.group().id()),
      epoch_(start.group().epoch()),
      spec_(start.spec()),
      plan_(parts.plans->at(start.spec().name())),
      restore_step_(start.restore_step()),
      members_(static_cast<size_t>(start.world_size())),
      step_(restore_step_),
      reported_step_(restore_step_) {}

void TrainingGroup::Add(const std::shared_ptr<Rank>& rank) {
  Member& member = MemberOf(rank.get());
  member.rank = rank;
  member.begin_ms = parts_.world->time.now_ms();
  if (plan_.kind == JobKind::kBadInput && rank->number() == 0) {
    return rank->Fail(absl::StatusCode::kInvalidArgument, "data.path: no such directory");
  }
  Join(member);
}

void TrainingGroup::Join(Member& member) {
  const std::shared_ptr<Rank> rank = member.rank;
  const int world_size = static_cast<int>(members_.size());
  rank->Call(
      kJoinBudgetMs,
      [this, self = shared_from_this(), rank, world_size](Network::Answer answer) {
        parts_.coordinator->Join(rank->start().group(), rank->number(), world_size, answer);
      },
      [this, self = shared_from_this(), &member, rank](const server::Reply& reply) {
        if (reply.status.ok()) {
          member.joined = true;
          for (const Member& other : members_) {
            if (!other.joined) return;
          }
          phase_ = Phase::kRestoring;
          for (Member& other : members_) Restore(other);
        } else if (absl::IsAborted(reply.status)) {
          rank->Fail(absl::StatusCode::kAborted, "this attempt has been replaced by a newer one");
        } else if (parts_.world->time.now_ms() - member.begin_ms >= kJoinBudgetMs) {
          rank->Fail(absl::StatusCode::kUnavailable, "rendezvous: not all ranks came");
        } else {
          rank->After(300, [this, self, &member] { Join(member); });
        }
      });
}

void TrainingGroup::Restore(Member& member) {
  const std::shared_ptr<Rank> rank = member.rank;
  if (rank->gone()) return LosePeers(rank.get(), "connection reset");
  const auto restored = [this, self = shared_from_this(), &member] {
    member.restored = true;
    for (const Member& other : members_) {
      if (!other.restored) return;
    }
    BeginTraining();
  };
  if (restore_step_ == 0) return rank->After(parts_.world->random.Between(1, 100), restored);
  rank->Call(
      kCallTimeoutMs,
      [this, self = shared_from_this()](const Network::Answer& answer) {
        if (!parts_.coordinator->alive()) {
          return answer({0, absl::UnavailableError("connection refused"), {}, false});
        }
        parts_.coordinator->ReadCheckpoint(
            job_id_, restore_step_, [this, self, answer](const server::Reply& reply) {
              parts_.checker->OnRankRead(job_id_, epoch_, restore_step_, reply.status);
              answer(reply);
            });
      },
      [rank, restored](const server::Reply& reply) {
        if (reply.status.ok()) return restored();
        rank->Fail(reply.status.code(), std::string(reply.status.message()));
      });
}

void TrainingGroup::BeginTraining() {
  for (const Member& member : members_) {
    if (member.rank->gone()) return LosePeers(member.rank.get(), "connection reset");
  }
  phase_ = Phase::kTraining;
  parts_.world->trace.Line(job_id_, "epoch ", epoch_, " trains from step ", step_);
  parts_.checker->OnTraining(job_id_, epoch_);
  ScheduleStep();
}

void TrainingGroup::ScheduleStep() {
  if (step_scheduled_ || phase_ != Phase::kTraining) return;
  step_scheduled_ = true;
  const int64_t step_ms = parts_.world->random.Between(plan_.step_ms / 2, plan_.step_ms * 3 / 2);
  parts_.world->time.After(step_ms, [this, self = shared_from_this()] {
    step_scheduled_ = false;
    Step();
  });
}

bool TrainingGroup::LeaveBeforeStep() {
  bool leaves = false;
  for (Member& member : members_) {
    if (member.rank->gone() || member.rank->hung()) return true;
  }
  for (Member& member : members_) {
    if (member.fenced) {
      leaves = true;
      member.rank->Fail(absl::StatusCode::kAborted, "this attempt has been replaced");
    } else if (member.rank->stop_requested() && !save_requested_) {
      leaves = true;
      member.rank->Fail(absl::StatusCode::kCancelled, "asked to stop");
    }
  }
  if (leaves || !save_requested_) return leaves;
  phase_ = Phase::kEnding;
  stopping_ = true;
  for (Member& member : members_) {
    step_ > 0 ? SaveLast(member) : EndMember(member);
  }
  return true;
}

void TrainingGroup::Step() {
  if (phase_ != Phase::kTraining) return;
  if (step_ < spec_.train().steps()) {
    if (LeaveBeforeStep()) return;
    ++step_;
    for (const Member& member : members_) member.rank->set_step(step_);
    parts_.checker->OnStepMade(job_id_, epoch_, step_);
  }
  const bool last = step_ >= spec_.train().steps();
  ReportSteps(last);
  if (plan_.kind == JobKind::kRepeatedError && step_ == plan_.error_step) {
    return members_.back().rank->Fail(absl::StatusCode::kInternal,
                                      absl::StrCat("the loss is not a number at step ", step_));
  }
  if (last) {
    phase_ = Phase::kEnding;
    for (Member& member : members_) SaveLast(member);
    return;
  }
  if (step_ % spec_.checkpoint().every_steps() == 0) return Save();
  ScheduleStep();
}

void TrainingGroup::ReportSteps(bool last) {
  const int64_t now_ms = parts_.world->time.now_ms();
  if (!last && now_ms - reported_ms_ < kReportIntervalMs) return;
  reported_ms_ = now_ms;
  worker::v1::RankReport report;
  report.mutable_group()->set_id(job_id_);
  report.mutable_group()->set_epoch(epoch_);
  report.mutable_progress()->set_step(step_);
  report.mutable_progress()->set_total_steps(spec_.train().steps());
  while (reported_step_ < step_) {
    v1::StepRecord* record = report.add_records();
    record->set_step(++reported_step_);
    record->set_grad_norm(static_cast<float>(epoch_));  // says who made the step
  }
  members_[0].rank->worker()->Report(report);
}

void TrainingGroup::PutShard(Member& member, Network::Answer receive) {
  const std::shared_ptr<Rank> rank = member.rank;
  const int64_t step = step_;
  rank->After(parts_.world->random.Between(5, 80), [=, this, self = shared_from_this()] {
    rank->Call(
        kCallTimeoutMs,
        [=, this](Network::Answer answer) {
          parts_.coordinator->PutShard(rank->start().group(), step, rank->number(),
                                       rank->start().world_size(), answer);
        },
        receive);
  });
}

void TrainingGroup::Save() {
  // One checkpoint is on its way at most; training waits for the one before.
  if (saves_in_flight_ > 0) {
    parts_.world->time.After(50, [this, self = shared_from_this()] {
      if (phase_ == Phase::kTraining) Save();
    });
    return;
  }
  saves_in_flight_ = static_cast<int>(members_.size());
  for (Member& member : members_) {
    PutShard(member, [this, self = shared_from_this(), &member](const server::Reply& reply) {
      --saves_in_flight_;
      member.fenced = member.fenced || absl::IsAborted(reply.status);
    });
  }
  ScheduleStep();
}

void TrainingGroup::SaveLast(Member& member) {
  const std::shared_ptr<Rank> rank = member.rank;
  if (rank->gone()) return;
  PutShard(member, [this, self = shared_from_this(), &member, rank](const server::Reply& reply) {
    if (reply.status.ok()) return EndMember(member);
    if (absl::IsAborted(reply.status)) {
      return rank->Fail(absl::StatusCode::kAborted, std::string(reply.status.message()));
    }
    if (rank->stop_requested() && !stopping_) {
      return rank->Fail(absl::StatusCode::kCancelled,
                        "asked to stop before the last checkpoint was saved");
    }
    rank->After(member.retry_ms, [this, self, &member] { SaveLast(member); });
    member.retry_ms = std::min(member.retry_ms * 2, kMaxRetryMs);
  });
}

void TrainingGroup::EndMember(Member& member) {
  member.rank->After(parts_.world->random.Between(1, 50),
                     [rank = member.rank, this, self = shared_from_this()] {
                       RankEnd end;
                       end.done = !stopping_;
                       end.stop_requested = stopping_;
                       rank->Exit(std::move(end));
                     });
}

void TrainingGroup::LosePeers(const Rank* culprit, const std::string& why) {
  for (const Member& member : members_) {
    if (member.rank == nullptr || member.rank.get() == culprit) continue;
    member.rank->After(parts_.world->random.Between(20, 400), [rank = member.rank,
                                                               culprit = culprit->number(), why] {
      if (rank->hung()) return;
      rank->Fail(absl::StatusCode::kUnavailable,
                 absl::StrCat("all-to-all dispatch of block 3: ", why, " by rank ", culprit));
    });
  }
}

void TrainingGroup::OnGone(Rank* rank, bool done) {
  if (done || phase_ == Phase::kJoining || phase_ == Phase::kEnding) return;
  LosePeers(rank, "connection reset");
}

void TrainingGroup::OnStop(Rank* rank, bool save) {
  if (save && phase_ == Phase::kTraining) {
    save_requested_ = true;
  } else if (phase_ == Phase::kJoining || phase_ == Phase::kRestoring) {
    rank->Fail(absl::StatusCode::kCancelled, "asked to stop");
  }
}

void TrainingGroup::OnHang(Rank* rank) {
  const int64_t since_ms = rank->hung_since_ms();
  rank->After(kStepBudgetMs, [this, self = shared_from_this(), rank, since_ms] {
    if (!rank->hung() || rank->hung_since_ms() != since_ms || phase_ != Phase::kTraining) return;
    LosePeers(rank, "timed out, waited for");
  });
}

void TrainingGroup::OnAwake(Rank* rank) {
  (void)rank;
  ScheduleStep();
}

}  // namespace diffmoe::simulation
