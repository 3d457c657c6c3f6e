// All that the coordinator knows. Durable parts are JobRecord, StoreHeader and the set of committed
// checkpoints; everything else is learnt again from the workers after a restart. Only the loop
// thread touches it; plain data without locks.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "diffmoe/internal/v1/records.pb.h"
#include "diffmoe/v1/sampling.pb.h"
#include "diffmoe/worker/v1/worker_plane.pb.h"
#include "server/sampling/sample_cost.h"
#include "server/sampling/user_queue.h"
#include "server/state/sampling_state.h"

namespace diffmoe::server {

// Limits and delays, all in monotonic milliseconds. The defaults are those of the service; tests
// shorten them.
struct StateOptions {
  // A connected worker says something at least this often; silent for longer, it is shown as SILENT
  // and gets no new work.
  int64_t heartbeat_interval_ms = 1000;
  int64_t silence_limit_ms = 4500;
  // A SILENT worker that doesn't come back in this time is lost, with its ranks.
  int64_t worker_grace_ms = 10'000;
  // A rank that its returned worker doesn't announce may still have its exit message on the way for
  // so long.
  int64_t missing_rank_grace_ms = 2000;
  // After a coordinator restart, ranks of running jobs have so long to be announced.
  int64_t adoption_grace_ms = 10'000;
  // SIGTERM to SIGKILL, after a peer failed and after a cancel.
  int64_t failure_stop_grace_ms = 3000;
  int64_t cancel_stop_grace_ms = 5000;
  // For a pause, a preemption: ranks save a checkpoint first.
  int64_t save_stop_grace_ms = 120'000;
  // StopGroup is repeated so often; after the grace and stop_limit_ms the ranks count as gone.
  int64_t stop_repeat_ms = 10'000;
  int64_t stop_limit_ms = 60'000;
  // Longest wait between restarts; the first restart is immediate, then 1 s, 2 s, 4 s, ...
  int64_t max_backoff_ms = 30'000;
  // A lost worker is listed for so long.
  int64_t forget_worker_ms = 600'000;

  int max_active_jobs = 10'000;
  int max_workers = 1000;
  int max_kept_attempts = 50;

  // Sampling requests that wait for a sampler: in all, of one user, and their rows in all. A
  // request is taken, however many rows it has, when no other waits.
  int max_sample_requests = 256;
  int max_sample_requests_per_user = 128;
  int64_t max_sample_rows = 20'000'000;
  // The ids of so many requests are remembered, ended ones included.
  int max_known_samples = 10'000;
  // What a sampler is given at a time: requests, requests of one that hasn't said yet what a row
  // costs, and how long it needs for them; the last one only while another sampler may come.
  int max_sampler_requests = 64;
  int max_unmeasured_requests = 16;
  int64_t sampler_backlog_ms = 2000;
  // A sampler without the checkpoint is chosen when others have so much more to do.
  int64_t sampler_load_ms = 1000;
  // A sampler that gave requests back, and its worker, get no new ones for so long.
  int64_t sampler_avoid_ms = 2000;
  // Positions of the queue are told at once near its head, else so often.
  int64_t queue_report_ms = 1000;
  // Slots that jobs leave to samplers.
  int sampling_slots = 0;
  int max_samplers = 4;
  int max_sampler_losses = 2;  // a request that loses more samplers fails
  int64_t sampler_idle_ms = 60'000;
  int64_t sampler_stop_grace_ms = 3000;
  // A sampler that has no session for so long is stopped.
  int64_t sampler_start_ms = 120'000;
  // A sampler that is full refuses tasks; they are
  // offered again so often, and so many times.
  int64_t sampler_retry_ms = 250;
  int max_sampler_refusals = 480;
};

struct SlotUser {
  std::string group_id;
  int64_t epoch = 0;
  int rank = 0;
  bool operator==(const SlotUser&) const = default;
};

struct SlotEntry {
  std::string device;
  std::optional<SlotUser> user;
};

struct WorkerEntry {
  std::string id, host, version, metrics_address;
  uint64_t session = 0;  // 0: no stream
  bool silent = false;
  bool lost = false;  // its ranks are given up; kept for the listing only
  int64_t last_heard_ms = 0;
  int64_t silent_since_ms = 0;
  int64_t connect_unix_ms = 0;
  // Its samplers give their requests back because it ends: none is started there before this.
  int64_t no_samplers_until_ms = 0;
  std::vector<SlotEntry> slots;

  bool Usable() const { return session != 0 && !silent && !lost; }
};

enum class RankPhase {
  kExpected,  // told to start, or not announced yet after a restart
  kRunning,
  kDone,  // finished its work
  kGone,
};

struct RankEntry {
  std::string worker_id;
  int slot = 0;
  RankPhase phase = RankPhase::kExpected;
  int64_t done_step = 0;
  std::optional<int64_t> missing_since_ms;  // its worker came back without it

