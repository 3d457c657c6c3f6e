#include "tests/simulation/simulation.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/client.h"
#include "tests/simulation/coordinator.h"
#include "tests/simulation/fault_injector.h"
#include "tests/simulation/model_store.h"
#include "tests/simulation/network.h"
#include "tests/simulation/rank.h"
#include "tests/simulation/worker.h"

namespace diffmoe::simulation {
namespace {

// After the last fault everything must have settled in this time.
constexpr int64_t kSettleLimitMs = 400'000;
// Nothing changes for so long: it has settled. Longer when a job may still wait for its restart.
constexpr int64_t kQuietMs = 3000;
constexpr int64_t kQuietWithOpenJobsMs = 45'000;

server::StateOptions Options(uint64_t seed) {
  server::StateOptions options;
  options.sampler_idle_ms = 10'000;
  // Some clusters have tight bounds.
  if (seed % 3 == 0) {
    options.max_sampler_requests = 2;
    options.max_sample_requests = 4;
    options.max_sample_requests_per_user = 3;
    options.max_known_samples = 3;
  }
  return options;
}

class Simulation {
 public:
  Simulation(uint64_t seed, bool print_trace)
      : world_(seed, print_trace),
        network_(&world_),
        checker_(&world_, &plans_),
        store_(&world_,
               [this](const std::vector<RecordWrite>& writes) { checker_.OnDurable(writes); }),
        chunks_([this](const CheckpointKey& key) { checker_.OnBytesDeleted(key); }),
        coordinator_(&world_, &network_, &store_, &chunks_, &checker_, Options(seed),
                     [this] { injector_->OnCoordinatorDown(); }),
        groups_({&world_, &network_, &coordinator_, &checker_, &plans_}) {}

  void Run();
  RunResult Result(uint64_t seed) const {
    return {seed,
            world_.violation,
            world_.trace.hash(),
            world_.trace.lines(),
            world_.time.now_ms(),
            world_.trace.Tail()};
  }

 private:
  void Build();
  void LookWhetherSettled(int64_t quiet_since_ms);
  bool Settled() const;
  int Slots() const;
  std::vector<SlotTruth> SlotTruths() const;

  World world_;
  JobPlans plans_;
  Network network_;
  Checker checker_;
  ModelStore store_;
  ModelChunks chunks_;
  Coordinator coordinator_;
  RankGroups groups_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::unique_ptr<FaultInjector> injector_;
  int64_t faults_end_ms_ = 0;
  bool finished_ = false;
};

void Simulation::Build() {
  Random& random = world_.random;
  const int64_t workers = random.Between(1, 4);
  std::vector<Worker*> pointers;
  for (int64_t i = 1; i <= workers; ++i) {
    workers_.push_back(std::make_unique<Worker>(&world_, &network_, &coordinator_, &checker_,
                                                &groups_, absl::StrCat("w", i),
                                                static_cast<int>(random.Between(1, 3))));
    pointers.push_back(workers_.back().get());
  }
  injector_ = std::make_unique<FaultInjector>(&world_, &network_, &store_, &chunks_, &coordinator_,
                                              &checker_, pointers);
  const int64_t clients = random.Between(1, 3);
  for (int64_t i = 1; i <= clients; ++i) {
    clients_.push_back(std::make_unique<Client>(&world_, &network_, &coordinator_, &checker_,
                                                &plans_, absl::StrCat("client", i)));
  }
}

void Simulation::Run() {
  Build();
  Random& random = world_.random;
  faults_end_ms_ = random.Between(10'000, 50'000);
  coordinator_.Start();
  for (const auto& worker : workers_) {
    world_.time.After(random.Between(0, 1500), [&worker] { worker->Boot(); });
  }
  for (const auto& client : clients_) {
    client->Begin(static_cast<int>(random.Between(1, 3)), faults_end_ms_);
  }
  injector_->Begin(faults_end_ms_);
  world_.time.At(faults_end_ms_ + 1000, [this] { LookWhetherSettled(world_.time.now_ms()); });
  while (!finished_ && !world_.violation && world_.time.RunNext()) {
  }
}

int Simulation::Slots() const {
  int slots = 0;
  for (const auto& worker : workers_) slots += worker->left() ? 0 : worker->slots();
  return slots;
}

std::vector<SlotTruth> Simulation::SlotTruths() const {
  std::vector<SlotTruth> truths;
  for (const auto& worker : workers_) {
    for (SlotTruth& truth : worker->Slots()) truths.push_back(std::move(truth));
  }
  return truths;
}

bool Simulation::Settled() const {
  const server::State* state = coordinator_.state();
  if (state == nullptr || coordinator_.frozen() || !checker_.JobsSettled(Slots())) return false;
  for (const auto& worker : workers_) {
    if (!worker->left() && !worker->Quiet()) return false;
  }
  for (const auto& client : clients_) {
    if (!client->idle()) return false;
  }
  if (!state->samples.empty()) return false;
  // A sampler that was idle may be ending.
  size_t samplers = 0;
  for (const SlotTruth& slot : SlotTruths()) samplers += slot.sampler ? 1 : 0;
  return samplers == state->samplers.size();
}

void Simulation::LookWhetherSettled(int64_t quiet_since_ms) {
  const int64_t now_ms = world_.time.now_ms();
  if (!Settled()) quiet_since_ms = now_ms;
  const int64_t quiet_ms = checker_.OpenJobs().empty() ? kQuietMs : kQuietWithOpenJobsMs;
  if (now_ms - quiet_since_ms >= quiet_ms) {
    checker_.OnCommitted(*coordinator_.state(), store_.records());
    checker_.Finish(*coordinator_.state(), Slots(), SlotTruths());
    finished_ = true;
    return;
  }
  if (now_ms >= faults_end_ms_ + kSettleLimitMs) {
    std::string what = checker_.OpenJobs();
    for (const auto& client : clients_) {
      if (!client->idle()) absl::StrAppend(&what, "; a client waits for ", client->waits_for());
    }
    return world_.Violate("everything settles once faults stop", what);
  }
  world_.time.After(500, [this, quiet_since_ms] { LookWhetherSettled(quiet_since_ms); });
}

}  // namespace

RunResult RunSimulation(uint64_t seed, bool print_trace) {
  Simulation simulation(seed, print_trace);
  simulation.Run();
  return simulation.Result(seed);
}

}  // namespace diffmoe::simulation
