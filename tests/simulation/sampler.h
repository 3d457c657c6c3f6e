// What a sampling rank does: takes tasks, loads checkpoints, pushes images. Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "tests/simulation/rank.h"

namespace diffmoe::simulation {

class Sampler {
 public:
  // `rank` owns the sampler.
  Sampler(const RankParts& parts, Rank* rank) : parts_(parts), rank_(rank) {}

  void Begin();
  void Add(const worker::v1::SampleTask& task);
  void Cancel(const worker::v1::CancelSample& cancel);

 private:
  void Next();
  void Load(const worker::v1::SampleTask& task);
  void MakeImage(const worker::v1::SampleTask& task, int index);
  void Push(worker::v1::SampleUpdate update);
  void PushError(const worker::v1::SampleTask& task, const absl::Status& status);
  worker::v1::SampleUpdate Update(const worker::v1::SampleTask& task) const;
  bool IsCurrent(const worker::v1::SampleTask& task) const { return task.request_id() == current_; }

  const RankParts parts_;
  Rank* rank_;
  bool ready_ = false;
  std::string current_;  // request; empty: idle
  std::string loaded_job_;
  int64_t loaded_step_ = 0;
  int64_t last_push_ms_ = 0;
  std::deque<worker::v1::SampleTask> tasks_;
};

}  // namespace diffmoe::simulation
