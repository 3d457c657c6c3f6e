// What can happen to the coordinator. RPC handlers and worker streams post events; only the loop
// turns them into changes of State. `call` numbers a waiting RPC, `session` a worker stream; both
// are unique in the life of the process.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "diffmoe/v1/sampling.pb.h"
#include "diffmoe/v1/training_spec.pb.h"
#include "diffmoe/worker/v1/bulk_plane.pb.h"
#include "diffmoe/worker/v1/sampler_plane.pb.h"
#include "diffmoe/worker/v1/worker_plane.pb.h"

namespace diffmoe::server {

// The time of one step(). Monotonic time decides, unix time is only recorded.
struct Now {
  int64_t monotonic_ms = 0;
  int64_t unix_ms = 0;
};

// First event of a coordinator's life, after the records are loaded: applies the restore rules.
struct Restarted {};

// The loop itself was away (frozen, or its store could not be written). Nobody may be judged silent
// for that time.
struct Resumed {};

// Time has passed; posted when NextWakeupMs() is reached.
struct Tick {};

// Gives free slots to waiting jobs. Posted after a batch of events when State::schedule_due is set.
struct Schedule {};

// What a new job is given beside its spec.
struct JobMeta {
  std::string request_id;
  std::string request_hash;
  int priority = 0;
  std::map<std::string, std::string> labels;
};

struct SubmitJob {
  uint64_t call = 0;
  v1::TrainingSpec spec;  // valid and complete
  JobMeta meta;
};

// A new job that starts from a checkpoint of `job_id`.
struct ForkJob {
  uint64_t call = 0;
  std::string job_id;
  std::optional<int64_t> step;           // absent: newest that can be restored
  std::optional<v1::TrainingSpec> spec;  // valid and complete; absent: as the source's
  JobMeta meta;
};

// A new job that goes on where an ended one stopped.
struct RetryJob {
  uint64_t call = 0;
  std::string job_id;
  JobMeta meta;  // labels and priority are the ended job's
};

struct CancelJob {
  uint64_t call = 0;
  std::string job_id;
};

struct PauseJob {
  uint64_t call = 0;
  std::string job_id;
};

struct ResumeJob {
  uint64_t call = 0;
  std::string job_id;
};

struct UpdateJob {
  uint64_t call = 0;
  std::string job_id;
  std::optional<int> priority;
  std::map<std::string, std::string> set_labels;
  std::vector<std::string> remove_labels;
};

struct PinCheckpoint {
  uint64_t call = 0;
  std::string job_id;
  int64_t step = 0;
  bool pinned = false;
};

struct DeleteJobCheckpoint {
  uint64_t call = 0;
  std::string job_id;
  int64_t step = 0;
};

struct WorkerHello {
  uint64_t session = 0;
  worker::v1::Hello hello;  // of the right protocol version, with an id and at least one slot
};

struct WorkerHeartbeat {
  uint64_t session = 0;
};

struct RankStarted {
  uint64_t session = 0;
  worker::v1::RankStarted message;
};

struct RankReported {
  uint64_t session = 0;
  worker::v1::RankReport message;
};

struct RankExited {
  uint64_t session = 0;
  worker::v1::RankExited message;
};

struct SessionClosed {
  uint64_t session = 0;
};

// All shards of a checkpoint are durable. The manifest record makes it exist.
struct CommitManifest {
  uint64_t call = 0;
  worker::v1::Manifest manifest;
};

// The checkpoint's bytes are damaged or missing; it isn't restored, sampled or listed any more.
struct CheckpointDamaged {
  std::string job_id;
  int64_t step = 0;
  std::string reason;
};

// Who sends a sampling request, and what is known of its body before anything is filled in.
struct SampleOrigin {
  std::string host;        // of the client, without port
  uint64_t body_hash = 0;  // of all but the request id
};

struct SubmitSample {
  uint64_t call = 0;
  std::string job_id;
  std::optional<int64_t> step;  // absent: newest committed
  v1::SampleRequest request;    // with seed
  int64_t deadline_in_ms = 0;   // 0: none; negative: it has passed
  SampleOrigin origin = {};
};

struct SubmitCalibration {
  uint64_t call = 0;
  std::string job_id;
  std::optional<int64_t> step;
  v1::CalibrateCheckpointRequest request;
  int64_t deadline_in_ms = 0;
  SampleOrigin origin = {};
};

// The client went away.
struct CancelSample {
  uint64_t call = 0;
};

// By the id that the caller chose; answers with Reply.
struct CancelSampleById {
  uint64_t call = 0;
  std::string request_id;
};

// A sampler's own session.
struct SamplerConnected {
  uint64_t session = 0;
  worker::v1::GroupId group;
};
struct SamplerUpdated {
  uint64_t session = 0;
  worker::v1::SampleUpdates updates;
};
struct SamplerDisconnected {
  uint64_t session = 0;
};

using Event =
    std::variant<Restarted, Resumed, Tick, Schedule, SubmitJob, ForkJob, RetryJob, CancelJob,
                 PauseJob, ResumeJob, UpdateJob, PinCheckpoint, DeleteJobCheckpoint, WorkerHello,
                 WorkerHeartbeat, RankStarted, RankReported, RankExited, SessionClosed,
                 CommitManifest, CheckpointDamaged, SubmitSample, SubmitCalibration, CancelSample,
                 CancelSampleById, SamplerConnected, SamplerUpdated, SamplerDisconnected>;

// Events that a person waits for: refused when the coordinator can't take more or its store can't
// be written.
bool IsRequest(const Event& event);

}  // namespace diffmoe::server
