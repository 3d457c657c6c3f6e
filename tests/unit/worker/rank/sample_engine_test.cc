#include "worker/rank/sample_engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/unit/worker/rank/engine_fixture.h"

namespace diffmoe {
namespace {

using Names = std::vector<std::string>;

TEST(SampleEngineTest, TellsStartProgressImagesAndReceiptInOrder) {
  EngineRun run(0.1, 0, EngineRun::Width(8));
  run.engine.Add(FakeWork("r", 2, 3));
  run.engine.Add(FakeWork("r", 2, 3));  // sent again after a lost stream
  run.Finish();
  const auto& all = run.link.updates["r"];
  ASSERT_GE(all.size(), 4u);
  EXPECT_TRUE(std::holds_alternative<SampleStarted>(all.front()));
  EXPECT_TRUE(std::holds_alternative<SampleFinished>(all.back()));
  const auto progress = run.Updates<SampleProgressUpdate>("r");
  ASSERT_EQ(progress.size(), 3u);
  EXPECT_EQ(progress[0].step, 1);
  EXPECT_EQ(progress[0].steps, 3);
  EXPECT_EQ(progress[2].step, 3);
  EXPECT_EQ(progress[2].images_done, 2);
  EXPECT_EQ(run.Updates<EncodedImage>("r").size(), 2u);
  const SampleFinished finished = run.Updates<SampleFinished>("r").at(0);
  EXPECT_EQ(finished.network_calls, 6);
  EXPECT_EQ(finished.capacity, (std::vector<double>{1, 0.5}));
  ASSERT_EQ(finished.step_capacity.size(), 3u);
  EXPECT_EQ(finished.step_capacity[2], (std::vector<float>{1, 0.5f}));
  EXPECT_DOUBLE_EQ(finished.zero_expert_tokens, 0.25);
  EXPECT_NEAR(finished.seconds, 0.3, 1e-6);
  EXPECT_EQ(finished.thresholds_hash, "thresholds");
  EXPECT_EQ(finished.weights_hash, "weights");
  ASSERT_EQ(finished.image_hashes.size(), 2u);
  EXPECT_EQ(finished.image_hashes[0].size(), 32u);
  EXPECT_EQ(run.executor.loads, 1);
}

TEST(SampleEngineTest, ARequestJoinsAtTheNextStep) {
  EngineRun run(0.1, 0, EngineRun::Width(8));
  run.engine.Add(FakeWork("a", 2, 10));
  run.engine.Step();
  run.engine.Add(FakeWork("b", 1, 10));
  run.engine.Step();
  EXPECT_EQ(run.executor.calls[0], (Names{"a/0", "a/1"}));
  EXPECT_EQ(run.executor.calls[1].size(), 3u);
  EXPECT_TRUE(std::ranges::count(run.executor.calls[1], "b/0"));
}

TEST(SampleEngineTest, WithRoomTheFirstStepComesWithinOneStep) {
  EngineRun run(0.05, 0.01, EngineRun::Width(16));
  run.engine.Add(FakeWork("long", 2, 200));
  for (int i = 0; i < 50; ++i) {
    run.engine.Step();
    const std::string id = absl::StrCat("r", i);
    const absl::Time arrival = run.executor.now;
    run.engine.Add(FakeWork(id, 1, 1));
    run.engine.Step();
    EXPECT_TRUE(run.Finished(id));
    EXPECT_LE(run.executor.now - arrival, run.executor.CallTime(6));
  }
}

TEST(SampleEngineTest, UnguidedImagesTakeHalfTheRows) {
  EngineRun run(0.1, 0, EngineRun::Width(4));
  SampleWork plain = FakeWork("plain", 8, 1);
  plain.guidance = 1;
  run.engine.Add(plain);
  run.engine.Step();
  EXPECT_EQ(run.executor.calls[0].size(), 4u);
}

TEST(SampleEngineTest, ImagesComeInAscendingOrderThoughSomeAreFaster) {
  EngineRun run(0.1, 0, EngineRun::Width(8));
  run.executor.steps_of = [](const SampleWork&, int index) { return 1 + (index * 7) % 10; };
  run.engine.Add(FakeWork("r", 20, 10));
  run.Finish();
  const auto images = run.Updates<EncodedImage>("r");
  ASSERT_EQ(images.size(), 20u);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(images[static_cast<size_t>(i)].image.index, i);
    EXPECT_EQ(images[static_cast<size_t>(i)].image.pixels[0], 1 + (i * 7) % 10);
  }
}

TEST(SampleEngineTest, OneSlowImageDoesNotMakeTheRestPileUp) {
  SampleEngineOptions options = EngineRun::Width(8);
  options.max_images_ahead = 10;
  EngineRun run(0.1, 0, options);
  run.executor.steps_of = [](const SampleWork&, int index) { return index == 0 ? 100 : 1; };
  run.engine.Add(FakeWork("r", 50, 1));
  for (int i = 0; i < 99; ++i) run.engine.Step();
  EXPECT_TRUE(run.Updates<EncodedImage>("r").empty());
  EXPECT_EQ(run.Updates<SampleProgressUpdate>("r").back().images_done, 9);
  run.Finish();
  EXPECT_EQ(run.Updates<EncodedImage>("r").size(), 50u);
}

TEST(SampleEngineTest, PreviewsComeEverySoManySteps) {
  EngineRun run(0.1, 0, EngineRun::Width(8));
  SampleWork work = FakeWork("r", 2, 10);
  work.preview_every = 3;
  run.engine.Add(work);
  run.Finish();
  const auto previews = run.Updates<SamplePreview>("r");
  ASSERT_EQ(previews.size(), 6u);  // steps 3, 6, 9 of two images
  EXPECT_EQ(previews[0].step, 3);
  EXPECT_EQ(previews[0].steps, 10);
  EXPECT_EQ(previews[1].image.index, 1);
  EXPECT_EQ(previews[1].image.label, 3);
  EXPECT_EQ(previews[5].step, 9);
}

TEST(SampleEngineTest, PngWhenAskedFor) {
  EngineRun run(0.1, 0, EngineRun::Width(8));
  SampleWork work = FakeWork("png", 1, 1);
  work.encoding = ImageEncoding::kPng;
  run.engine.Add(work);
  run.engine.Add(FakeWork("raw", 1, 1));
  run.Finish();
  const EncodedImage image = run.Updates<EncodedImage>("png").at(0);
  EXPECT_EQ(image.encoding, ImageEncoding::kPng);
  EXPECT_TRUE(absl::StartsWith(image.image.pixels, "\x89PNG"));
  // The hash is that of the pixels.
  EXPECT_EQ(run.Updates<SampleFinished>("png").at(0).image_hashes,
            run.Updates<SampleFinished>("raw").at(0).image_hashes);
}

TEST(SampleEngineTest, ProgressIsBoundedAndTheLastAlwaysComes) {
  EngineRun run(0.001, 0, EngineRun::Width(2));
  run.engine.Add(FakeWork("r", 1, 999));
  run.Finish();
  const auto progress = run.Updates<SampleProgressUpdate>("r");
  EXPECT_LE(progress.size(), 52u);
  EXPECT_GE(progress.size(), 40u);
  EXPECT_EQ(progress.back().step, 999);
}

TEST(SampleEngineTest, LoadIsSaidWhenItChangesAtMostTenTimesASecondAndOnceWhenIdle) {
  EngineRun run(0.001, 0, EngineRun::Width(2));
  run.engine.Step();
  EXPECT_TRUE(run.link.updates[""].empty());
  run.engine.Add(FakeWork("r", 1, 1000));
  run.Finish();
  for (int i = 0; i < 10; ++i) run.engine.Step();
  const auto loads = run.Updates<SamplerLoadUpdate>("");
  EXPECT_GE(loads.size(), 8u);
  EXPECT_LE(loads.size(), 12u);
  EXPECT_EQ(loads[0].requests, 1);
  EXPECT_EQ(loads[0].width_rows, 2);
  EXPECT_GT(loads[0].rows_waiting, loads[5].rows_waiting);
  EXPECT_EQ(loads.back().requests, 0);
  EXPECT_EQ(loads.back().rows_waiting, 0);
  EXPECT_NEAR(loads.back().step_row_seconds, 0.0005, 1e-6);
}

TEST(SampleEngineTest, ImagesArePreparedWhenTheyArePicked) {
  EngineRun run(0.1, 0, EngineRun::Width(8));
  run.engine.Add(FakeWork("large", 1024, 5));
  for (int i = 0; i < 12; ++i) run.engine.Step();
  EXPECT_LE(run.executor.most_alive, 5);
  run.Finish();
  EXPECT_EQ(run.executor.images_alive, 0);
  EXPECT_EQ(run.Updates<EncodedImage>("large").size(), 1024u);
}

TEST(SampleEngineTest, AnErrorOfOneImageEndsItsRequestOnly) {
  EngineRun run(0.1, 0, EngineRun::Width(8));
  run.executor.image_status["bad/1"] = absl::InternalError("dopri5 found no end");
  run.executor.prepare_fails.insert("worse/0");
  run.engine.Add(FakeWork("bad", 2, 5));
  run.engine.Add(FakeWork("worse", 1, 5));
  run.engine.Add(FakeWork("good", 2, 5));
  run.Finish();
  EXPECT_EQ(run.Error("bad").message(), "dopri5 found no end");
  EXPECT_EQ(run.Error("worse").message(), "this image can't be prepared");
  EXPECT_TRUE(run.Finished("good"));
  EXPECT_FALSE(run.Finished("bad"));
  EXPECT_EQ(run.executor.images_alive, 0);
}

TEST(SampleEngineTest, ACheckpointThatCannotBeLoadedEndsItsRequest) {
  EngineRun run(0.1, 0, EngineRun::Width(8));
  run.executor.load_status = absl::FailedPreconditionError("no EMA weights");
  run.engine.Add(FakeWork("r", 2, 5));
  run.Finish();
  EXPECT_TRUE(absl::IsFailedPrecondition(run.Error("r")));
  EXPECT_TRUE(run.executor.calls.empty());
}

TEST(SampleEngineTest, ACallThatThrowsEndsItsRequestsAndTheEngineGoesOn) {
  EngineRun run(0.1, 0, EngineRun::Width(8));
  run.executor.call_throws = true;
  run.engine.Add(FakeWork("r", 2, 5));
  run.engine.Step();
  EXPECT_EQ(run.Error("r").message(), "no call today");
  run.executor.call_throws = false;
  run.engine.Add(FakeWork("s", 2, 5));
  run.Finish();
  EXPECT_TRUE(run.Finished("s"));
}

TEST(SampleEngineTest, WhoCannotBeReachedIsDropped) {
  EngineRun run(0.1, 0, EngineRun::Width(8));
  run.engine.Add(FakeWork("gone", 2, 50));
  run.engine.Add(FakeWork("here", 2, 5));
  run.engine.Step();
  run.link.deaf.insert("gone");
  run.Finish(10);
  EXPECT_TRUE(run.Finished("here"));
  EXPECT_EQ(run.executor.images_alive, 0);
}

TEST(SampleEngineTest, CancelFreesThePlaceAtOnce) {
  EngineRun run(0.1, 0, EngineRun::Width(4));
  run.engine.Add(FakeWork("a", 2, 50));
  run.engine.Add(FakeWork("b", 2, 60));
  run.engine.Step();
  const size_t said = run.link.updates["a"].size();
  run.engine.Cancel("a");
  run.engine.Cancel("a");
  run.engine.Cancel("unknown");
  run.engine.Step();
  EXPECT_EQ(run.executor.calls[1], (Names{"b/0", "b/1"}));
  EXPECT_EQ(run.link.updates["a"].size(), said);
  EXPECT_EQ(run.executor.images_alive, 2);
}

TEST(SampleEngineTest, TheQueueIsBounded) {
  SampleEngineOptions options = EngineRun::Width(4);
  options.max_requests = 3;
  EngineRun run(0.1, 0, options);
  for (const char* id : {"a", "b", "c", "d"}) run.engine.Add(FakeWork(id, 1, 2));
  EXPECT_TRUE(absl::IsResourceExhausted(run.Error("d")));
  run.Finish();
  for (const char* id : {"a", "b", "c"}) EXPECT_TRUE(run.Finished(id));
}

TEST(SampleEngineTest, StopEndsEverythingWithItsStatus) {
  EngineRun run(0.1, 0, EngineRun::Width(4));
  run.engine.Add(FakeWork("a", 2, 5));
  run.engine.Add(FakeWork("b", 2, 5));
  run.engine.Step();
  run.engine.Stop(absl::UnavailableError("the sampler is stopping"));
  EXPECT_FALSE(run.engine.busy());
  EXPECT_TRUE(absl::IsUnavailable(run.Error("a")));
  EXPECT_TRUE(absl::IsUnavailable(run.Error("b")));
  EXPECT_EQ(run.executor.images_alive, 0);
}

TEST(SampleEngineTest, BadRequestsAreRefusedByField) {
  const auto refused = [](const std::string& field, const std::function<void(SampleWork&)>& spoil) {
    EngineRun run(0.1, 0);
    SampleWork work = FakeWork("r", 1, 4);
    spoil(work);
    run.engine.Add(work);
    EXPECT_FALSE(run.engine.busy()) << field;
    EXPECT_TRUE(absl::IsInvalidArgument(run.Error("r"))) << field;
    EXPECT_TRUE(absl::StartsWith(run.Error("r").message(), absl::StrCat(field, ": expected")))
        << run.Error("r");
  };
  refused("sampler", [](SampleWork& work) { work.sampler = "eulre"; });
  refused("sampler", [](SampleWork& work) { work.sampler = "ddim"; });
  refused("steps", [](SampleWork& work) { work.steps = 0; });
  refused("classes", [](SampleWork& work) { work.classes = {}; });
  refused("classes", [](SampleWork& work) { work.classes = {10}; });
  refused("negative_class", [](SampleWork& work) { work.negative_class = -1; });
  refused("guidance", [](SampleWork& work) { work.guidance = std::nan(""); });
  refused("guidance_interval", [](SampleWork& work) { work.guidance_begin = 2; });
  refused("image_size", [](SampleWork& work) { work.image_size = 31; });
  refused("preview_every", [](SampleWork& work) { work.preview_every = -1; });
}

TEST(SampleEngineDeadline, APastDeadlineTakesNoStep) {
  EngineRun run(0.1, 0, EngineRun::Width(4));
  SampleWork late = FakeWork("late", 1, 5);
  late.deadline = run.executor.now;
  run.engine.Add(late);
  run.Finish();
  EXPECT_TRUE(absl::IsDeadlineExceeded(run.Error("late")));
  EXPECT_TRUE(absl::StrContains(run.Error("late").message(), "after 0 of 5")) << run.Error("late");
  EXPECT_TRUE(run.executor.calls.empty());
}

TEST(SampleEngineDeadline, EndsBetweenStepsAndSaysHowFarItCame) {
  EngineRun run(0.1, 0, EngineRun::Width(4));
  SampleWork late = FakeWork("late", 1, 50);
  late.sampler = "dopri5";  // its steps are unknown, so it isn't given up early
  late.deadline = run.executor.now + absl::Milliseconds(250);
  run.engine.Add(late);
  run.Finish();
  EXPECT_TRUE(absl::IsDeadlineExceeded(run.Error("late")));
  EXPECT_TRUE(absl::StrContains(run.Error("late").message(), "passed after 3 of"))
      << run.Error("late");
  EXPECT_EQ(run.executor.calls.size(), 3u);
}

TEST(SampleEngineDeadline, WhatCannotBeInTimeIsGivenUpWithoutSteps) {
  EngineRun run(0.1, 0, EngineRun::Width(4));
  run.engine.Add(FakeWork("before", 1, 5));
  run.Finish();
  const size_t calls = run.executor.calls.size();
  SampleWork hopeless = FakeWork("hopeless", 1, 50), fine = FakeWork("fine", 1, 50);
  hopeless.deadline = run.executor.now + absl::Seconds(4);
  fine.deadline = run.executor.now + absl::Seconds(5.5);
  run.engine.Add(hopeless);
  run.Finish();
  EXPECT_TRUE(absl::IsDeadlineExceeded(run.Error("hopeless")));
  EXPECT_EQ(run.executor.calls.size(), calls);
  run.engine.Add(fine);
  run.Finish();
  EXPECT_TRUE(run.Finished("fine"));
}

TEST(SampleEngineDeadline, NoSuccessAfterwards) {
  EngineRun run(0.1, 0, EngineRun::Width(4));
  SampleWork work = FakeWork("r", 1, 1);
  work.deadline = run.executor.now + absl::Milliseconds(50);
  run.engine.Add(work);
  run.Finish();
  EXPECT_TRUE(absl::IsDeadlineExceeded(run.Error("r")));
  EXPECT_TRUE(run.Updates<EncodedImage>("r").empty());
}

TEST(SampleEngineDeadline, LoadingACheckpointMayUseItUp) {
  EngineRun run(0.1, 0, EngineRun::Width(4));
  run.executor.load_time = absl::Seconds(2);
  SampleWork work = FakeWork("r", 1, 1);
  work.deadline = run.executor.now + absl::Seconds(1);
  run.engine.Add(work);
  run.Finish();
  EXPECT_TRUE(absl::IsDeadlineExceeded(run.Error("r")));
  EXPECT_TRUE(run.executor.calls.empty());
}

}  // namespace
}  // namespace diffmoe
