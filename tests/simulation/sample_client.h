// What a client of a simulated cluster samples and calibrates: with deadlines, ids, cancels; again
// when it is told to. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "tests/simulation/coordinator.h"
#include "tests/simulation/network.h"
#include "tests/simulation/world.h"

namespace diffmoe::simulation {

class SampleClient {
 public:
  // Nothing is owned.
  SampleClient(World* world, Network* network, Coordinator* coordinator, const std::string& name)
      : world_(world), network_(network), coordinator_(coordinator), name_(name) {}

  // Some requests over the next 25 s.
  void UseJob(const std::string& job_id);
  // Everything that it has begun is answered.
  bool idle() const { return busy_ == 0; }

 private:
  struct Call;
  using CallPtr = std::shared_ptr<Call>;

  void Sample(const CallPtr& call);
  void OnResponse(Call& call, const v1::SampleResponse& response);
  void OnEnd(const CallPtr& call, const absl::Status& status);
  void Calibrate(const std::string& job_id, int attempts);
  void CancelLater(const CallPtr& call);
  void Later(int64_t delay_ms, std::function<void()> task);

  World* world_;
  Network* network_;
  Coordinator* coordinator_;
  const std::string name_;
  int busy_ = 0;
  uint64_t samples_ = 0;
};

}  // namespace diffmoe::simulation
