#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "server/scheduler/placement.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

std::string KindOf(const JobEntry& job) {
  return job.job().spec().parallel().device() == v1::DEVICE_CUDA ? "cuda" : "cpu";
}

int WantedRanks(const JobEntry& job) { return job.job().spec().parallel().ranks(); }
int FewestRanks(const JobEntry& job) {
  const int fewest = job.job().spec().parallel().min_ranks();
  return fewest > 0 ? fewest : WantedRanks(job);
}

std::vector<CandidateSlot> UsableSlots(const State& state) {
  const std::set<std::pair<std::string, int>> reserved = ReservedSlots(state);
  const std::set<std::pair<std::string, int>> for_samplers = SamplingSlots(state);
  std::vector<CandidateSlot> slots;
  for (const auto& [id, worker] : state.workers) {
    if (!worker.Usable()) continue;
    for (size_t i = 0; i < worker.slots.size(); ++i) {
      const SlotEntry& slot = worker.slots[i];
      const int index = static_cast<int>(i);
      if (for_samplers.contains({id, index})) continue;
      const bool free = !slot.user.has_value() && !reserved.contains({id, index});
      slots.push_back({id, index, slot.device, free});
    }
  }
  return slots;
}

void SetFree(const std::string& worker_id, int slot, bool free, std::vector<CandidateSlot>* slots) {
  for (CandidateSlot& candidate : *slots) {
    if (candidate.worker_id == worker_id && candidate.slot == slot) candidate.free = free;
  }
}

void SetAttemptFree(const JobEntry& job, std::vector<CandidateSlot>* slots) {
  for (const RankEntry& rank : job.attempt.ranks) SetFree(rank.worker_id, rank.slot, true, slots);
}

void Place(Transition& t, JobEntry& job, const PlacementResult& result,
           std::vector<CandidateSlot>* slots) {
  std::vector<v1::Placement> placements;
  for (size_t rank = 0; rank < result.ranks.size(); ++rank) {
    const PlacedRank& placed = result.ranks[rank];
    v1::Placement& placement = placements.emplace_back();
    placement.set_rank(static_cast<int>(rank));
    placement.set_worker_id(placed.worker_id);
    placement.set_slot(placed.slot);
    SetFree(placed.worker_id, placed.slot, false, slots);
  }
  StartAttempt(t, job, placements);
}

// The largest allowed number of ranks that fits; else the answer for the fewest. Any power of two
// between the fewest and the wanted number is allowed.
PlacementResult PlaceLargest(const JobEntry& job, const std::string& kind,
                             const std::vector<CandidateSlot>& slots) {
  int ranks = WantedRanks(job);
  PlacementResult result = PlaceGang(ranks, kind, slots);
  while (result.ranks.empty() && ranks / 2 >= FewestRanks(job)) {
    ranks /= 2;
    result = PlaceGang(ranks, kind, slots);
  }
  return result;
}

bool MakesRoom(const AttemptEntry& attempt) {
  return attempt.stop && *attempt.stop != StopKind::kFailure && *attempt.stop != StopKind::kResize;
}

// Running jobs that are less important than `job`: least important first, of equals the youngest.
std::vector<JobEntry*> Victims(State& state, const JobEntry& job, const std::string& kind) {
  std::vector<JobEntry*> victims;
  for (const std::string& id : state.placed) {
    JobEntry& other = state.jobs.at(id);
    if (other.attempt.stop || other.attempt.ranks.empty() || KindOf(other) != kind) continue;
    if (other.job().priority() < job.job().priority()) victims.push_back(&other);
  }
  std::sort(victims.begin(), victims.end(), [](const JobEntry* a, const JobEntry* b) {
    if (a->job().priority() != b->job().priority()) {
      return a->job().priority() < b->job().priority();
    }
    return a->record.sequence_number() > b->record.sequence_number();
  });
  return victims;
}

// The fewest of `victims`, from the front, whose slots are enough for `job`; empty when all of them
// are not.
std::vector<JobEntry*> ChooseVictims(const JobEntry& job, const std::string& kind,
                                     const std::vector<JobEntry*>& victims,
                                     const std::vector<CandidateSlot>& slots) {
  const auto enough = [&](const std::vector<JobEntry*>& chosen) {
    std::vector<CandidateSlot> with = slots;
    for (const JobEntry* victim : chosen) SetAttemptFree(*victim, &with);
    return !PlaceGang(FewestRanks(job), kind, with).ranks.empty();
  };
  std::vector<JobEntry*> chosen;
  for (JobEntry* victim : victims) {
    chosen.push_back(victim);
    if (enough(chosen)) break;
  }
  if (!enough(chosen)) return {};
  // Those that turned out not to matter go on; the most important first.
  for (size_t i = chosen.size(); i-- > 0;) {
    std::vector<JobEntry*> fewer = chosen;
    fewer.erase(fewer.begin() + static_cast<int64_t>(i));
    if (!fewer.empty() && enough(fewer)) chosen = std::move(fewer);
  }
  return chosen;
}

