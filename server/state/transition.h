// One running Step(): the state, the time and the effects so far. The transition functions below
// are its parts, one file a subject; only files of this folder include this header.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
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
  std::map<std::string, std::vector<v1::JobEvent>> job_events;

  template <typename E>
  void Emit(E effect) {
    effects.push_back(std::move(effect));
  }
  void ReplyError(uint64_t call, absl::Status status) {
    Emit(Reply{call, std::move(status), {}, false});
  }
  const StateOptions& options() const { return state.options; }
};

// --- job_state.cc
JobEntry* FindJob(Transition& t, const std::string& job_id);
// The job, or null after an answer that it doesn't exist.
JobEntry* FindJobOrReply(Transition& t, uint64_t call, const std::string& job_id);
void ReplyJob(Transition& t, uint64_t call, const std::string& job_id);
void ReplyEnded(Transition& t, uint64_t call, const JobEntry& job);
// Every change of a state goes through here: keeps the queue and the sets of State true.
void SetJobState(State& state, JobEntry& job, v1::JobState job_state);
// As QUEUED, but it may not start before `not_before_ms` (monotonic).
void BackOff(State& state, JobEntry& job, int64_t not_before_ms);
// Why the job is where it is; publishes it when it is another reason than before.
void SetReason(Transition& t, JobEntry& job, v1::ReasonCode code, const std::string& reason);
// Marks the job as changed, with a line in its history.
void AddJobEvent(Transition& t, JobEntry& job, const std::string& message, bool warning = false);
void EndJob(Transition& t, JobEntry& job, v1::JobState state, v1::ReasonCode code,
            const std::string& reason);

// --- job_creation.cc
void OnSubmitJob(Transition& t, const SubmitJob& event);
void OnForkJob(Transition& t, const ForkJob& event);
void OnRetryJob(Transition& t, const RetryJob& event);

// --- job_control.cc
void OnCancelJob(Transition& t, const CancelJob& event);
void OnPauseJob(Transition& t, const PauseJob& event);
void OnResumeJob(Transition& t, const ResumeJob& event);
void OnUpdateJob(Transition& t, const UpdateJob& event);

// --- scheduling.cc
// Slots may be free: places waiting jobs by priority and age, makes room for the most important
// one, and says why the others wait.
void ScheduleJobs(Transition& t);
// True when a more important or older job of the same device kind waits already.
bool IsBehindBlocked(const State& state, const JobEntry& job);
void ExplainTurn(Transition& t, JobEntry& job);
// A checkpoint was committed: a job that runs on fewer ranks than it wants starts again on more,
// when there are slots that nobody waits for.
void GrowIfRoom(Transition& t, JobEntry& job);

// --- attempt_transitions.cc
void StartAttempt(Transition& t, JobEntry& job, const std::vector<v1::Placement>& placements);
void OnRankStarted(Transition& t, const RankStarted& event);
void OnRankReported(Transition& t, const RankReported& event);
void OnRankExited(Transition& t, const RankExited& event);
// The rank is gone for `failure`; stops the others. `attempt.ranks[rank]` was alive.
void FailRank(Transition& t, JobEntry& job, int rank, Failure failure);
// Asks every living rank of the attempt to end.
void StopAttempt(Transition& t, JobEntry& job, StopKind kind, const std::string& reason);
// Asks the ranks of a stopping attempt on one worker again.
void RepeatStop(Transition& t, const JobEntry& job, const std::string& worker_id);
// When the ranks of a stopping attempt count as gone, monotonic.
int64_t StopLimitMs(const StateOptions& options, const AttemptEntry& attempt);
// When no rank lives any more: the job succeeds, is cancelled, fails or waits for its next attempt.
void SettleAttempt(Transition& t, JobEntry& job);
void TickAttempts(Transition& t);

// --- attempt_outcome.cc
Failure ExitFailure(const worker::v1::RankExited& exited, const std::string& worker_id);
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
                   int64_t epoch, int64_t grace_ms, const std::string& reason, bool save = false);
// Slots (worker, index) that are kept for the next attempts of jobs whose attempts are ending.
std::set<std::pair<std::string, int>> ReservedSlots(const State& state);
void FreeSlot(Transition& t, const std::string& worker_id, const SlotUser& user);

// --- checkpoint_transitions.cc
void OnCommitManifest(Transition& t, const CommitManifest& event);
void OnCheckpointDamaged(Transition& t, const CheckpointDamaged& event);
void OnPinCheckpoint(Transition& t, const PinCheckpoint& event);
void OnDeleteJobCheckpoint(Transition& t, const DeleteJobCheckpoint& event);
// Newest own checkpoint that may be restored; 0: none.
int64_t RestorableStep(const JobEntry& job);
// Where the next attempt begins: an own checkpoint, that of another job which was forked, or step 0
// without a job.
struct RestorePoint {
  std::string job_id;
  int64_t step = 0;
};
RestorePoint RestorePointOf(const JobEntry& job);
// Keeps JobEntry::forks of the source true; call it when the job's checkpoints or state have
// changed.
void UpdateForkUse(State& state, const JobEntry& job);
// Deletes what retention doesn't keep and nobody uses.
void ApplyRetention(Transition& t, JobEntry& job);

