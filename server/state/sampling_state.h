// The part of State that samples: samplers, the requests that they and the queue hold, and the ids
// of past requests. All of it is soft: a restart forgets it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/spec/training_config.h"
#include "diffmoe/v1/sampling.pb.h"
#include "diffmoe/v1/training_spec.pb.h"
#include "server/sampling/sample_cost.h"

namespace diffmoe::server {

// What all requests for one job share.
struct SampledModel {
  v1::TrainingSpec spec;
  TrainingConfig config;
};

// kStarting: without a session.
enum class SamplerPhase { kStarting, kReady, kStopping };

struct SamplerEntry {
  std::string id;
  int64_t epoch = 0;
  std::string worker_id;
  int slot = 0;
  std::string device;
  SamplerPhase phase = SamplerPhase::kStarting;
  uint64_t session = 0;         // 0: none
  std::vector<uint64_t> calls;  // requests that it was given, oldest first
  // Checkpoints (job, step) that it was asked for last, newest first.
  std::vector<std::pair<std::string, int64_t>> checkpoints;
  // What it said last about itself. The first `taken` of `calls` are in `taken_rows`, the others,
  // given to it since, in `given_rows`.
  bool measured = false;
  StepCurve curve;
  size_t taken = 0;
  int64_t taken_rows = 0;
  int64_t given_rows = 0;
  bool yielding = false;  // gives its slot to a job when its requests have ended
  int64_t idle_since_ms = 0;
  int64_t stop_since_ms = 0;
  int64_t start_since_ms = 0;  // without a session since then
  int64_t not_before_ms = 0;   // was full; not asked before this
  int64_t avoid_until_ms = 0;  // gave requests back
};

struct SampleEntry {
  uint64_t call = 0;
  std::string task_id;     // in messages to its sampler; another one each time it is given away
  std::string request_id;  // the caller's; may be empty
  std::string user;        // key of its line in the queue
  std::string job_id;
  int64_t step = 0;
  int64_t epoch = 0;  // of the checkpoint
  std::shared_ptr<const SampledModel> model;
  v1::SampleRequest request;                                // complete
  std::optional<v1::CalibrateCheckpointRequest> calibrate;  // complete; instead of `request`
  std::vector<v1::CalibratedLayer> thresholds;              // empty: those of the checkpoint
  SampleCost cost;
  std::optional<int64_t> deadline_ms;
  int64_t submitted_ms = 0;
  std::string sampler_id;  // empty: queued
  bool begun = false;      // on this sampler
  bool waited = false;     // its queue wait is measured
  int losses = 0;
  int refusals = 0;
  // Bytes before (next_image, next_offset) have been sent to the client.
  int next_image = 0;
  int64_t next_offset = 0;
  int told_position = -1;
  std::string told_reason;
  int64_t told_ms = 0;
};

// A request id that was seen.
struct KnownSample {
  uint64_t body_hash = 0;
  int64_t step = 0;
  uint64_t seed = 0;
  std::set<uint64_t> calls;  // that run
};

}  // namespace diffmoe::server