// Stops less important jobs, when that is enough. True when slots are on their way.
bool MakeRoom(Transition& t, const JobEntry& job, const std::string& kind,
              std::vector<CandidateSlot> slots) {
  for (const std::string& id : t.state.placed) {
    const JobEntry& other = t.state.jobs.at(id);
    if (MakesRoom(other.attempt)) SetAttemptFree(other, &slots);
  }
  if (!PlaceGang(FewestRanks(job), kind, slots).ranks.empty()) return true;
  const std::vector<JobEntry*> chosen =
      ChooseVictims(job, kind, Victims(t.state, job, kind), slots);
  for (JobEntry* victim : chosen) {
    const std::string why =
        absl::StrCat("makes room for ", job.job().name(), " (priority ", job.job().priority(),
                     " over ", victim->job().priority(), "): saves a checkpoint and waits");
    SetReason(t, *victim, v1::REASON_STOPPING, why);
    AddJobEvent(t, *victim, why);
    StopAttempt(t, *victim, StopKind::kPreempt, why);
  }
  return !chosen.empty();
}

// Says why the job waits. True when later jobs must wait behind it.
bool ExplainWait(Transition& t, JobEntry& job, const std::string& kind,
                 const PlacementResult& result, const std::vector<CandidateSlot>& slots) {
  std::string reason = result.reason;
  if (const int kept = t.options().sampling_slots; kept > 0) {
    absl::StrAppend(&reason, "; ", kept, kept == 1 ? " more is" : " more are",
                    " kept for sampling");
  }
  if (!result.ever) {
    SetReason(t, job, v1::REASON_CLUSTER_TOO_SMALL, reason);
    return false;  // a job that is larger than the cluster holds nobody up
  }
  if (YieldSamplers(t, kind, result.missing)) {
    t.state.samplers_yield = true;
    absl::StrAppend(&reason, "; a sampler is giving up its slot");
  } else if (MakeRoom(t, job, kind, slots)) {
    absl::StrAppend(&reason, "; other jobs are giving up theirs");
  }
  SetReason(t, job, v1::REASON_WAITS_FOR_SLOTS, reason);
  return true;
}

void EndBackOffs(Transition& t) {
  auto& waiting = t.state.backing_off;
  while (!waiting.empty() && waiting.begin()->first <= t.now.monotonic_ms) {
    SetJobState(t.state, t.state.jobs.at(waiting.begin()->second), v1::QUEUED);
  }
}

}  // namespace

bool IsBehindBlocked(const State& state, const JobEntry& job) {
  const auto blocked = state.blocked.find(KindOf(job));
  return blocked != state.blocked.end() &&
         blocked->second < QueueKey{-job.job().priority(), job.record.sequence_number()};
}

void ExplainTurn(Transition& t, JobEntry& job) {
  SetReason(t, job, v1::REASON_WAITS_FOR_TURN,
            "waits for its turn behind jobs that are older or more important");
}

std::string DescribeTurn(const State& state, const JobEntry& job) {
  const auto blocked = state.blocked.find(KindOf(job));
  if (blocked == state.blocked.end()) return job.job().reason();
  const auto first = state.queue.find(blocked->second);
  const auto own = state.queue.find({-job.job().priority(), job.record.sequence_number()});
  if (first == state.queue.end() || own == state.queue.end()) return job.job().reason();
  const auto before = std::distance(first, own);
  return absl::StrCat("waits for its turn behind ", JobName(first->second),
                      before > 1 ? absl::StrCat(" and ", before - 1, " more") : "");
}

void ScheduleJobs(Transition& t) {
  EndBackOffs(t);
  t.state.blocked.clear();
  t.state.samplers_yield = false;
  for (auto& [id, sampler] : t.state.samplers) sampler.yielding = false;
  std::vector<CandidateSlot> slots = UsableSlots(t.state);
  for (auto it = t.state.queue.begin(); it != t.state.queue.end();) {
    const auto [key, id] = *it++;  // placing it takes it out of the queue
    JobEntry& job = t.state.jobs.at(id);
    const std::string kind = KindOf(job);
    if (t.state.blocked.contains(kind)) {
      ExplainTurn(t, job);
      continue;
    }
    const PlacementResult result = PlaceLargest(job, kind, slots);
    if (!result.ranks.empty()) {
      Place(t, job, result, &slots);
    } else if (ExplainWait(t, job, kind, result, slots)) {
      t.state.blocked[kind] = key;
    }
  }
}

void GrowIfRoom(Transition& t, JobEntry& job) {
  const int world_size = static_cast<int>(job.attempt.ranks.size());
  if (job.job().state() != v1::RUNNING || job.attempt.stop || world_size >= WantedRanks(job)) {
    return;
  }
  const std::string kind = KindOf(job);
  for (const auto& [key, id] : t.state.queue) {
    if (KindOf(t.state.jobs.at(id)) == kind) return;  // waiting jobs come first
  }
  std::vector<CandidateSlot> slots = UsableSlots(t.state);
  SetAttemptFree(job, &slots);
  const int ranks = static_cast<int>(PlaceLargest(job, kind, slots).ranks.size());
  if (ranks <= world_size) return;
  const std::string why =
      absl::StrCat("restarts on ", ranks, " ranks from the checkpoint: slots are free");
  SetReason(t, job, v1::REASON_STOPPING, why);
  AddJobEvent(t, job, why);
  StopAttempt(t, job, StopKind::kResize, why);
}

}  // namespace diffmoe::server
