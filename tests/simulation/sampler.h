// What a sampling rank does: keeps a session with the coordinator, takes many tasks, loads
// checkpoints, makes a step of all tasks at a time, pushes images in parts, says how much is left.
// Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "tests/simulation/rank.h"

namespace diffmoe::simulation {

// The bytes that every sampler makes of image `index` of a request with this seed.
std::string PixelsOf(uint64_t seed, int index);

class Sampler {
 public:
  // `rank` owns the sampler.
  Sampler(const RankParts& parts, Rank* rank);

  void Begin();
  // It was told to stop: others must make what it has begun.
  void GiveBack();
  // The process has ended: what it sent arrives, then the end of its session.
  void Gone();
  bool idle() const { return works_.empty(); }

 private:
  using CheckpointId = std::pair<std::string, int64_t>;
  struct Work {
    CheckpointId checkpoint;
    uint64_t seed = 0;
    int images = 0;  // of a calibration: 1
    bool calibrates = false;
    bool loading = false;
    bool begun = false;
    int image = 0;  // the next one
    int step = 0;   // of it
    int steps = 1;
  };

  void Connect();
  void Lost(const SamplerConnectionPtr& connection, const absl::Status& status);
  void BreakSession();
  void Receive(const worker::v1::SamplerCommand& command);
  void Add(const worker::v1::SampleTask& task);
  void Add(const worker::v1::CalibrateTask& task);
  void AddWork(const std::string& id, Work work);
  void LoadNext();
  void Load(const std::string& id);
  void Loaded(const std::string& id, const absl::Status& status);
  void StepLater();
  void Step();
  // False: the work has ended.
  bool StepOf(const std::string& id, Work& work);
  void PushImage(const std::string& id, const Work& work);
  void PushLoad();
  void Push(worker::v1::SampleUpdate update);
  void PushError(const std::string& id, const absl::Status& status);

  const RankParts parts_;
  Rank* rank_;
  const double row_seconds_;
  SamplerConnectionPtr connection_;  // null: none
  bool stepping_ = false;
  std::map<std::string, Work> works_;  // by request id
  std::set<CheckpointId> loaded_;
};

}  // namespace diffmoe::simulation