  bool Alive() const { return phase == RankPhase::kExpected || phase == RankPhase::kRunning; }
};

struct Failure {
  v1::EndCause cause = v1::END_CAUSE_PEER_LOST;
  std::string text;  // names rank and worker
  int64_t step = 0;
  int status_code = 0;  // absl::StatusCode of a reported error
  int signal = 0;
};

// Why the ranks of an attempt are told to stop.
enum class StopKind {
  kFailure,  // one of them has failed
  kCancel,
  kPause,    // save, then end
  kPreempt,  // save, then end: a more important job needs the slots
  kResize,   // goes on with more ranks from the checkpoint that was just committed
};

// Soft part of the running attempt. `ranks` is empty when none runs.
struct AttemptEntry {
  std::vector<RankEntry> ranks;
  std::optional<StopKind> stop;  // StopGroup was sent
  std::string stop_reason;
  std::optional<Failure> failure;
  int64_t stop_since_ms = 0;
  int64_t stop_sent_ms = 0;
  std::optional<int64_t> adopt_until_ms;
};

struct JobEntry {
  internal::v1::JobRecord record;
  std::map<int64_t, int64_t> checkpoints;  // committed steps and the epochs that wrote them
  // Jobs that start from a checkpoint of this one, by step, until they have one of their own.
  std::map<int64_t, std::set<std::string>> forks;
  AttemptEntry attempt;
  int64_t not_before_ms = 0;  // monotonic
  // Of committed checkpoints, by step.
  std::map<int64_t, std::shared_ptr<const v1::Calibration>> calibrations;
  std::shared_ptr<const SampledModel> sampled_model;  // made with the first sampling request
  StepCurve step_curve;  // of samplers that work for this job alone; unknown at first

  const v1::Job& job() const { return record.job(); }
  v1::Job& job() { return *record.mutable_job(); }
};

// Order of the queue: priority, then age.
struct QueueKey {
  int64_t minus_priority = 0;
  int64_t sequence_number = 0;
  auto operator<=>(const QueueKey&) const = default;
};

struct State {
  StateOptions options;
  internal::v1::StoreHeader header;
  std::map<std::string, JobEntry> jobs;
  std::map<int64_t, std::string> jobs_by_number;  // sequence number -> id
  std::map<std::string, std::string> jobs_by_request_id;
  std::set<std::string> active;                           // ids of jobs that have not ended
  std::map<QueueKey, std::string> queue;                  // jobs that are QUEUED and may start
  std::set<std::pair<int64_t, std::string>> backing_off;  // QUEUED, not before that (monotonic)
  std::set<std::string> placed;  // jobs with an attempt: STARTING to CANCELLING, PAUSING
  bool schedule_due = false;     // slots or the queue have changed: post Schedule
  bool samples_due = false;      // samplers or requests have: post Schedule, too
  // By device kind the job that the last Schedule could not place. Jobs behind it wait without a
  // look at the slots.
  std::map<std::string, QueueKey> blocked;
  std::map<std::string, WorkerEntry> workers;
  std::map<uint64_t, std::string> sessions;  // session -> worker id
  std::map<uint64_t, std::string> sampler_sessions;
  std::map<std::string, SamplerEntry> samplers;
  bool samplers_yield = false;              // they give up slots for a job; none may be started
  bool more_samplers_wanted = false;        // a request was refused for the others' backlog
  std::map<uint64_t, SampleEntry> samples;  // by call
  std::map<std::string, uint64_t> samples_by_task;
  std::set<std::pair<int64_t, uint64_t>> sample_deadlines;  // monotonic, call
  UserQueue sample_queue;                                   // calls without a sampler
  int64_t queued_rows = 0;                                  // of sample_queue
  std::map<std::string, KnownSample> known_samples;         // by the caller's request id
  std::deque<std::string> known_sample_order;               // its keys, oldest first
  int64_t next_sample_number = 1;
};

// Jobs in such a state have an attempt, whose ranks hold slots.
inline bool IsPlaced(v1::JobState state) {
  return state == v1::STARTING || state == v1::RUNNING || state == v1::CANCELLING ||
         state == v1::PAUSING;
}

inline bool HasEnded(v1::JobState state) {
  return state == v1::SUCCEEDED || state == v1::FAILED || state == v1::CANCELLED;
}

// Marked because its bytes are damaged.
bool IsDamaged(const JobEntry& job, int64_t step);
bool IsPinned(const JobEntry& job, int64_t step);
// Who needs the checkpoint right now: "restart", "sample", "jobs/{id}" that was forked from it.
std::vector<std::string> UsersOf(const State& state, const JobEntry& job, int64_t step);

// Why a job of REASON_WAITS_FOR_TURN waits, with the job that it waits behind.
std::string DescribeTurn(const State& state, const JobEntry& job);

std::string JobName(const std::string& job_id);  // "jobs/{id}"
std::string CheckpointName(const std::string& job_id,
                           int64_t step);  // "jobs/{id}/checkpoints/{step}"

}  // namespace diffmoe::server
