// A loss, a gradient or a score that is not a number ends the step on every rank that sees it,
// names step and place, and leaves weights and optimiser as they were.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

#include "core/train/train_engine.h"
#include "tests/multiprocess/rank_threads.h"
#include "tests/multiprocess/training_run.h"

namespace diffmoe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// What the engine says on each rank when `spoil` has changed the state or the batch of rank
// `ranks - 1`, after one good step.
std::vector<std::string> Complaints(Family family, int ranks,
                                    const std::function<void(TrainEngine&, Batch&)>& spoil) {
  TrainingConfig config = SmallConfig(family);
  config.expert_parallel = ranks;
  std::vector<std::string> said(static_cast<size_t>(ranks));
  RunRanks(ranks, [&](Collectives& collectives) {
    TrainEngine engine(config, collectives);
    engine.Initialize();
    const auto batch = [&](int64_t step) {
      return MakeBatch(config, step, collectives.rank(), ranks, 1000, SyntheticImage);
    };
    engine.Step(0, batch(0), 0);
    Batch bad = batch(1);
    if (collectives.rank() == ranks - 1) spoil(engine, bad);
    const std::vector<StateRun> runs = engine.OwnedState();
    std::vector<std::string> before;
    const auto bytes = [](const StateRun& run) {
      return std::string(reinterpret_cast<const char*>(run.data),
                         static_cast<size_t>(run.elements) * sizeof(float));
    };
    for (const StateRun& run : runs) before.push_back(bytes(run));
    try {
      engine.Step(1, bad, 0);
    } catch (const std::runtime_error& error) {
      said[static_cast<size_t>(collectives.rank())] = error.what();
    }
    for (size_t i = 0; i < runs.size(); ++i) EXPECT_EQ(bytes(runs[i]), before[i]) << runs[i].name;
  });
  return said;
}

void SpoilImage(TrainEngine&, Batch& batch) {
  batch.images.data_ptr<float>()[5] = std::numeric_limits<float>::quiet_NaN();
}

TEST(NonFinite, ScoreNamesStepAndBlock) {
  EXPECT_THAT(Complaints(Family::kDiffMoe, 1, SpoilImage)[0],
              AllOf(HasSubstr("loss is not a number at step 2: "), HasSubstr("block 1")));
}

TEST(NonFinite, LossOfOneRankEndsAllRanks) {
  for (const std::string& said : Complaints(Family::kDense, 2, SpoilImage)) {
    EXPECT_THAT(said, HasSubstr("loss is not a number at step 2: nan"));
  }
}

// Finite loss, but gradients whose squares leave the range of fp32.
TEST(NonFinite, GradientNamesItsParameter) {
  const auto said = Complaints(Family::kDense, 1, [](TrainEngine& engine, Batch& batch) {
    for (const StateRun& run : engine.NeededState()) {
      if (run.name == "model/final_layer.linear.weight") {
        for (int64_t i = 0; i < run.elements; ++i) run.data[i] = 1e15f;
      }
    }
    batch.images.mul_(1e4f);
  });
  EXPECT_THAT(said[0], HasSubstr(" is not a number at step 2: "));
}

}  // namespace
}  // namespace diffmoe
