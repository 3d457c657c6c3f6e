// The promises of the service, held against what a simulated cluster does. The checker keeps its
// own expectations: it learns what is durable from the store, what was promised from the answers
// that left the coordinator, and what is true from workers and ranks. It never asks the code under
// test what should be. The first broken promise is the run's violation. Not thread-safe.
//
// Sources by subject: record_checks.cc (jobs, events, attempts in the store), promise_checks.cc
// (answers, messages, truth of workers and ranks), sample_checks.cc (sampling), settle_checks.cc
// (the end of a run), conservation_checks.cc (what the counters say).
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "diffmoe/internal/v1/records.pb.h"
#include "diffmoe/worker/v1/bulk_plane.pb.h"
#include "server/state/effect.h"
#include "server/state/state.h"
#include "tests/simulation/job_plan.h"
#include "tests/simulation/model_store.h"
#include "tests/simulation/world.h"

namespace diffmoe::simulation {

// One slot of a worker as the worker sees it.
struct SlotTruth {
  std::string worker_id;
  int slot = 0;
  server::SlotUser user;
  bool sampler = false;
  bool idle = true;  // a sampler without requests
};

class Checker {
 public:
  Checker(World* world, const JobPlans* plans) : world_(world), plans_(plans) {}

  // --- The stores. A batch is durable, or the store says so.
  void OnDurable(const std::vector<RecordWrite>& writes);
  void OnBytesStored(const CheckpointKey& key) { bytes_.insert(key); }
  void OnBytesDeleted(const CheckpointKey& key);
  void OnBytesDamaged(const CheckpointKey& key) { damaged_bytes_.insert(key); }
  // What a restarting coordinator finds.
  void OnOpened(const absl::Status& status, const ModelStore::Records& records);
  // `state` is fully committed: it must be what a restart would load.
  void OnCommitted(const server::State& state, const ModelStore::Records& records);

  // --- What leaves the coordinator.
  void OnSubmitAnswered(const std::string& request_id, const server::Reply& reply);
  void OnCancelAnswered(const std::string& job_id, const server::Reply& reply);
  void OnPauseAnswered(const std::string& job_id, const server::Reply& reply);
  void OnManifestAnswered(const worker::v1::Manifest& manifest, const server::Reply& reply);
  void OnStartSent(const std::string& worker_id, const worker::v1::StartRank& start);
  void OnStopSent(const worker::v1::StopGroup& stop);
  // Every simulated sample has a seed of its own.
  void OnSampleCall(uint64_t call, uint64_t seed, int64_t deadline_in_ms);
  void OnSampleEnded(uint64_t call, const absl::Status& status);
  void OnCalibrationAnswered(const std::string& checkpoint);
  // The coordinator was away for so long, with calls on their way into its queue.
  void OnCoordinatorAway(int64_t ms) { arrival_slack_ms_ = std::max(arrival_slack_ms_, ms); }
  // After every turn of the coordinator.
  void CheckSamples(const server::State& state);
  // What the coordinator counts of samples and calibrations in its life.
  void OnSampleSubmitted() { ++sample_counts_.submitted; }
  void OnSampleCounted(server::SampleOutcome outcome) { ++sample_counts_.ended[outcome]; }
  // After every turn of the coordinator, when its gauges are set: nothing is lost between counters.
  void CheckConservation(const server::State& state);
  // The coordinator's process is gone, with everything that it had not stored.
  void OnCrash();

  // --- What is true.
  void OnStartLost(const worker::v1::StartRank& start);
  void OnSpawned(const std::string& worker_id, const worker::v1::StartRank& start);
  void OnSlotTaken(const std::string& worker_id, const worker::v1::StartRank& start,
                   const worker::v1::StartRank& holder);
  void OnTraining(const std::string& job_id, int64_t epoch);
  void OnStepMade(const std::string& job_id, int64_t epoch, int64_t step);
  void OnRankEnded(const worker::v1::RankExited& exited);
  // A rank, or a sampler for the sample with this seed, has read a checkpoint.
  void OnRankRead(const std::string& job_id, int64_t epoch, const std::string& source, int64_t step,
                  const absl::Status& status);
  void OnSamplerRead(uint64_t seed, const std::string& job_id, int64_t step,
                     const absl::Status& status);
  // The worker is dead, frozen or cut off; the coordinator may hold that against its ranks until
  // some time after `until_ms`.
  void OnWorkerTrouble(const std::string& worker_id, int64_t until_ms);
  void OnCancelSent(const std::string& job_id) { cancels_sent_.insert(job_id); }
  void OnPauseSent(const std::string& job_id) { pauses_sent_.insert(job_id); }
  void OnResumeSent(const std::string& job_id) {
    jobs_[job_id].pause_promised = false;
    jobs_[job_id].resume_sent = true;
  }