// --- sample_admission.cc
void OnSubmitSample(Transition& t, const SubmitSample& event);
void OnSubmitCalibration(Transition& t, const SubmitCalibration& event);
// Seconds until a request for the job has its turn behind so many rows of the queue; 0: unknown.
double WaitSeconds(const State& state, const JobEntry& job, int64_t queued_rows);
void ForgetCall(State& state, const SampleEntry& sample);

// --- calibration_transitions.cc
// Thresholds for the capacity that `request` (complete) asks for; none when it asks for none.
// Errors: FAILED_PRECONDITION NO_CALIBRATION, INVALID_ARGUMENT.
absl::StatusOr<std::vector<v1::CalibratedLayer>> ThresholdsFor(const JobEntry& job, int64_t step,
                                                               bool newest,
                                                               const v1::SampleRequest& request);
// FAILED_PRECONDITION NO_CALIBRATION; with `newest`, of the job's newest checkpoint.
absl::Status NoCalibration(const JobEntry& job, int64_t step, bool newest);
// Writes the record and ends the call.
void FinishCalibration(Transition& t, uint64_t call, v1::Calibration calibration);
// The checkpoint has gone or was replaced.
void DropCalibration(Transition& t, JobEntry& job, int64_t step);

// --- sample_transitions.cc
void OnCancelSample(Transition& t, const CancelSample& event);
void OnCancelSampleById(Transition& t, const CancelSampleById& event);
void OnSamplerUpdated(Transition& t, const SamplerUpdated& event);
void EndSample(Transition& t, uint64_t call, absl::Status status, SampleOutcome outcome);
// Tells the sampler of the request, when it has one, to drop it, and takes it from it.
void CancelOnSampler(Transition& t, SampleEntry& sample);
// The sampler of the request is gone: into the queue again, or UNAVAILABLE.
void RequeueSample(Transition& t, uint64_t call, const std::string& why);
void TickSamples(Transition& t);

// --- sample_dispatch.cc
// Rows that the sampler has to do.
int64_t BacklogRows(const State& state, const SamplerEntry& sampler);
double BacklogSeconds(const State& state, const SamplerEntry& sampler);
// Gives waiting requests to samplers that have room.
void DispatchWaiting(Transition& t);
// A sampler has become ready: what others have too much of, and have not begun, is queued again.
void Rebalance(Transition& t);
void SendTask(Transition& t, const SampleEntry& sample, const SamplerEntry& sampler);
// The request has left the sampler, however.
void TakeFromSampler(Transition& t, SamplerEntry& sampler, const SampleEntry& sample);
void AddToQueue(State& state, const SampleEntry& sample);
void RemoveFromQueue(State& state, const SampleEntry& sample);
// Tells the waiting requests their positions.
void TellQueue(Transition& t, const std::string& reason);
void OnSamplerLoad(Transition& t, SamplerEntry& sampler, const worker::v1::SamplerLoad& load);

// --- sampler_transitions.cc
// Gives waiting requests to samplers, starts samplers on free slots, stops idle ones.
void ScheduleSamplers(Transition& t);
// One is starting, or could be.
bool AnotherMayCome(const Transition& t);
// Samplers on slots that jobs leave to them.
std::set<std::string> ProtectedSamplers(const State& state);
// Slots that no job may be placed on: State::options.sampling_slots of them.
std::set<std::pair<std::string, int>> SamplingSlots(const State& state);
// Makes samplers give up slots for a job that waits for slots of the device kind, idle ones at
// once, others after their requests. True when it will have room then.
bool YieldSamplers(Transition& t, const std::string& device, int slots_missing);
void StopSampler(Transition& t, SamplerEntry& sampler, const std::string& reason);
void SamplerGone(Transition& t, const std::string& sampler_id, const std::string& why);
// Its session: with it a sampler is ready, without it has lost what it was given.
void OnSamplerConnected(Transition& t, const SamplerConnected& event);
void OnSamplerDisconnected(Transition& t, const SamplerDisconnected& event);
// Nothing without a session: what it had is given away again.
void SendToSamplerOf(Transition& t, const SamplerEntry& sampler,
                     worker::v1::SamplerCommand command);
void TickSamplers(Transition& t);

// --- restart_transitions.cc
void OnRestarted(Transition& t);

}  // namespace diffmoe::server
