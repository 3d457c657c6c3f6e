// One running Step(): the state, the time and the effects so far. The transition functions below
// are its parts, one file a subject; only files of this folder include this header.
#pragma once

#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "server/state/effect.h"
#include "server/state/event.h"
#include "server/state/state.h"

namespace diffmoe::server {

struct Transition {
  State& state;
  const Now now;
  Effects effects;
  std::set<std::string> changed_jobs;     // written and published once, at the end of the step
  std::set<std::string> progressed_jobs;  // published only
  bool schedule = false;                  // slots or the queue may have changed
  bool samplers_yield = false;            // samplers give up slots for a job; none may be started

  template <typename E>
  void Emit(E effect) {
    effects.push_back(std::move(effect));
  }
  void ReplyError(uint64_t call, absl::Status status) {
    Emit(Reply{call, std::move(status), {}, false});
  }
  const StateOptions& options() const { return state.options; }
};

// --- job_transitions.cc
void OnSubmitJob(Transition& t, const SubmitJob& event);
void OnCancelJob(Transition& t, const CancelJob& event);
JobEntry* FindJob(Transition& t, const std::string& job_id);
// Marks the job as changed, with a line in its history.
void AddJobEvent(Transition& t, JobEntry& job, const std::string& message, bool warning = false);
void EndJob(Transition& t, JobEntry& job, v1::JobState state, const std::string& reason);
// Slots may be free: places waiting jobs, oldest first, and says why the others wait.
void ScheduleJobs(Transition& t);

// --- attempt_transitions.cc
void StartAttempt(Transition& t, JobEntry& job, const std::vector<v1::Placement>& placements);
void OnRankStarted(Transition& t, const RankStarted& event);
void OnRankReported(Transition& t, const RankReported& event);
void OnRankExited(Transition& t, const RankExited& event);
// The rank is gone for `failure`; stops the others. `attempt.ranks[rank]` was alive.
void FailRank(Transition& t, JobEntry& job, int rank, Failure failure);
// Asks every living rank of the attempt to end.
void StopAttempt(Transition& t, JobEntry& job, const std::string& reason);
// When no rank lives any more: the job succeeds, is cancelled, fails or waits for its next attempt.
void SettleAttempt(Transition& t, JobEntry& job);
void TickAttempts(Transition& t);

// --- attempt_outcome.cc
Failure ExitFailure(const worker::v1::RankExited& exited, const std::string& worker_id);
bool IsCounted(FailureCause cause);
// All ranks are gone: what becomes of the job.
void ConcludeAttempt(Transition& t, JobEntry& job);

// --- worker_transitions.cc
void OnWorkerHello(Transition& t, const WorkerHello& event);
void OnWorkerHeartbeat(Transition& t, const WorkerHeartbeat& event);
void OnSessionClosed(Transition& t, const SessionClosed& event);
void OnResumed(Transition& t);
void TickWorkers(Transition& t);
// The worker of a session that is in use, after noting that it lives; null for a replaced or
// unknown session.
WorkerEntry* Heard(Transition& t, uint64_t session);
void Send(Transition& t, const std::string& worker_id, worker::v1::CoordinatorMessage message);
void SendStopGroup(Transition& t, const std::string& worker_id, const std::string& group_id,
                   int64_t epoch, int64_t grace_ms, const std::string& reason);
// Slots (worker, index) that are kept for the next attempts of jobs whose attempts are ending.
std::set<std::pair<std::string, int>> ReservedSlots(const State& state);
void FreeSlot(Transition& t, const std::string& worker_id, const SlotUser& user);

// --- checkpoint_transitions.cc
void OnCommitManifest(Transition& t, const CommitManifest& event);
void OnCheckpointDamaged(Transition& t, const CheckpointDamaged& event);
// Newest checkpoint that may be restored; 0: none.
int64_t RestorableStep(const JobEntry& job);
bool IsDamaged(const JobEntry& job, int64_t step);
// Deletes what retention doesn't keep and nobody uses.
void ApplyRetention(Transition& t, JobEntry& job);

// --- sample_transitions.cc
void OnSubmitSample(Transition& t, const SubmitSample& event);
void OnCancelSample(Transition& t, const CancelSample& event);
void OnSampleUpdated(Transition& t, const SampleUpdated& event);
void EndSample(Transition& t, uint64_t call, absl::Status status, SampleOutcome outcome);
// The sampler of the request is gone: to the head of the queue again, or UNAVAILABLE.
void RequeueSample(Transition& t, uint64_t call, const std::string& why);
// Sends the request to a ready sampler.
void DispatchSample(Transition& t, uint64_t call, SamplerEntry& sampler);
// The sampler's worker has a new stream: its task may be lost with the old one. Sends it again
// unless the sampler has said something about it.
void ResendSample(Transition& t, SamplerEntry& sampler);
// Tells the waiting requests their positions.
void TellQueue(Transition& t, const std::string& reason);
void TickSamples(Transition& t);

// --- sampler_transitions.cc
// Gives waiting requests to samplers, starts samplers on free slots, stops idle ones.
void ScheduleSamplers(Transition& t);
// Stops idle samplers for a job that waits for slots of the device kind. True when it will have
// room then.
bool YieldSamplers(Transition& t, const std::string& device, int slots_missing);
void StopSampler(Transition& t, SamplerEntry& sampler, const std::string& reason);
void SamplerGone(Transition& t, const std::string& sampler_id, const std::string& why);
// Its process runs: ready, when it was starting.
void SamplerStarted(Transition& t, SamplerEntry& sampler);
void SamplerIdle(Transition& t, SamplerEntry& sampler);
void TickSamplers(Transition& t);

// --- restart_transitions.cc
void OnRestarted(Transition& t);

}  // namespace diffmoe::server
