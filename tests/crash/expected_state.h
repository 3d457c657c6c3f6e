// What a cluster has acknowledged, and whether it still knows all of it.
//
// Everything that an answer has said is noted: jobs with their request ids, cancellations, ends,
// events, checkpoints and points of the threshold history. Later answers are compared with the
// notes. The notes are also written to a file, one line each, for a person who looks into a
// failure.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "diffmoe/v1/checkpoint.pb.h"
#include "diffmoe/v1/training_job.pb.h"

namespace diffmoe::test {

// What the API said of one job at about one time.
struct JobView {
  v1::Job job;
  std::vector<v1::JobEvent> events;
  std::vector<v1::Checkpoint> checkpoints;
  std::vector<v1::ThresholdPoint> thresholds;
};

struct ExpectedTotals {
  int64_t jobs = 0, cancellations = 0, ended = 0, events = 0, checkpoints = 0, thresholds = 0;
  int64_t pauses = 0, labels = 0, pins = 0, deletions = 0;
};

class ExpectedState {
 public:
  explicit ExpectedState(const std::string& file) : log_(file) {}

  // Each returns INTERNAL saying what was lost, doubled or changed.
  //
  // An answer to SubmitJob.
  absl::Status Submitted(const std::string& request_id, const std::string& job_id);
  // Answers to CancelJob, PauseJob and ResumeJob.
  void Cancelled(const std::string& job_id);
  void Paused(const std::string& job_id);
  void Resumed(const std::string& job_id);
  // The label "number" of a job: a call that sets it to `number` begins; was answered.
  void Labelling(const std::string& job_id, int64_t number);
  void Labelled(const std::string& job_id, int64_t number);
  // A checkpoint is pinned; a call that deletes it begins, and was answered.
  void Pinned(const std::string& job_id, int64_t step);
  void Deleting(const std::string& job_id, int64_t step);
  void Deleted(const std::string& job_id, int64_t step, int64_t epoch);
  // Answers to the reading calls; notes what is new in them. ABORTED for a checkpoint that is
  // missing: retention may have dropped it while the list was made, so read again.
  absl::Status Seen(const JobView& view);
  // All jobs that are listed. `unanswered`: submits in flight, which may or may not have an effect.
  absl::Status Listed(const std::vector<v1::Job>& jobs, size_t unanswered) const;

  std::vector<std::string> JobIds() const;
  std::vector<std::string> JobsWithCheckpoints() const;
  // A checkpoint of the job that was listed last time, with its epoch; step 0: none.
  std::pair<int64_t, int64_t> OldestCheckpoint(const std::string& job_id) const;
  // The same of one that may be deleted: not pinned, not the newest.
  std::pair<int64_t, int64_t> SpareCheckpoint(const std::string& job_id) const;
  std::vector<std::string> ActiveJobs() const;  // not known to have ended
  // Request ids of answered submits.
  const std::map<std::string, std::string>& requests() const { return requests_; }
  ExpectedTotals totals() const;

 private:
  struct Entry {
    bool cancelled = false;
    bool paused = false;
    int64_t label = 0, label_tried = 0;
    std::set<int64_t> pinned;
    std::map<int64_t, int64_t> deleted;  // step -> epoch
    v1::JobState ended = v1::JOB_STATE_UNSPECIFIED;
    int keep = 0;
    std::vector<std::string> events;            // serialised, in order
    std::map<int64_t, int64_t> checkpoints;     // step -> epoch
    std::map<int64_t, std::string> thresholds;  // step -> serialised
    int64_t checkpoints_seen = 0;
  };

  absl::Status CheckEnd(const v1::Job& job, Entry& entry);
  absl::Status CheckEvents(const JobView& view, Entry& entry);
  absl::Status CheckCheckpoints(const JobView& view, Entry& entry);
  absl::Status CheckThresholds(const JobView& view, Entry& entry);

  std::map<std::string, std::string> requests_;  // request id -> job id
  std::map<std::string, Entry> jobs_;
  int64_t pauses_ = 0, labels_ = 0;
  std::ofstream log_;
};

}  // namespace diffmoe::test
