#include "worker/rank/model_executor.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "core/diffusion/sampler_kind.h"
#include "tests/unit/worker/rank/fake_rank_link.h"
#include "worker/rank/sample_engine.h"

namespace diffmoe {
namespace {

TrainingConfig Config(ProcessKind process) {
  TrainingConfig config;
  config.diffusion.process = process;
  config.model.image_size = 8;
  config.model.patch_size = 2;
  config.model.width = 64;
  config.model.depth = 2;
  config.model.heads = 2;
  config.model.experts = 4;
  config.model.learn_sigma = process == ProcessKind::kDdpm;
  return config;
}

// What an engine made of some requests.
class Made {
 public:
  explicit Made(FakeRankLink& link) : link_(link) {}

  template <typename Update>
  std::vector<Update> Updates(const std::string& id) const {
    std::vector<Update> out;
    for (const SampleUpdateData& update : link_.updates[id]) {
      if (const auto* wanted = std::get_if<Update>(&update)) out.push_back(*wanted);
    }
    return out;
  }
  SampleFinished Finished(const std::string& id) const {
    const auto all = Updates<SampleFinished>(id);
    EXPECT_EQ(all.size(), 1u) << id << ": "
                              << (Updates<absl::Status>(id).empty() ? absl::OkStatus()
                                                                    : Updates<absl::Status>(id)[0]);
    return all.empty() ? SampleFinished{} : all[0];
  }
  absl::Status Error(const std::string& id) const {
    const auto errors = Updates<absl::Status>(id);
    return errors.empty() ? absl::OkStatus() : errors[0];
  }

 private:
  FakeRankLink& link_;
};

class ModelExecutorBase {
 protected:
  explicit ModelExecutorBase(SamplerKind kind)
      : kind_(kind), config_(Config(ProcessOf(kind))), link_(config_), made_(link_) {}

  SampleWork Work(const std::string& id, std::vector<int> classes, uint64_t seed = 7) const {
    SampleWork work;
    work.request_id = id;
    work.job_id = "a-1";
    work.step = 10;
    work.config = config_;
    work.classes = std::move(classes);
    work.seed = seed;
    work.sampler = std::string(SamplerName(kind_));
    work.steps = 4;
    return work;
  }
  // All requests at once, in calls of up to 16 rows, by an engine and a model of their own.
  const Made& Make(const std::vector<SampleWork>& works) {
    link_.updates.clear();
    ModelExecutor executor(link_);
    SampleEngineOptions options;
    options.curve.least_rows = options.curve.most_rows = 16;
    SampleEngine engine(link_, executor, options);
    for (const SampleWork& work : works) engine.Add(work);
    for (int i = 0; i < 2000 && engine.busy(); ++i) engine.Step();
    EXPECT_FALSE(engine.busy());
    return made_;
  }
  std::vector<std::string> Hashes(const SampleWork& work) {
    return Make({work}).Finished(work.request_id).image_hashes;
  }
  std::vector<std::vector<float>> Thresholds(float value) const {
    return {{std::vector<float>(static_cast<size_t>(config_.model.experts), value)}};
  }

