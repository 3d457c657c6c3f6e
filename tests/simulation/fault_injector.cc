#include "tests/simulation/fault_injector.h"

#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"

namespace diffmoe::simulation {
namespace {

constexpr int64_t kAfterTroubleMs = 20'000;

}  // namespace

FaultInjector::FaultInjector(World* world, Network* network, ModelStore* store, ModelChunks* chunks,
                             Coordinator* coordinator, Checker* checker,
                             std::vector<Worker*> workers)
    : world_(world),
      network_(network),
      store_(store),
      chunks_(chunks),
      coordinator_(coordinator),
      checker_(checker),
      workers_(std::move(workers)) {}

void FaultInjector::Begin(int64_t end_ms) {
  end_ms_ = end_ms;
  world_->time.At(end_ms, [this] { Repair(); });
  Random& random = world_->random;
  if (random.Chance(0.1)) return;  // a day without faults
  if (random.Chance(0.3)) coordinator_->CrashOnRequests(0.1);
  if (random.Chance(0.5)) network_->SetWeather(0.1 * static_cast<double>(random.Between(1, 10)));
  const std::vector<std::function<void()>> faults = {
      [this] { CrashCoordinator(); },
      [this] { coordinator_->Freeze(world_->random.Between(500, 25'000)); },
      [this] { FillDisk(); },
      [this] { CrashWorker(); },
      [this] { AnyWorker()->Freeze(world_->random.Between(500, 25'000)); },
      [this] { AnyWorker()->BreakStream(); },
      [this] { CutOff(); },
      [this] { EndRank(); },
      [this] { HangRank(); },
      [this] { JumpClock(); },
      [this] { DamageCheckpoint(); },
  };
  for (const std::function<void()>& fault : faults) {
    const bool used = random.Chance(0.35);
    const int64_t interval_ms = random.Between(2000, 20'000);
    if (used) Repeat(interval_ms, fault);
  }
  if (workers_.size() > 1 && random.Chance(0.15)) {
    world_->time.After(random.Between(0, end_ms), [this] { AnyWorker()->Leave(); });
  }
}

void FaultInjector::Repeat(int64_t interval_ms, std::function<void()> fault) {
  const int64_t delay_ms = world_->random.Between(interval_ms / 4, interval_ms * 7 / 4);
  world_->time.After(delay_ms, [this, interval_ms, fault = std::move(fault)] {
    if (Over()) return;
    fault();
    Repeat(interval_ms, fault);
  });
}

void FaultInjector::Repair() {
  world_->trace.Line("faults", "are over");
  network_->Heal();
  coordinator_->CrashOnRequests(0);
  store_->SetFull(false);
  chunks_->SetFull(false);
  for (Worker* worker : workers_) {
    world_->time.After(world_->random.Between(0, 2000), [worker] { worker->Boot(); });
  }
}

void FaultInjector::OnCoordinatorDown() {
  const int64_t most_ms = Over() ? 1000 : 12'000;
  world_->time.After(world_->random.Between(100, world_->random.Chance(0.7) ? 1000 : most_ms),
                     [this] {
                       if (!coordinator_->alive()) coordinator_->Start();
                     });
}

Worker* FaultInjector::AnyWorker() { return world_->random.Pick(workers_); }

Rank* FaultInjector::AnyRank() {
  std::vector<Rank*> ranks;
  for (const Worker* worker : workers_) {
    for (Rank* rank : worker->LivingRanks()) ranks.push_back(rank);
  }
  return ranks.empty() ? nullptr : world_->random.Pick(ranks);
}

void FaultInjector::CrashCoordinator() {
  switch (world_->random.Between(0, 4)) {
    case 0:
      return coordinator_->CrashInNextCommit(CommitCrash::kBeforeSync);
    case 1:
      return coordinator_->CrashInNextCommit(CommitCrash::kBeforeMark);
    case 2:
      return coordinator_->CrashInNextCommit(CommitCrash::kAfterMark);
    default:
      return coordinator_->Crash("killed");
  }
}

void FaultInjector::FillDisk() {
  world_->trace.Line("disk", "is full");
  store_->SetFull(true);
  chunks_->SetFull(true);
  world_->time.After(world_->random.Between(200, 8000), [this] {
    world_->trace.Line("disk", "has room");
    store_->SetFull(false);
    chunks_->SetFull(false);
  });
}

void FaultInjector::CrashWorker() {
  Worker* worker = AnyWorker();
  worker->Crash("killed");
  world_->time.After(world_->random.Between(100, world_->random.Chance(0.6) ? 3000 : 25'000),
                     [worker] { worker->Boot(); });
}

void FaultInjector::CutOff() {
  Worker* worker = AnyWorker();
  const int64_t duration_ms = world_->random.Between(200, 25'000);
  world_->trace.Line("network", worker->id(), " is cut off for ", duration_ms, " ms");
  network_->CutOff(worker->id(), duration_ms);
  checker_->OnWorkerTrouble(worker->id(), world_->time.now_ms() + duration_ms + kAfterTroubleMs);
}

void FaultInjector::EndRank() {
  Rank* rank = AnyRank();
  if (rank == nullptr || rank->hung()) return;
  RankEnd end;
  switch (world_->random.Between(0, 3)) {
    case 0:
      end.exit.signal = SIGSEGV;
      break;
    case 1:
      end.exit.code = 3;
      break;
    case 2:
      return rank->Fail(absl::StatusCode::kInternal,
                        absl::StrCat("error ", world_->random.Between(1, 1000)));
    default:
      end.exit.signal = SIGKILL;
  }
  rank->Exit(std::move(end));
}

void FaultInjector::HangRank() {
  Rank* rank = AnyRank();
  if (rank != nullptr && rank->training() != nullptr) {
    rank->Hang(world_->random.Between(500, 25'000));
  }
}

void FaultInjector::JumpClock() {
  const int64_t jump_ms = world_->random.Between(-3'600'000, 3'600'000);
  world_->trace.Line("clock", "jumps by ", jump_ms, " ms");
  world_->unix_jump_ms += jump_ms;
  world_->unix_jumped = true;
}

void FaultInjector::DamageCheckpoint() {
  const std::vector<CheckpointKey> stored = chunks_->List();
  if (stored.empty()) return;
  const CheckpointKey& key = world_->random.Pick(stored);
  world_->trace.Line("disk", "damages ", key.job_id, "@", key.step);
  chunks_->Damage(key);
  checker_->OnBytesDamaged(key);
}

}  // namespace diffmoe::simulation
