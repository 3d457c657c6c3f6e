#include "worker/rank/sample_engine.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "tests/unit/worker/rank/fake_rank_link.h"

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

class SampleEngineTest : public testing::TestWithParam<SamplerKind> {
 protected:
  SampleWork Work(const std::string& id, std::vector<int> classes, uint64_t seed = 7) const {
    SampleWork work;
    work.request_id = id;
    work.job_id = "a-1";
    work.step = 10;
    work.config = config_;
    work.classes = std::move(classes);
    work.seed = seed;
    work.sampler = std::string(SamplerName(GetParam()));
    work.steps = 4;
    return work;
  }
  void Finish(SampleEngine& engine) {
    for (int i = 0; i < 1000 && engine.busy(); ++i) engine.Step();
    EXPECT_FALSE(engine.busy());
  }
  template <typename Update>
  std::vector<Update> Updates(const std::string& id) {
    std::vector<Update> out;
    for (const SampleUpdateData& update : link_.updates[id]) {
      if (const auto* wanted = std::get_if<Update>(&update)) out.push_back(*wanted);
    }
    return out;
  }
  // Pixels of the images of a request that is made alone.
  std::vector<std::string> Images(SampleWork work) {
    const std::string id = work.request_id;
    SampleEngine engine(link_);
    engine.Add(std::move(work));
    Finish(engine);
    std::vector<std::string> pixels;
    for (const SampleImage& image : Updates<SampleImage>(id)) pixels.push_back(image.pixels);
    return pixels;
  }

  const TrainingConfig config_ = Config(ProcessOf(GetParam()));
  FakeRankLink link_{config_};
};

TEST_P(SampleEngineTest, TellsStepsImagesAndReceiptInOrder) {
  SampleEngine engine(link_);
  engine.Add(Work("r", {3, 4}));
  engine.Add(Work("r", {3, 4}));  // sent again after a lost stream: dropped
  Finish(engine);
  const auto& all = link_.updates["r"];
  ASSERT_FALSE(all.empty());
  EXPECT_TRUE(std::holds_alternative<SampleStarted>(all.front()));
  EXPECT_TRUE(std::holds_alternative<SampleFinished>(all.back()));
  const auto progress = Updates<SampleProgressUpdate>("r");
  for (size_t i = 0; i < progress.size(); ++i) {
    EXPECT_EQ(progress[i].step, static_cast<int>(i) + 1);
    EXPECT_EQ(progress[i].step == progress[i].steps, i + 1 == progress.size()) << i;
  }
  const SampleFinished finished = Updates<SampleFinished>("r").at(0);
  if (GetParam() != SamplerKind::kDopri5) {
    EXPECT_EQ(progress.size(), 4u);
    EXPECT_EQ(finished.network_calls, GetParam() == SamplerKind::kHeun ? 16 : 8);
  } else {
    EXPECT_GT(finished.network_calls, 2 * 8);
  }
  const auto images = Updates<SampleImage>("r");
  ASSERT_EQ(images.size(), 2u);
  EXPECT_EQ(images[0].label, 3);
  EXPECT_EQ(images[1].label, 4);
  EXPECT_EQ(images[0].pixels.size(), 64u);
  EXPECT_NE(images[0].pixels, images[1].pixels);
}

// An image's bits depend on the request alone: not on the images beside it nor on other requests.
TEST_P(SampleEngineTest, AnImageIsTheSameAloneAndWithOthers) {
  const std::vector<std::string> alone = Images(Work("alone", {3}));
  ASSERT_EQ(alone.size(), 1u);
  SampleEngine engine(link_);
  engine.Add(Work("other", {1, 2}, 8));
  engine.Step();
  engine.Add(Work("with", {3, 5, 5}));
  Finish(engine);
  const auto images = Updates<SampleImage>("with");
  ASSERT_EQ(images.size(), 3u);
  EXPECT_EQ(images[0].pixels, alone[0]);
  EXPECT_NE(images[1].pixels, images[2].pixels);  // one class, two draws of noise
  EXPECT_NE(Images(Work("seed", {3}, 9)).at(0), alone[0]);
}

TEST_P(SampleEngineTest, GuidanceActsInItsInterval) {
  SampleWork full = Work("full", {3}), none = Work("none", {3}), off = Work("off", {3});
  full.guidance = none.guidance = 4;
  off.guidance = 1;
  none.guidance_begin = none.guidance_end = 0.123;  // no call falls there
  const std::vector<std::string> unguided = Images(off);
  EXPECT_NE(Images(full), unguided);
  EXPECT_EQ(Images(none), unguided);
}

INSTANTIATE_TEST_SUITE_P(Samplers, SampleEngineTest,
                         testing::Values(SamplerKind::kEuler, SamplerKind::kHeun,
                                         SamplerKind::kDopri5, SamplerKind::kEulerMaruyama,
                                         SamplerKind::kAncestral, SamplerKind::kDdim,
                                         SamplerKind::kDpmSolver2M),
                         [](const auto& row) { return std::string(SamplerName(row.param)); });

class SampleEngineErrors : public SampleEngineTest {
 protected:
  absl::Status ErrorOf(SampleWork work) {
    const std::string id = work.request_id;
    link_.updates.clear();
    SampleEngine engine(link_);
    engine.Add(std::move(work));
    Finish(engine);
    const auto errors = Updates<absl::Status>(id);
    return errors.size() == 1 ? errors[0] : absl::OkStatus();
  }
};

TEST_P(SampleEngineErrors, UnknownOrUnfitSamplersAreRefused) {
  SampleWork unknown = Work("unknown", {3}), unfit = Work("unfit", {3}), few = Work("few", {3});
  unknown.sampler = "eulre";
  unfit.sampler = "ddim";
  few.steps = 0;
  for (const SampleWork& work : {unknown, unfit, few}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ErrorOf(work))) << work.request_id;
  }
  EXPECT_TRUE(absl::StrContains(ErrorOf(unfit).message(), "sampler: expected one of euler"));
}

TEST_P(SampleEngineErrors, ADeadlineEndsTheRequestBetweenSteps) {
  SampleWork late = Work("late", {3});
  late.deadline = absl::Now() - absl::Seconds(1);
  const absl::Status status = ErrorOf(late);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status));
  EXPECT_TRUE(absl::StrContains(status.message(), "0 of ")) << status;
}

INSTANTIATE_TEST_SUITE_P(Flow, SampleEngineErrors, testing::Values(SamplerKind::kEuler),
                         [](const auto& row) { return std::string(SamplerName(row.param)); });

}  // namespace
}  // namespace diffmoe
