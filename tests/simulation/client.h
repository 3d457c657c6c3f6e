// A client of a simulated cluster: submits, cancels, asks, samples; asks again when an answer is
// lost; and remembers what it was promised. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/simulation/checker.h"
#include "tests/simulation/coordinator.h"
#include "tests/simulation/job_plan.h"
#include "tests/simulation/network.h"
#include "tests/simulation/sample_client.h"
#include "tests/simulation/world.h"

namespace diffmoe::simulation {

class Client {
 public:
  // Nothing is owned. Adds the plans of its jobs to `plans`.
  Client(World* world, Network* network, Coordinator* coordinator, Checker* checker,
         JobPlans* plans, const std::string& name);

  // Spreads its work over the next `duration_ms`.
  void Begin(int jobs, int64_t duration_ms);
  // Everything that it has begun is answered.
  bool idle() const { return busy_ == 0 && samples_.idle(); }
  // The newest request that isn't answered, for a message.
  const std::string& waits_for() const { return waits_for_; }

 private:
  v1::TrainingSpec NewSpec();
  void Submit(const v1::TrainingSpec& spec, const std::string& request_id);
  void OnSubmitted(const v1::TrainingSpec& spec, const std::string& request_id,
                   const server::Reply& reply);
  // What it does with a job that it has just been promised.
  void UseJob(const std::string& job_id);
  void Cancel(const std::string& job_id);
  // Asks again until it is answered; then `done`.
  void Change(const std::string& what, const std::string& job_id,
              std::function<void(Network::Answer)> serve, std::function<void()> done);
  void PauseAndPerhapsResume(const std::string& job_id);
  void SetPriority(const std::string& job_id);
  // Forks it, or tries it again when it has failed.
  void MakeAnother(const std::string& job_id, const std::string& request_id);
  void Get(const std::string& job_id);
  // Runs `task` later and counts as busy until then.
  void Later(int64_t delay_ms, std::function<void()> task);

  World* world_;
  Network* network_;
  Coordinator* coordinator_;
  Checker* checker_;
  JobPlans* plans_;
  const std::string name_;
  int64_t end_ms_ = 0;
  int busy_ = 0;
  std::string waits_for_;
  int specs_ = 0;
  SampleClient samples_;
  std::map<std::string, std::string> jobs_;  // request id -> the job that was promised
};

}  // namespace diffmoe::simulation
