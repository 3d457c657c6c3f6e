// A worker of a simulated cluster: behaves as worker/agent does, with the real outbox and the real
// rule for exit causes, and simulated rank processes on its slots. It can crash, leave for good,
// freeze, and lose its stream. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "tests/simulation/checker.h"
#include "tests/simulation/coordinator.h"
#include "tests/simulation/network.h"
#include "tests/simulation/rank.h"
#include "tests/simulation/world.h"
#include "worker/agent/outbox.h"
#include "worker/agent/rank_exit.h"

namespace diffmoe::simulation {

class Worker {
 public:
  // Nothing is owned; all must outlive the object. `groups` makes what its ranks do.
  Worker(World* world, Network* network, Coordinator* coordinator, Checker* checker,
         RankGroups* groups, const std::string& id, int slots);

  const std::string& id() const { return id_; }
  int slots() const { return slots_; }

  // --- Life
  void Boot();
  // The process and its ranks are gone; Boot starts another one.
  void Crash(const std::string& why);
  void Freeze(int64_t duration_ms);
  // The stream breaks; each end notices by itself.
  void BreakStream();
  bool alive() const { return alive_; }
  bool frozen() const { return frozen_until_ms_ > world_->time.now_ms(); }
  // It has a session, and nothing is late on its way.
  bool Quiet() const;
  // It never comes back.
  void Leave();
  bool left() const { return left_; }

  // --- From the coordinator
  void Receive(const ConnectionPtr& connection, const worker::v1::CoordinatorMessage& message);
  void ConnectionLost(const ConnectionPtr& connection);

  // --- From its ranks
  void Report(const worker::v1::RankReport& report);
  // The process of the rank is gone. `end` says how; what the agent asked for is added.
  void RankGone(Rank* rank, RankEnd end);
  // The agent watches over hangs.
  void OnHang(const Rank* rank);
  // Runs `task` when the agent runs (now, unless it is frozen) and if it still lives.
  void WhenRunning(std::function<void()> task);

  // Ranks whose processes run.
  std::vector<Rank*> LivingRanks() const;
  std::vector<SlotTruth> Slots() const;

 private:
  using Key = std::tuple<std::string, int64_t, int>;
  struct Supervised {
    std::shared_ptr<Rank> rank;
    bool stop_requested = false;
    std::string stop_reason;
    int64_t kill_at_ms = 0;
  };

  void TryConnect();
  void ConnectLater();
  worker::v1::Hello Hello() const;
  void Open(const worker::v1::Welcome& welcome);
  void Heartbeat(uint64_t life);
  void Pump();
  void Send(worker::v1::WorkerMessage message);
  void Handle(const worker::v1::CoordinatorMessage& message);
  void StartRank(const worker::v1::StartRank& start);
  void Refuse(const worker::v1::StartRank& start, const std::string& message);
  void StopGroup(const worker::v1::StopGroup& stop);
  void Terminate(const Key& key, bool kill);
  void KillHung(const Key& key, int64_t since_ms);
  void AddExited(worker::v1::RankExited exited);

  World* world_;
  Network* network_;
  Coordinator* coordinator_;
  Checker* checker_;
  RankGroups* groups_;
  const std::string id_;
  const int slots_;
  SimulatedClock clock_;
  bool alive_ = false;
  bool left_ = false;
  uint64_t life_ = 0;         // of the process
  uint64_t stream_life_ = 0;  // of the stream
  int64_t frozen_until_ms_ = 0;
  int64_t backoff_ms_ = 0;
  bool open_ = false;  // Welcome has come
  int64_t heartbeat_ms_ = 1000;
  int64_t heartbeats_ = 0;
  ConnectionPtr connection_;
  std::unique_ptr<Outbox> outbox_;
  std::map<Key, Supervised> ranks_;
};

}  // namespace diffmoe::simulation
