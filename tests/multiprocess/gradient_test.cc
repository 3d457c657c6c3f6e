// Gradients under every layout, in fp64: against one rank, against finite differences, and coded as
// powers of two per rank, which shows who was added to whom.
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "core/parallel/gradient_tree.h"
#include "core/train/expert_replicas.h"
#include "core/train/train_engine.h"
#include "tests/multiprocess/rank_threads.h"
#include "tests/multiprocess/training_run.h"

namespace diffmoe {
namespace {

TrainingConfig GradientConfig(Family family) {
  TrainingConfig config = SmallConfig(family);
  config.global_batch = 8;
  config.unit_samples = 2;
  if (config.model.HasExperts()) config.model.shared_experts = 1;
  return config;
}

Batch BatchOf(const TrainingConfig& config, int rank, int world_size) {
  return MakeBatch(config, 0, rank, world_size, 1000, SyntheticImage);
}

// Fresh weights have zero modulation and output layers, behind which every gradient is zero.
void Randomize(TrainEngine& engine) {
  engine.Initialize();
  for (const ParameterInfo& info : engine.layout().infos()) {
    if (!engine.parameters().contains(info.name)) continue;
    at::Tensor values = engine.parameters().at(info.name).detach().view({-1});
    const uint64_t key = std::hash<std::string>()(info.name);
    double* data = values.data_ptr<double>();
    for (int64_t i = 0; i < values.numel(); ++i) {
      data[i] += 0.05 * std::sin(static_cast<double>((key + static_cast<uint64_t>(i)) % 10007));
    }
  }
}

// Whole gradients by name, from all ranks.
std::map<std::string, std::vector<double>> Gradients(TrainingConfig config, const Layout& layout) {
  config.expert_parallel = layout.expert_parallel;
  std::map<std::string, std::vector<double>> all;
  std::mutex mutex;
  RunRanks(layout.ranks, [&](Collectives& collectives) {
    TrainEngine engine(config, collectives, {at::kDouble});
    Randomize(engine);
    engine.ForwardBackward(BatchOf(config, collectives.rank(), layout.ranks));
    std::lock_guard<std::mutex> lock(mutex);
    const int64_t begin = engine.layout().slice_begin();
    const int64_t end = begin + engine.layout().slice_elements();
    for (const ParameterPlace& place : engine.layout().dense()) {
      std::vector<double>& whole = all[place.info->name];
      whole.resize(static_cast<size_t>(place.info->elements()));
      for (int64_t i = 0; i < place.info->elements(); ++i) {
        if (place.offset + i < begin || place.offset + i >= end) continue;
        whole[static_cast<size_t>(i)] =
            engine.gradients().dense().const_data_ptr<double>()[place.offset + i];
      }
    }
    for (const OwnedRun& run : engine.layout().owned_experts()) {
      const double* data = engine.gradients().experts().const_data_ptr<double>() + run.place.offset;
      all[run.place.info->name].assign(data, data + run.place.info->elements());
    }
  });
  return all;
}

class GradientsUnderLayouts : public ::testing::TestWithParam<std::tuple<Family, bool>> {};

TEST_P(GradientsUnderLayouts, EqualOneRank) {
  TrainingConfig config = GradientConfig(std::get<0>(GetParam()));
  config.deterministic = std::get<1>(GetParam());
  const auto one = Gradients(config, {1, 1});
  for (const Layout& layout :
       {Layout{2, 1}, Layout{2, 2}, Layout{4, 1}, Layout{4, 2}, Layout{4, 4}}) {
    const auto many = Gradients(config, layout);
    ASSERT_EQ(many.size(), one.size());
    for (const auto& [name, want] : one) {
      const std::vector<double>& got = many.at(name);
      ASSERT_EQ(got.size(), want.size()) << name;
      double largest = 0, worst = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        largest = std::max(largest, std::abs(want[i]));
        worst = std::max(worst, std::abs(got[i] - want[i]));
      }
      // Token choice may leave an expert without tokens.
      if (config.model.family != Family::kTokenChoice) {
        EXPECT_GT(largest, 0) << name << " has no gradient";
      }
      EXPECT_LE(worst, 1e-12 * largest)
          << name << " on " << layout.ranks << " ranks, expert parallel " << layout.expert_parallel;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, GradientsUnderLayouts,
                         ::testing::Combine(::testing::Values(Family::kDense, Family::kTokenChoice,
                                                              Family::kExpertChoice,
                                                              Family::kDiffMoe),
                                            ::testing::Bool()),
                         [](const auto& c) {
                           return absl::StrCat("Family", static_cast<int>(std::get<0>(c.param)),
                                               std::get<1>(c.param) ? "Deterministic" : "Fast");
                         });

// The loss whose gradient a parameter gets: the predictor has its own; the balance loss of token
// choice reaches whatever the gate sees.
double LossOf(TrainEngine& engine, const TrainingConfig& config, const Batch& batch,
              bool predictor) {
  engine.ForwardBackward(batch);
  double diffusion = 0, router = 0;
  for (double unit : engine.unit_losses()) diffusion += unit;
  for (const MoeStepStats& stats : engine.moe_stats()[0]) {
    for (double unit : stats.unit_router_loss) router += unit;
  }
  if (predictor) return router / static_cast<double>(engine.moe_layer_count());
  return config.model.family == Family::kTokenChoice ? diffusion + router : diffusion;
}

class FiniteDifferences : public ::testing::TestWithParam<Family> {};

TEST_P(FiniteDifferences, OfEveryParameter) {
  TrainingConfig config = GradientConfig(GetParam());
  config.global_batch = 4;
  const auto collectives = MakeLocalCollectives();
  TrainEngine engine(config, *collectives, {at::kDouble});
  Randomize(engine);
  const Batch batch = BatchOf(config, 0, 1);
  engine.ForwardBackward(batch);
  const std::vector<std::vector<at::Tensor>> selections = engine.selections();
  std::map<std::string, at::Tensor> gradients;
  for (const ParameterInfo& info : engine.layout().infos()) {
    gradients[info.name] = engine.gradients().at(info.name).clone().view({-1});
  }
  constexpr double kStep = 1e-5;
  int compared = 0, skipped = 0;
  for (const ParameterInfo& info : engine.layout().infos()) {
    const at::Tensor& gradient = gradients.at(info.name);
    const double largest = gradient.abs().max().item<double>();
    double* values = engine.parameters().at(info.name).detach().view({-1}).data_ptr<double>();
    const bool predictor = info.kind == ParameterKind::kPredictor;
    // The element with the largest gradient and one anywhere.
    for (const int64_t i : {gradient.abs().argmax().item<int64_t>(), info.elements() / 3}) {
      const double value = values[i];
      values[i] = value + kStep;
      const double above = LossOf(engine, config, batch, predictor);
      bool same = engine.selections()[0].size() == selections[0].size();
      for (size_t l = 0; same && l < selections[0].size(); ++l) {
        same = engine.selections()[0][l].equal(selections[0][l]);
      }
      values[i] = value - kStep;
      const double below = LossOf(engine, config, batch, predictor);
      values[i] = value;
      if (!same) {  // the loss jumps where another token is selected
        ++skipped;
        continue;
      }
      ++compared;
      const double difference = (above - below) / (2 * kStep);
      const double got = gradient[i].item<double>();
      EXPECT_NEAR(got, difference, 1e-6 * std::max(largest, 1e-3)) << info.name << "[" << i << "]";
    }
  }
  EXPECT_GT(compared, 10 * skipped) << "too few differences without another selection";
}

INSTANTIATE_TEST_SUITE_P(Families, FiniteDifferences,
                         ::testing::Values(Family::kDense, Family::kTokenChoice,
                                           Family::kExpertChoice, Family::kDiffMoe),
                         [](const auto& c) {
                           return absl::StrCat("Family", static_cast<int>(c.param));
                         });

// Rank r contributes 2^r, so a sum names its addends.
TEST(ReductionGroups, DenseOverAllRanksExpertsOverTheirReplicas) {
  for (const Layout& layout :
       {Layout{2, 1}, Layout{2, 2}, Layout{4, 1}, Layout{4, 2}, Layout{4, 4}}) {
    RunRanks(layout.ranks, [&](Collectives& collectives) {
      const int rank = collectives.rank();
      const double mine = std::ldexp(1.0, rank);
      const at::Tensor dense =
          at::full({layout.ranks * 8}, mine, at::TensorOptions().dtype(at::kDouble));
      const at::Tensor slice = ReduceScatterTree(collectives, dense, "test");
      const double all = std::ldexp(1.0, layout.ranks) - 1;
      EXPECT_EQ(slice.min().item<double>(), all);
      EXPECT_EQ(slice.max().item<double>(), all);

      const ModelConfig model = SmallConfig(Family::kDiffMoe).model;
      const ParameterLayout places(model, rank, layout.ranks, layout.expert_parallel,
                                   /*local_rows=*/true);
      Parameters gradients(places, at::kDouble);
      gradients.experts().fill_(mine);
      SumExpertGradients(collectives, gradients);
      const ExpertPlacement& placement = places.placement();
      double replicas = 0;
      for (int64_t r = 0; r < placement.replicas(); ++r) {
        replicas += std::ldexp(1.0, static_cast<int>(placement.first_replica() + r));
      }
      for (const OwnedRun& run : places.owned_experts()) {
        const at::Tensor got =
            gradients.experts().narrow(0, run.place.offset, run.place.info->elements());
        EXPECT_EQ(got.min().item<double>(), replicas) << run.place.info->name;
        EXPECT_EQ(got.max().item<double>(), replicas) << run.place.info->name;
      }
      // The owner's new weights reach every replica: they are 2^owner afterwards.
      Parameters weights(places, at::kDouble);
      weights.experts().fill_(mine);
      GatherExpertWeights(collectives, weights);
      for (const ParameterPlace& place : places.experts()) {
        const double owner = std::ldexp(1.0, static_cast<int>(placement.owner(place.info->expert)));
        const at::Tensor got = weights.experts().narrow(0, place.offset, place.info->elements());
        EXPECT_EQ(got.min().item<double>(), owner) << place.info->name;
        EXPECT_EQ(got.max().item<double>(), owner) << place.info->name;
      }
    });
  }
}

TEST(ClipNorm, HasTheSameBitsOnEveryRank) {
  for (const Layout& layout : {Layout{2, 1}, Layout{4, 2}, Layout{4, 4}}) {
    for (bool deterministic : {true, false}) {
      TrainingConfig config = GradientConfig(Family::kDiffMoe);
      config.expert_parallel = layout.expert_parallel;
      config.deterministic = deterministic;
      std::vector<double> norms;
      std::mutex mutex;
      RunRanks(layout.ranks, [&](Collectives& collectives) {
        TrainEngine engine(config, collectives);
        engine.Initialize();
        for (int64_t step = 0; step < 3; ++step) {
          const Batch batch =
              MakeBatch(config, step, collectives.rank(), layout.ranks, 1000, SyntheticImage);
          const StepFigures figures = engine.Step(step, batch, 0);
          std::lock_guard<std::mutex> lock(mutex);
          if (step == 2) norms.push_back(figures.grad_norm);
        }
      });
      ASSERT_EQ(norms.size(), static_cast<size_t>(layout.ranks));
      for (double norm : norms) EXPECT_EQ(norm, norms.front());
    }
  }
}

}  // namespace
}  // namespace diffmoe
