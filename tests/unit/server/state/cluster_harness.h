// A cluster in one thread: the pure state machine, a clock moved by hand, the records that a store
// would hold, and what was sent to whom.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "diffmoe/v1/training_job.pb.h"
#include "diffmoe/v1/training_spec.pb.h"
#include "server/state/step.h"

namespace diffmoe::server {

// A complete, valid spec of `ranks` CPU ranks and 100 steps.
v1::TrainingSpec TestSpec(const std::string& name, int ranks);

class ClusterHarness {
 public:
  explicit ClusterHarness(const StateOptions& options = {}) { state.options = options; }

  // One event at the present time. Ticks that are due come first.
  void Post(const Event& event);
  // Moves the clock and ticks whenever something is due.
  void Advance(int64_t ms);
  // The coordinator dies and starts again from its records; streams are gone.
  void Restart();

  // Returns the job's id, or "" when it was refused (see last_status).
  std::string Submit(const v1::TrainingSpec& spec, const std::string& request_id = "",
                     const std::string& hash = "h");
  std::string SubmitWithPriority(const v1::TrainingSpec& spec, int priority);
  std::string Fork(const std::string& job_id, std::optional<int64_t> step = {},
                   std::optional<v1::TrainingSpec> spec = {});
  std::string Retry(const std::string& job_id);
  absl::Status Cancel(const std::string& job_id);
  absl::Status Pause(const std::string& job_id);
  absl::Status Resume(const std::string& job_id);
  absl::Status SetPriority(const std::string& job_id, int priority);
  absl::Status Pin(const std::string& job_id, int64_t step, bool pinned);
  absl::Status DeleteCheckpoint(const std::string& job_id, int64_t step);

  // A worker with CPU slots; `running` as in Hello. Returns its session.
  uint64_t Connect(const std::string& worker_id, int slots,
                   const std::vector<worker::v1::RunningRank>& running = {});
  // A sampler opens its own session, too.
  void Started(uint64_t session, const std::string& group, int64_t epoch, int rank);
  // The session of a sampler on the worker of `session`; its number.
  uint64_t ConnectSampler(uint64_t session, const std::string& group, int64_t epoch);
  void Report(uint64_t session, const std::string& group, int64_t epoch, int64_t step);
  void Done(uint64_t session, const std::string& group, int64_t epoch, int rank, int64_t step);
  void Killed(uint64_t session, const std::string& group, int64_t epoch, int rank, int signal);
  void Errored(uint64_t session, const std::string& group, int64_t epoch, int rank,
               absl::StatusCode code, const std::string& message, int64_t step = 0);
  void Stopped(uint64_t session, const std::string& group, int64_t epoch, int rank);
  absl::Status CommitCheckpoint(const std::string& job_id, int64_t epoch, int64_t step);

  // Sampling; the call's number.
  uint64_t Sample(const std::string& job_id, std::optional<int64_t> step = {}, int count = 1,
                  int64_t deadline_in_ms = 0);
  // With a class, a count and a seed if it has none; the call's number.
  uint64_t Submit(SubmitSample event);
  uint64_t Calibrate(SubmitCalibration event);
  absl::Status CancelById(const std::string& request_id);
  // In the session that the task was sent over.
  void Say(worker::v1::SampleUpdate update);
  void Update(const worker::v1::SampleTask& task, const v1::SampleResponse& response);
  // All images, then the end.
  void FinishSample(const worker::v1::SampleTask& task);
  // What the sampler says about itself.
  void Load(const worker::v1::GroupId& group, double base_seconds, double row_seconds,
            int64_t rows_waiting, int requests, int width_rows = 8);
  void SampleFailed(const worker::v1::SampleTask& task, absl::StatusCode code);

  const v1::Job& job(const std::string& id) const { return state.jobs.at(id).job(); }
  // Messages to a worker's session, or to samplers on it, since the last Clear().
  std::vector<worker::v1::StartRank> starts(uint64_t session) const;
  std::vector<worker::v1::StopGroup> stops(uint64_t session) const;
  std::vector<worker::v1::SampleTask> tasks(uint64_t session) const;
  std::vector<worker::v1::CalibrateTask> calibrate_tasks() const;
  // Of the sampler that was given a task.
  const worker::v1::GroupId& group_of(const std::string& task_id) const {
    return samplers_.at(task_sessions_.at(task_id)).group;
  }
  int cancelled_tasks(uint64_t session) const;
  std::vector<v1::SampleResponse> responses(uint64_t call) const;
  // Of ended sample calls.
  std::map<uint64_t, absl::Status> sample_ends;
  std::vector<std::string> events(const std::string& job_id) const;
  template <typename E>
  std::vector<E> all() const {
    std::vector<E> found;
    for (const Effect& effect : effects) {
      if (const E* e = std::get_if<E>(&effect)) found.push_back(*e);
    }
    return found;
  }
  void Clear() { effects.clear(); }

  State state;
  Now now{1'000'000, 1'700'000'000'000};
  std::map<std::string, std::string> records;
  Effects effects;  // other than writes, since the last Clear()
  absl::Status last_status;
  v1::Job last_job;

 private:
  void Apply(const Event& event);
  // The event and, when slots or the queue have changed, Schedule: as the loop does.
  void ApplyBatch(const Event& event);
  struct SamplerSession {
    uint64_t worker_session = 0;
    worker::v1::GroupId group;
  };
  uint64_t next_number_ = 1;
  std::map<uint64_t, SamplerSession> samplers_;    // by session
  std::map<std::string, uint64_t> task_sessions_;  // by task id
};

worker::v1::RunningRank Running(const std::string& group, int64_t epoch, int rank, int slot);

// A job with a 1-rank attempt on worker "w1" (2 slots), running, with a checkpoint at step 10.
struct RunningJob {
  std::string id;
  uint64_t session = 0;
};
RunningJob StartRunningJob(ClusterHarness& cluster, int ranks, int slots);

}  // namespace diffmoe::server
