#include "tests/benchmarks/checkpoint_stall.h"

#include <chrono>
#include <cstring>
#include <memory>

#include "core/train/train_engine.h"
#include "tests/unit/worker/rank/fake_rank_link.h"
#include "worker/rank/checkpoint_writer.h"

namespace diffmoe {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// deploy/jobs/fashion-demo.yaml on one rank.
TrainingConfig DemoConfig() {
  TrainingConfig config;
  config.model.family = Family::kDiffMoe;
  config.model.image_size = 32;
  config.model.channels = 1;
  config.model.patch_size = 4;
  config.model.width = 192;
  config.model.depth = 6;
  config.model.heads = 6;
  config.model.experts = 8;
  config.global_batch = 32;
  config.unit_samples = 8;
  config.expert_parallel = 1;
  return config;
}

}  // namespace

StallFigures MeasureStall(int repetitions) {
  const TrainingConfig config = DemoConfig();
  const std::unique_ptr<Collectives> collectives = MakeLocalCollectives();
  TrainEngine engine(config, *collectives);
  engine.Initialize();
  FakeRankLink link(config);
  CheckpointWriter writer(link);
  writer.Prepare(engine.OwnedState());
  StallFigures figures;
  for (const StateRun& run : engine.OwnedState()) {
    figures.bytes += run.elements * static_cast<int64_t>(sizeof(float));
  }
  const size_t bytes = static_cast<size_t>(figures.bytes);
  const auto from = std::make_unique<char[]>(bytes), to = std::make_unique<char[]>(bytes);
  for (int i = 0; i < repetitions; ++i) {
    const double begin = Now();
    writer.Stage(engine.OwnedState());
    const double middle = Now();
    std::memcpy(to.get(), from.get(), bytes);
    figures.stage_seconds.push_back(middle - begin);
    figures.memcpy_seconds.push_back(Now() - middle);
  }
  return figures;
}

}  // namespace diffmoe
