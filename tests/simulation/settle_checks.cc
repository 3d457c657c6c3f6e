// The end of a run: faults are over, time has passed, and nothing may be left hanging.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/simulation/checker.h"

namespace diffmoe::simulation {

using server::HasEnded;

bool Checker::JobsSettled(int slots) const {
  for (const auto& [id, job] : jobs_) {
    const bool waits =
        job.state == v1::PAUSED || (job.state == v1::QUEUED && job.min_ranks > slots);
    if (!HasEnded(job.state) && !waits) return false;
  }
  return true;
}

std::string Checker::OpenJobs() const {
  std::string text;
  for (const auto& [id, job] : jobs_) {
    if (HasEnded(job.state)) continue;
    absl::StrAppend(&text, text.empty() ? "" : "; ", id, " with ", job.ranks, " ranks is ",
                    v1::JobState_Name(job.state), ", epoch ", job.epoch, ": ", job.reason);
  }
  return text;
}

void Checker::CheckOutcome(const std::string& id, const JobView& job, int slots) {
  if (job.pause_promised && !HasEnded(job.state) && job.state != v1::PAUSED) {
    world_->Violate("an acknowledged pause is never lost",
                    absl::StrCat(id, " is ", v1::JobState_Name(job.state)));
  }
  if (!HasEnded(job.state)) {
    if (job.state == v1::QUEUED && job.min_ranks > slots) return;
    if (job.state == v1::PAUSED) return;
    return world_->Violate("everything settles once faults stop", OpenJobs());
  }
  if (job.cancel_promised && job.state != v1::CANCELLED) {
    world_->Violate("an acknowledged cancel is never lost",
                    absl::StrCat(id, " is ", v1::JobState_Name(job.state)));
  }
  const JobPlan& plan = plans_->at(job.spec_name);
  if (plan.kind != JobKind::kHealthy && job.state == v1::SUCCEEDED) {
    world_->Violate("a failed rank fails its job", absl::StrCat(id, " is SUCCEEDED"));
  }
  if (plan.kind != JobKind::kHealthy || job.state != v1::FAILED) return;
  // A fork whose source was damaged has nothing to start from.
  const auto damaged = damaged_bytes_.lower_bound({job.source_job, job.source_step, 0});
  if (job.source_step > 0 && absl::StrContains(job.reason, "from which it starts, is damaged") &&
      damaged != damaged_bytes_.end() && damaged->job_id == job.source_job &&
      damaged->step == job.source_step) {
    return;
  }
  int faulty = 0;
  for (const auto& [epoch, attempt] : job.attempts) faulty += attempt.faulty ? 1 : 0;
  const bool same_twice = absl::StrContains(job.reason, "the same error came twice");
  if (faulty <= (same_twice ? 1 : job.max_restarts)) {
    world_->Violate("a job fails for a cause",
                    absl::StrCat(id, " had ", faulty, " faulty attempts: ", job.reason));
  }
}

void Checker::CheckSlots(const server::State& state, const std::vector<SlotTruth>& truth) {
  std::map<std::pair<std::string, int>, server::SlotUser> expected;
  for (const SlotTruth& slot : truth) {
    expected[{slot.worker_id, slot.slot}] = slot.user;
    if (!slot.sampler) {
      world_->Violate("ranks of ended attempts end",
                      absl::StrCat("rank ", slot.user.rank, " of ", slot.user.group_id, " epoch ",
                                   slot.user.epoch, " still runs on ", slot.worker_id));
    }
  }
  for (const auto& [id, worker] : state.workers) {
    if (!worker.Usable()) continue;  // it has left, and isn't given up yet
    for (size_t i = 0; i < worker.slots.size(); ++i) {
      const auto found = expected.find({id, static_cast<int>(i)});
      const std::optional<server::SlotUser>& user = worker.slots[i].user;
      const bool equal = found == expected.end() ? !user : user == found->second;
      if (equal) continue;
      world_->Violate("a slot is free when its rank has ended",
                      absl::StrCat("slot ", i, " of ", id, " is held by ",
                                   user ? user->group_id : "nobody", ", there runs ",
                                   found == expected.end() ? "nothing" : found->second.group_id));
    }
  }
}

void Checker::Finish(const server::State& state, int slots, const std::vector<SlotTruth>& truth) {
  for (const auto& [id, job] : jobs_) {
    CheckOutcome(id, job, slots);
    const auto live = state.jobs.find(id);
    if (live == state.jobs.end()) {
      world_->Violate("an acknowledged job is never lost", absl::StrCat(id, " is gone"));
      continue;
    }
    if (job.state != v1::QUEUED) continue;
    const std::string& reason = live->second.job().reason();
    if (!absl::StrContains(reason, absl::StrCat("needs ", job.min_ranks, " ")) ||
        !absl::StrContains(reason, absl::StrCat("of ", slots, " "))) {
      world_->Violate(
          "who waits is told the truth",
          absl::StrCat(id, " waits for ", job.min_ranks, " slots of ", slots, ": ", reason));
    }
  }
  if (!state.samples.empty()) {
    world_->Violate("everything settles once faults stop",
                    absl::StrCat(state.samples.size(), " samples are left"));
  }
  CheckSlots(state, truth);
  CheckSamplersIdle(truth);
}

}  // namespace diffmoe::simulation
