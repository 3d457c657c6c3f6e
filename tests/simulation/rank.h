// Rank processes of a simulated cluster. A training rank does what its TrainingGroup tells, a
// sampling rank what its Sampler tells; this class is the process: it begins, hangs, fails, ends.
// Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "diffmoe/worker/v1/worker_plane.pb.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/coordinator.h"
#include "tests/simulation/job_plan.h"
#include "tests/simulation/network.h"
#include "tests/simulation/world.h"
#include "worker/agent/rank_exit.h"

namespace diffmoe::simulation {

class Sampler;
class TrainingGroup;
class Worker;

// What every rank uses. Nothing is owned.
struct RankParts {
  World* world = nullptr;
  Network* network = nullptr;
  Coordinator* coordinator = nullptr;
  Checker* checker = nullptr;
  const JobPlans* plans = nullptr;
};

class Rank : public std::enable_shared_from_this<Rank> {
 public:
  Rank(const RankParts& parts, Worker* worker, const worker::v1::StartRank& start,
       std::shared_ptr<TrainingGroup> group);
  ~Rank();

  const worker::v1::StartRank& start() const { return start_; }
  int number() const { return start_.rank(); }
  Worker* worker() const { return worker_; }
  const std::string& host() const;
  std::string Describe() const;

  void Begin();
  bool gone() const { return gone_; }
  int64_t step() const { return step_; }
  void set_step(int64_t step) { step_ = step; }

  // StopRank over its session.
  void Stop(bool save);
  bool stop_requested() const { return stop_requested_; }
  // SIGSTOP, and SIGCONT later.
  void Hang(int64_t duration_ms);
  bool hung() const { return hung_; }
  int64_t hung_since_ms() const { return hung_since_ms_; }
  // It trains right now; null: it doesn't.
  TrainingGroup* training() const;

  // The process ends; its worker and its peers see it.
  void Exit(RankEnd end);
  // It reports an error and ends.
  void Fail(absl::StatusCode code, const std::string& message);
  // It ends with its worker.
  void Die();

  // Null: it trains.
  Sampler* sampler() const { return sampler_.get(); }

  // A call to the coordinator through the worker; `receive` isn't called when the process is gone.
  void Call(int64_t timeout_ms, std::function<void(Network::Answer)> serve,
            Network::Answer receive);
  // `task` runs later, unless the process is gone by then.
  void After(int64_t delay_ms, std::function<void()> task);

 private:
  const RankParts parts_;
  Worker* worker_;
  const worker::v1::StartRank start_;
  std::shared_ptr<TrainingGroup> group_;
  std::unique_ptr<Sampler> sampler_;
  bool gone_ = false;
  bool stop_requested_ = false;
  bool hung_ = false;
  int64_t hung_since_ms_ = 0;
  int64_t step_ = 0;
};

// Makes ranks and brings those of an attempt together.
class RankGroups {
 public:
  explicit RankGroups(const RankParts& parts) : parts_(parts) {}
  ~RankGroups();
  std::shared_ptr<Rank> NewRank(Worker* worker, const worker::v1::StartRank& start);

 private:
  const RankParts parts_;
  std::map<std::pair<std::string, int64_t>, std::shared_ptr<TrainingGroup>> groups_;
};

}  // namespace diffmoe::simulation