  const SamplerKind kind_;
  const TrainingConfig config_;
  FakeRankLink link_;
  const Made made_;
};

class EverySampler : public ModelExecutorBase, public testing::TestWithParam<SamplerKind> {
 protected:
  EverySampler() : ModelExecutorBase(GetParam()) {}
};

TEST_P(EverySampler, MakesDifferentImagesAndAReceipt) {
  const Made& made = Make({Work("r", {3, 4})});
  const SampleFinished finished = made.Finished("r");
  if (GetParam() == SamplerKind::kDopri5) {
    EXPECT_GT(finished.network_calls, 2 * 8);
  } else {
    EXPECT_EQ(finished.network_calls, GetParam() == SamplerKind::kHeun ? 16 : 8);
    EXPECT_EQ(made.Updates<SampleProgressUpdate>("r").back().steps, 4);
  }
  EXPECT_EQ(made.Updates<SampleProgressUpdate>("r").back().step,
            made.Updates<SampleProgressUpdate>("r").back().steps);
  const auto images = made.Updates<EncodedImage>("r");
  ASSERT_EQ(images.size(), 2u);
  EXPECT_EQ(images[0].image.label, 3);
  EXPECT_EQ(images[1].image.label, 4);
  EXPECT_EQ(images[0].image.pixels.size(), 64u);
  EXPECT_NE(images[0].image.pixels, images[1].image.pixels);
  ASSERT_EQ(finished.capacity.size(), 1u);  // one MoE layer
  EXPECT_GE(finished.capacity[0], 0);
  EXPECT_LE(finished.capacity[0], 4);
  // Calls of the image that has most of them: all have the same number, but for dopri5.
  EXPECT_GE(finished.step_capacity.size() * 2, static_cast<size_t>(finished.network_calls));
  EXPECT_GE(finished.zero_expert_tokens, 0);
  EXPECT_LE(finished.zero_expert_tokens, 1);
  EXPECT_EQ(finished.weights_hash.size(), 16u);
}

TEST_P(EverySampler, AnImageIsTheSameAloneAndWithOthers) {
  const std::vector<std::string> alone = Hashes(Work("alone", {3}));
  const Made& made = Make({Work("other", {1, 2}, 8), Work("with", {3, 5, 5})});
  const std::vector<std::string> with = made.Finished("with").image_hashes;
  ASSERT_EQ(with.size(), 3u);
  EXPECT_EQ(with[0], alone[0]);
  EXPECT_NE(with[1], with[2]);  // one class, two draws of noise
  EXPECT_NE(Hashes(Work("seed", {3}, 9)), alone);
}

TEST_P(EverySampler, ALargeSetMayBeMadeInParts) {
  const std::vector<std::string> whole = Hashes(Work("whole", {3, 3, 3}));
  SampleWork part = Work("part", {3, 3});
  part.first_image = 1;
  const std::vector<std::string> parts = Hashes(part);
  EXPECT_EQ(parts, std::vector<std::string>(whole.begin() + 1, whole.end()));
}

TEST_P(EverySampler, GuidanceActsInItsInterval) {
  SampleWork full = Work("full", {3}), none = Work("none", {3}), off = Work("off", {3});
  full.guidance = none.guidance = 4;
  off.guidance = 1;
  none.guidance_begin = none.guidance_end = 0.123;  // no call falls there
  const std::vector<std::string> unguided = Hashes(off);
  EXPECT_NE(Hashes(full), unguided);
  EXPECT_EQ(Hashes(none), unguided);
  SampleWork negative = Work("negative", {3});
  negative.guidance = 4;
  negative.negative_class = 5;
  EXPECT_NE(Hashes(negative), Hashes(full));
}

TEST_P(EverySampler, PreviewsAreImagesAndChangeNothing) {
  SampleWork plain = Work("plain", {3}), previews = Work("previews", {3});
  previews.preview_every = 1;
  const std::vector<std::string> hashes = Hashes(plain);
  const Made& made = Make({previews});
  EXPECT_EQ(made.Finished("previews").image_hashes, hashes);
  const auto pictures = made.Updates<SamplePreview>("previews");
  ASSERT_GE(pictures.size(), 3u);
  for (const SamplePreview& preview : pictures) {
    EXPECT_EQ(preview.image.pixels.size(), 64u);
  }
}

INSTANTIATE_TEST_SUITE_P(Samplers, EverySampler,
                         testing::Values(SamplerKind::kEuler, SamplerKind::kHeun,
                                         SamplerKind::kDopri5, SamplerKind::kEulerMaruyama,
                                         SamplerKind::kAncestral, SamplerKind::kDdim,
                                         SamplerKind::kDpmSolver2M),
                         [](const auto& row) { return std::string(SamplerName(row.param)); });

class ModelExecutorTest : public ModelExecutorBase, public testing::Test {
 protected:
  ModelExecutorTest() : ModelExecutorBase(SamplerKind::kEuler) {}
};

TEST_F(ModelExecutorTest, SizesShareTheModel) {
  SampleWork large = Work("large", {3});
  large.image_size = 16;
  const std::vector<std::string> alone = Hashes(large);
  const Made& made = Make({Work("small", {3}), large});
  EXPECT_EQ(made.Finished("large").image_hashes, alone);
  EXPECT_EQ(made.Updates<EncodedImage>("large").at(0).image.pixels.size(), 256u);
  SampleWork odd = Work("odd", {3});
  odd.image_size = 9;
  EXPECT_TRUE(absl::IsInvalidArgument(Make({odd}).Error("odd")));
}

TEST_F(ModelExecutorTest, ThresholdsOfTheRequestDecide) {
  SampleWork all = Work("all", {3}), none = Work("none", {3}), own = Work("own", {3});
  all.rule = none.rule = ThresholdRule::kCalibrated;
  all.thresholds = Thresholds(-1);
  none.thresholds = Thresholds(2);
  const Made& made = Make({all, none, own});
  EXPECT_EQ(made.Finished("all").capacity, std::vector<double>{4});
  EXPECT_EQ(made.Finished("all").zero_expert_tokens, 0);
  EXPECT_EQ(made.Finished("none").capacity, std::vector<double>{0});
  EXPECT_EQ(made.Finished("none").zero_expert_tokens, 1);
  EXPECT_NE(made.Finished("none").thresholds_hash, made.Finished("all").thresholds_hash);
  EXPECT_EQ(made.Finished("none").weights_hash, made.Finished("all").weights_hash);
  // Those of the checkpoint, written out, give the same.
  SampleWork same = Work("same", {3});
  same.rule = ThresholdRule::kCalibrated;
  same.thresholds = Thresholds(0.5);
  const SampleFinished dynamic = Make({own}).Finished("own");
  const SampleFinished written = Make({same}).Finished("same");
  EXPECT_EQ(written.image_hashes, dynamic.image_hashes);
  EXPECT_EQ(written.thresholds_hash, dynamic.thresholds_hash);
}

TEST_F(ModelExecutorTest, TheGateRuleLooksAtTheGate) {
  SampleWork gate = Work("gate", {3});
  gate.rule = ThresholdRule::kGate;
  gate.thresholds = Thresholds(0.25);  // of 4 experts: about the mean
  SampleWork predictor = gate;
  predictor.request_id = "predictor";
  predictor.rule = ThresholdRule::kCalibrated;
  const Made& made = Make({gate, predictor});
  // Probabilities add up to 1, so not all can be above a quarter.
  EXPECT_LT(made.Finished("gate").capacity[0], 4);
  EXPECT_GT(made.Finished("gate").capacity[0], 0);
  EXPECT_NE(made.Finished("gate").image_hashes, made.Finished("predictor").image_hashes);
}

TEST_F(ModelExecutorTest, ThresholdsThatDoNotFitAreRefused) {
  SampleWork few = Work("few", {3}), none = Work("none", {3});
  few.rule = none.rule = ThresholdRule::kCalibrated;
  few.thresholds = {{0.5f}};
  const Made& made = Make({few, none});
  EXPECT_TRUE(absl::StrContains(made.Error("few").message(), "expected 1 x 4, got 1 x 1"))
      << made.Error("few");
  EXPECT_TRUE(absl::IsInvalidArgument(made.Error("none")));
}

TEST_F(ModelExecutorTest, FastIsCloseToExact) {
  SampleWork exact = Work("exact", {3, 4}), fast = Work("fast", {3, 4});
  fast.numeric_mode = NumericMode::kFast;
  const Made& made = Make({exact, fast});
  const auto a = made.Updates<EncodedImage>("exact"), b = made.Updates<EncodedImage>("fast");
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t p = 0; p < a[i].image.pixels.size(); ++p) {
      const int distance =
          static_cast<uint8_t>(a[i].image.pixels[p]) - static_cast<uint8_t>(b[i].image.pixels[p]);
      // Rounding of sums over at most 256 products, over 4 steps: below one grey level.
      EXPECT_LE(std::abs(distance), 1) << i << " " << p;
    }
  }
}

