// What Step() asks for. Record writes of all steps of a batch are committed first, in one synced
// write; the other effects are executed after that, in order, and never when the commit failed.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "diffmoe/v1/sampling.pb.h"
#include "diffmoe/v1/training_job.pb.h"
#include "diffmoe/worker/v1/sampler_plane.pb.h"
#include "diffmoe/worker/v1/worker_plane.pb.h"
#include "server/state/state.h"

namespace diffmoe::server {

struct WriteRecord {
  std::string key;
  std::string value;
};
struct DeleteRecord {
  std::string key;
};

// Answers a waiting RPC, once. `job` is set for job RPCs that succeeded.
struct Reply {
  uint64_t call = 0;
  absl::Status status;
  v1::Job job;
  // An error would promise that nothing happened, so the answer waits as long as the store can't be
  // written.
  bool waits_for_store = false;
};

struct SendToWorker {
  uint64_t session = 0;
  worker::v1::CoordinatorMessage message;
};
struct CloseSession {
  uint64_t session = 0;
  absl::Status status;
};

struct SendToSampler {
  uint64_t session = 0;
  worker::v1::SamplerCommand command;
};
// What came last has been taken in, so its session is read on.
struct ReadSampler {
  uint64_t session = 0;
};
struct CloseSampler {
  uint64_t session = 0;
  absl::Status status;
};

// The job has changed; for its watchers.
struct PublishJob {
  v1::Job job;
  std::vector<v1::JobEvent> events;  // since the last one
};

// (id, epoch) may use the bulk plane from now on; no longer.
struct GroupStarted {
  std::string id;
  int64_t epoch = 0;
};
struct GroupEnded {
  std::string id;
  int64_t epoch = 0;
};

// The manifest record is gone; the bytes may go.
struct DeleteCheckpoint {
  std::string job_id;
  int64_t step = 0;
  int64_t epoch = 0;
};

struct SampleEvent {
  uint64_t call = 0;
  v1::SampleResponse response;
};
struct CalibrationEvent {
  uint64_t call = 0;
  v1::CalibrateCheckpointResponse response;
};
// Ends the stream of a sample or a calibration, once.
struct SampleEnd {
  uint64_t call = 0;
  absl::Status status;
};

// For the log and the counters.
struct JobLogged {
  std::string job_id;
  int64_t epoch = 0;
  std::string message;
  bool warning = false;
};
struct WorkerLogged {
  std::string worker_id;
  std::string message;
  bool warning = false;
};
struct RestartCounted {
  v1::EndCause cause = v1::END_CAUSE_ERROR;
};
struct SampleWaitMeasured {
  int64_t wait_ms = 0;
};
// A request or a calibration has come. For each there is one SampleCounted, when it has ended.
struct SampleSubmitted {};
enum class SampleOutcome { kOk, kRefused, kFailed, kCancelled, kDeadline };
struct SampleCounted {
  SampleOutcome outcome = SampleOutcome::kOk;
  int64_t latency_ms = 0;
};

using Effect =
    std::variant<WriteRecord, DeleteRecord, Reply, SendToWorker, CloseSession, SendToSampler,
                 ReadSampler, CloseSampler, PublishJob, GroupStarted, GroupEnded, DeleteCheckpoint,
                 SampleEvent, CalibrationEvent, SampleEnd, JobLogged, WorkerLogged, RestartCounted,
                 SampleWaitMeasured, SampleSubmitted, SampleCounted>;
using Effects = std::vector<Effect>;

}  // namespace diffmoe::server
