// What a coordinator loses when it crashes. Only the coordinator_*.cc files include this header.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/simulation/coordinator.h"

namespace diffmoe::simulation {

// Does what the real effect executor does, and tells the checker. A dying process does nothing.
class Coordinator::Executor final : public server::EffectExecutor {
 public:
  explicit Executor(Coordinator* owner) : owner_(owner) {}

  void Execute(server::Effect effect) override;
  void BatchDone(const server::State&) override {}
  void Committed(absl::StatusCode, int64_t, double) override {}

 private:
  Coordinator* owner_;
};

struct Coordinator::Process {
  struct Rendezvous {
    int world_size = 0;
    std::set<int> joined;
    std::map<int, Answer> answers;
  };

  Process(Coordinator* owner, server::State state);

  const uint64_t life;
  SimulatedClock clock;
  Executor executor;
  server::LoopCore core;
  bool dying = false;  // in a commit; nothing leaves the process any more
  int64_t wake_ms = std::numeric_limits<int64_t>::max();
  std::deque<server::Event> queue;
  std::vector<server::Event> blocked;  // wait for room
  std::vector<Query> queries;
  std::map<uint64_t, ConnectionPtr> connections;  // by session
  std::map<uint64_t, SamplerConnectionPtr> samplers;
  std::map<uint64_t, Answer> calls;
  std::map<uint64_t, SampleStream> samples;
  server::GroupTable groups;
  std::map<std::pair<std::string, int64_t>, Rendezvous> rendezvous;
  std::map<PendingKey, Pending> pending;
};

}  // namespace diffmoe::simulation