  // --- The end. True when every job has ended or can't run on `slots` slots.
  bool JobsSettled(int slots) const;
  // Jobs that have not ended, for a message.
  std::string OpenJobs() const;
  // All faults are over and time has passed.
  void Finish(const server::State& state, int slots, const std::vector<SlotTruth>& truth);

 private:
  struct AttemptView {
    int64_t begin_ms = 0;
    int64_t restored_step = 0;
    int ranks = 0;
    bool ended = false;
    v1::EndCause cause = v1::END_CAUSE_UNSPECIFIED;
    int64_t ended_unix_ms = 0;
    std::map<int, std::pair<std::string, int>> places;  // rank -> worker, slot
    // Truth.
    bool training = false;
    bool faulty = false;  // a rank ended through a fault
    bool told_to_stop = false;
    int64_t newest_step = 0;
    std::map<int, std::string> spawned;
    std::string excuse;  // why the coordinator may end it
  };
  struct JobView {
    v1::JobState state = v1::JOB_STATE_UNSPECIFIED;  // of the newest event
    int64_t events = 0;
    int64_t epoch = 0;
    std::string request_id;
    std::string request_hash;
    int64_t sequence_number = 0;
    std::string spec_name, reason;
    int ranks = 0, min_ranks = 0, max_restarts = 0, keep = 1;
    std::string source_job;  // of a fork
    int64_t source_step = 0;
    int64_t steps = 0;
    bool cancel_promised = false;
    bool pause_promised = false, resume_sent = false;
    int64_t cancelling_since_ms = 0;  // 0: it isn't CANCELLING
    bool has_record = false;
    std::map<int64_t, AttemptView> attempts;
    std::map<int64_t, int64_t> checkpoints;  // step -> epoch
    std::set<int64_t> damaged;
    std::set<int64_t> thresholds;
    std::set<int64_t> calibrations;
    int calibrations_written = 0;
    int failing_row = 0;  // attempts without progress, one after the other
  };

  // record_checks.cc
  void OnEvent(JobView& job, const std::string& id, const std::string& key,
               const std::string& value);
  void OnJob(const std::string& id, const std::string& value);
  void CheckIdentity(JobView& job, const std::string& id, const internal::v1::JobRecord& record);
  void CheckState(const JobView& job, const std::string& id, const v1::Job& shown);
  void CheckAttempts(JobView& job, const std::string& id, const v1::Job& shown);
  void OnAttemptBegun(JobView& job, const std::string& id, const v1::Attempt& attempt);
  void OnAttemptEnded(JobView& job, const std::string& id, const v1::Job& shown,
                      const v1::Attempt& attempt);
  void OnManifest(JobView& job, const std::string& id, const RecordWrite& write);
  void OnSteps(JobView& job, const std::string& id, const RecordWrite& write);
  // damaged: checkpoints that were known to be so when the deletion was decided.
  void CheckRetention(const std::string& id, const std::set<int64_t>& deleted,
                      const std::set<int64_t>& damaged);
  int64_t NewestCheckpoint(const JobView& job) const;
  // sample_checks.cc
  void OnCalibration(const std::string& id, int64_t step, bool written);
  void CheckCalibrations(const std::string& id);
  void CheckSamplersIdle(const std::vector<SlotTruth>& truth);
  // promise_checks.cc
  AttemptView* FindAttempt(const std::string& job_id, int64_t epoch);
  // settle_checks.cc
  void CheckOutcome(const std::string& id, const JobView& job, int slots);
  void CheckSlots(const server::State& state, const std::vector<SlotTruth>& truth);

  World* world_;
  const JobPlans* plans_;
  std::map<std::string, JobView> jobs_;
  std::map<std::string, std::string> ids_by_request_;
  std::map<int64_t, std::string> ids_by_number_;
  std::map<std::string, uint64_t> contents_;  // key -> hash of what the store promised to hold
  std::set<CheckpointKey> bytes_;
  std::set<CheckpointKey> damaged_bytes_;
  std::set<std::string> cancels_sent_, pauses_sent_;
  std::map<std::string, int64_t> trouble_until_ms_;  // by worker
  struct SampleView {
    uint64_t seed = 0;
    int64_t deadline_ms = 0;  // 0: none
  };
  std::map<uint64_t, SampleView> samples_;  // by call, of what the coordinator works on
  int64_t arrival_slack_ms_ = 0;
  struct SampleCounts {
    int64_t submitted = 0;
    std::map<server::SampleOutcome, int64_t> ended;
    int64_t streams_ended = 0;
  };
  SampleCounts sample_counts_;  // of this life of the coordinator
};

}  // namespace diffmoe::simulation
