// Breaks things, as the seed wants it: processes, disks, clocks and the network. Each run has only
// some kinds of faults, at a rate of its own, so that single causes are seen apart as well as
// together. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "tests/simulation/checker.h"
#include "tests/simulation/coordinator.h"
#include "tests/simulation/model_store.h"
#include "tests/simulation/network.h"
#include "tests/simulation/worker.h"
#include "tests/simulation/world.h"

namespace diffmoe::simulation {

class FaultInjector {
 public:
  // Nothing is owned.
  FaultInjector(World* world, Network* network, ModelStore* store, ModelChunks* chunks,
                Coordinator* coordinator, Checker* checker, std::vector<Worker*> workers);

  // Faults come until `end_ms`; then everything that is broken is repaired.
  void Begin(int64_t end_ms);
  // The coordinator is gone: a supervisor starts it again.
  void OnCoordinatorDown();

 private:
  // `fault` again and again, about every `interval_ms`.
  void Repeat(int64_t interval_ms, std::function<void()> fault);
  bool Over() const { return world_->time.now_ms() >= end_ms_; }
  void Repair();
  Worker* AnyWorker();
  Rank* AnyRank();

  void CrashCoordinator();
  void FillDisk();
  void CrashWorker();
  void CutOff();
  void EndRank();
  void HangRank();
  void JumpClock();
  void DamageCheckpoint();

  World* world_;
  Network* network_;
  ModelStore* store_;
  ModelChunks* chunks_;
  Coordinator* coordinator_;
  Checker* checker_;
  const std::vector<Worker*> workers_;
  int64_t end_ms_ = 0;
  bool freezes_ = false;  // the coordinator is frozen now and then
};

}  // namespace diffmoe::simulation