TEST_F(ModelExecutorTest, ModelsInUseStayAndTwoMore) {
  ModelExecutor executor(link_);
  std::vector<std::shared_ptr<const SampleModel>> held;
  for (int step = 1; step <= 5; ++step) {
    SampleWork work = Work("r", {3});
    work.step = step;
    const auto model = executor.Load(work);
    ASSERT_TRUE(model.ok()) << model.status();
    if (step <= 3) held.push_back(*model);
  }
  EXPECT_EQ(executor.cache().size(), 5u);
  held.clear();
  SampleWork work = Work("r", {3});
  work.step = 6;
  ASSERT_TRUE(executor.Load(work).ok());
  EXPECT_LE(executor.cache().size(), 3u);
}

TEST_F(ModelExecutorTest, AStepThatWasSavedAgainIsAnotherModel) {
  ModelExecutor executor(link_);
  SampleWork work = Work("r", {3});
  ASSERT_TRUE(executor.Load(work).ok());
  ASSERT_TRUE(executor.Load(work).ok());
  EXPECT_EQ(executor.cache().size(), 1u);
  work.checkpoint_epoch = 2;
  ASSERT_TRUE(executor.Load(work).ok());
  EXPECT_EQ(executor.cache().size(), 2u);
}

class OtherModels : public testing::Test {
 protected:
  // Hashes of two images, made alone and made together.
  void ExpectSame(const TrainingConfig& config) {
    FakeRankLink link(config);
    const Made made(link);
    const auto hashes = [&](uint32_t first, size_t count) {
      link.updates.clear();
      ModelExecutor executor(link);
      SampleEngineOptions options;
      options.curve.least_rows = 16;
      SampleEngine engine(link, executor, options);
      SampleWork work;
      work.request_id = "r";
      work.job_id = "a-1";
      work.config = config;
      work.classes.assign(count, 3);
      work.first_image = first;
      work.sampler = "euler";
      work.steps = 3;
      engine.Add(work);
      for (int i = 0; i < 100 && engine.busy(); ++i) engine.Step();
      return made.Finished("r").image_hashes;
    };
    const std::vector<std::string> together = hashes(0, 2);
    ASSERT_EQ(together.size(), 2u);
    EXPECT_EQ(hashes(0, 1)[0], together[0]);
    EXPECT_EQ(hashes(1, 1)[0], together[1]);
  }
};

TEST_F(OtherModels, EveryFamilyAndRule) {
  for (const Family family :
       {Family::kDense, Family::kTokenChoice, Family::kExpertChoice, Family::kDiffMoe}) {
    TrainingConfig config = Config(ProcessKind::kRectifiedFlow);
    config.model.family = family;
    if (family == Family::kExpertChoice) config.model.pool = PoolScope::kSample;
    ExpectSame(config);
  }
  TrainingConfig published = Config(ProcessKind::kRectifiedFlow);
  published.compatibility.inference_rule = InferenceRule::kBatchTopK;
  ExpectSame(published);
}

}  // namespace
}  // namespace diffmoe
