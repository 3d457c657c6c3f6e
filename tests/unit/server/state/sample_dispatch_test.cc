#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "tests/unit/server/state/sampling_scene.h"

namespace diffmoe::server {
namespace {

v1::SampleResponse Part(int index, int64_t offset, const std::string& pixels, int64_t total) {
  v1::SampleResponse response = Image(index);
  response.mutable_image()->set_offset(offset);
  response.mutable_image()->set_pixels(pixels);
  response.mutable_image()->set_total_bytes(total);
  return response;
}

std::string Pixels(const ClusterHarness& cluster, uint64_t call) {
  std::string pixels;
  for (const v1::SampleResponse& response : cluster.responses(call)) {
    pixels += response.image().pixels();
  }
  return pixels;
}

// Where a call is.
std::string SamplerOf(const ClusterHarness& cluster, uint64_t call) {
  return cluster.state.samples.at(call).sampler_id;
}

int64_t BacklogOf(const ClusterHarness& cluster, const std::string& id) {
  const SamplerEntry& sampler = cluster.state.samplers.at(id);
  return sampler.taken_rows + sampler.given_rows;
}

TEST(DispatchTest, ASamplerGetsManyRequestsAtOnce) {
  Scene scene(1, StateOptions());
  std::vector<uint64_t> calls;
  for (int i = 0; i < 10; ++i) calls.push_back(scene.cluster.Sample(scene.running.id));
  scene.StartSampler();
  const auto tasks = scene.cluster.tasks(scene.running.session);
  ASSERT_EQ(tasks.size(), 10u);
  // They end in any order.
  for (const int i : {3, 9, 0, 5, 1, 2, 4, 6, 7, 8}) {
    scene.cluster.FinishSample(tasks[static_cast<size_t>(i)]);
    EXPECT_TRUE(scene.cluster.sample_ends.at(calls[static_cast<size_t>(i)]).ok());
  }
  EXPECT_TRUE(scene.cluster.state.samplers.begin()->second.calls.empty());
  EXPECT_TRUE(scene.cluster.state.samples_by_task.empty());
  EXPECT_TRUE(scene.cluster.state.sample_deadlines.empty());
}

TEST(DispatchTest, OneWithoutAMeasurementGetsAFew) {
  StateOptions options;
  options.max_unmeasured_requests = 3;
  options.max_sampler_requests = 5;
  Scene scene(1, options);
  for (int i = 0; i < 8; ++i) scene.cluster.Sample(scene.running.id);
  const auto start = scene.StartSampler();
  EXPECT_EQ(scene.cluster.tasks(scene.running.session).size(), 3u);
  scene.cluster.Load(start.group(), 0, 1e-6, 300, 3);
  EXPECT_EQ(scene.cluster.tasks(scene.running.session).size(), 5u);
  EXPECT_EQ(scene.cluster.state.sample_queue.size(), 3u);
  EXPECT_EQ(scene.cluster.state.queued_rows, 300);
}

TEST(DispatchTest, BacklogIsBoundedByWhatTheSamplerSays) {
  Scene scene(2, StateOptions());  // another one starts
  const auto task_count = [&] { return scene.cluster.tasks(scene.running.session).size(); };
  scene.cluster.Sample(scene.running.id);
  const auto start = scene.StartSampler();
  scene.cluster.Load(start.group(), 0, 0.01, 100, 1);  // 1 s a request
  for (int i = 0; i < 5; ++i) scene.cluster.Sample(scene.running.id);
  EXPECT_EQ(task_count(), 2u) << "2 s of work";
  scene.cluster.Load(start.group(), 0, 0.01, 150, 2);
  EXPECT_EQ(task_count(), 3u);
  // It has not seen the third one yet: 99 rows and the 100 of the third one.
  scene.cluster.Load(start.group(), 0, 0.01, 99, 2);
  EXPECT_EQ(task_count(), 4u);
  scene.cluster.Load(start.group(), 0, 0.001, 200, 4);
  EXPECT_EQ(task_count(), 6u) << "it is faster than it thought";
}

TEST(DispatchTest, ALoadWritesNothing) {
  Scene scene(1, StateOptions());
  scene.cluster.Sample(scene.running.id);
  const auto start = scene.StartSampler();
  const auto records = scene.cluster.records;
  scene.cluster.Clear();
  scene.cluster.Load(start.group(), 0.01, 0.01, 100, 1);
  EXPECT_EQ(scene.cluster.records, records);
  ASSERT_EQ(scene.cluster.effects.size(), 1u);
  EXPECT_TRUE(std::holds_alternative<ReadSampler>(scene.cluster.effects[0]));
  EXPECT_FALSE(ScheduleDue(scene.cluster.state));
}

TEST(DispatchTest, UsersTakeTurns) {
  StateOptions options;
  options.max_sampler_requests = 1;
  Scene scene(1, options);
  const auto submit = [&](const std::string& user) {
    SubmitSample event{0, scene.running.id, {}, {}, 0};
    event.request.set_user(user);
    return scene.cluster.Submit(event);
  };
  std::vector<uint64_t> calls;
  for (const char* user : {"a", "a", "a", "b"}) calls.push_back(submit(user));
  scene.StartSampler();
  std::vector<uint64_t> ended;
  for (int i = 0; i < 4; ++i) {
    scene.cluster.FinishSample(scene.cluster.tasks(scene.running.session).back());
    for (const uint64_t call : calls) {
      if (scene.cluster.sample_ends.contains(call) &&
          std::find(ended.begin(), ended.end(), call) == ended.end()) {
        ended.push_back(call);
      }
    }
  }
  EXPECT_EQ(ended, (std::vector<uint64_t>{calls[0], calls[3], calls[1], calls[2]}));
}

TEST(DispatchTest, AnotherSamplerStartsWhenAllAreFull) {
  Scene scene(2, StateOptions());
  scene.cluster.Sample(scene.running.id);
  const auto first = scene.StartSampler();
  scene.cluster.Load(first.group(), 0, 0.01, 200, 1);
  EXPECT_EQ(scene.cluster.starts(scene.running.session).size(), 1u);
  const uint64_t call = scene.cluster.Sample(scene.running.id);
  EXPECT_EQ(scene.cluster.starts(scene.running.session).size(), 2u);
  const auto second = scene.StartSampler();
  EXPECT_EQ(SamplerOf(scene.cluster, call), second.group().id());
}

TEST(DispatchTest, TheLoadedOneIsPreferredUnlessOthersHaveMuchLessToDo) {
  Scene scene(2, StateOptions());
  scene.cluster.Sample(scene.running.id, {}, 4);
  const auto first = scene.StartSampler();
  scene.cluster.Load(first.group(), 0, 0.01, 400, 1);
  const uint64_t other = scene.cluster.Sample(scene.running.id);
  const auto second = scene.StartSampler();
  ASSERT_EQ(SamplerOf(scene.cluster, other), second.group().id());
  ASSERT_TRUE(scene.cluster.CommitCheckpoint(scene.running.id, 1, 20).ok());
  // Step 20: neither has it, the second has less to do.
  scene.cluster.Load(second.group(), 0, 0.01, 10, 1);
  const uint64_t newest = scene.cluster.Sample(scene.running.id);
  EXPECT_EQ(SamplerOf(scene.cluster, newest), second.group().id());
  // Now the second has it; the first has 0.5 s less to do, then 1.5 s less.
  scene.cluster.Load(first.group(), 0, 0.01, 10, 1);
  scene.cluster.Load(second.group(), 0, 0.01, 60, 2);
  const uint64_t near = scene.cluster.Sample(scene.running.id);
  EXPECT_EQ(SamplerOf(scene.cluster, near), second.group().id());
  scene.cluster.Load(second.group(), 0, 0.01, 160, 3);
  const uint64_t far = scene.cluster.Sample(scene.running.id);
  EXPECT_EQ(SamplerOf(scene.cluster, far), first.group().id());
}

TEST(DispatchTest, ANewerCheckpointDisturbsNobody) {
  Scene scene(1, StateOptions());
  const uint64_t old = scene.cluster.Sample(scene.running.id);
  scene.StartSampler();
  for (const int64_t step : {20, 30, 40}) {
    ASSERT_TRUE(scene.cluster.CommitCheckpoint(scene.running.id, 1, step).ok());
  }
  EXPECT_TRUE(scene.cluster.state.jobs.at(scene.running.id).checkpoints.contains(10)) << "in use";
  const uint64_t newest = scene.cluster.Sample(scene.running.id);
  const auto tasks = scene.cluster.tasks(scene.running.session);
  ASSERT_EQ(tasks.size(), 2u);
  EXPECT_EQ(tasks[1].step(), 40);
  EXPECT_EQ(scene.cluster.group_of(tasks[0].request_id()).id(),
            scene.cluster.group_of(tasks[1].request_id()).id());
  scene.cluster.FinishSample(tasks[0]);
  scene.cluster.FinishSample(tasks[1]);
  EXPECT_TRUE(scene.cluster.sample_ends.at(old).ok());
  EXPECT_TRUE(scene.cluster.sample_ends.at(newest).ok());
  EXPECT_FALSE(scene.cluster.state.jobs.at(scene.running.id).checkpoints.contains(10));
}

TEST(DispatchTest, WithoutAnotherSamplerItIsGivenAll) {
  Scene scene(1, StateOptions());
  scene.cluster.Sample(scene.running.id, {}, 100);
  const auto start = scene.StartSampler();
  scene.cluster.Load(start.group(), 0, 0.01, 10'000, 1);
  scene.cluster.Sample(scene.running.id);
  EXPECT_EQ(scene.cluster.tasks(scene.running.session).size(), 2u);
  EXPECT_TRUE(scene.cluster.state.sample_queue.empty());
}

TEST(DispatchTest, ANewSamplerTakesWhatOthersHaveNotBegun) {
  Scene scene(1, StateOptions());
  const uint64_t begun = scene.cluster.Sample(scene.running.id, {}, 10);
  const auto first = scene.StartSampler();
  scene.cluster.Update(scene.cluster.tasks(scene.running.session)[0], Started());
  scene.cluster.Load(first.group(), 0, 0.01, 1000, 1);
  std::vector<uint64_t> calls;
  for (int i = 0; i < 3; ++i) calls.push_back(scene.cluster.Sample(scene.running.id));
  scene.cluster.Load(first.group(), 0, 0.01, 1200, 3);  // it has seen two of them
  ASSERT_EQ(scene.cluster.tasks(scene.running.session).size(), 4u);
  const uint64_t other = scene.cluster.Connect("w2", 1);
  scene.cluster.Sample(scene.running.id);
  ASSERT_EQ(scene.cluster.starts(other).size(), 1u);
  const auto second = scene.cluster.starts(other)[0].group();
  scene.cluster.Started(other, second.id(), second.epoch(), 0);
  EXPECT_EQ(SamplerOf(scene.cluster, begun), first.group().id());
  for (const uint64_t call : calls) EXPECT_EQ(SamplerOf(scene.cluster, call), second.id());
  EXPECT_EQ(scene.cluster.cancelled_tasks(scene.running.session), 3);
  EXPECT_EQ(scene.cluster.state.samples.at(calls[0]).losses, 0);
  EXPECT_EQ(BacklogOf(scene.cluster, first.group().id()), 1000);
}

TEST(DispatchTest, WaitIsEstimated) {
  Scene scene(2, StateOptions());  // another one starts
  scene.cluster.Sample(scene.running.id, {}, 3);
  const auto start = scene.StartSampler();
  scene.cluster.Load(start.group(), 0, 0.01, 300, 1);
  const uint64_t first = scene.cluster.Sample(scene.running.id, {}, 2);
  const uint64_t second = scene.cluster.Sample(scene.running.id);
  EXPECT_DOUBLE_EQ(scene.cluster.responses(first).back().queued().estimated_wait_seconds(), 3);
  EXPECT_DOUBLE_EQ(scene.cluster.responses(second).back().queued().estimated_wait_seconds(), 5);
  EXPECT_EQ(scene.cluster.responses(second).back().queued().position(), 1);
}

TEST(DispatchTest, FarPositionsAreToldOnceASecond) {
  StateOptions options;
  options.max_sampler_requests = 1;
  Scene scene(1, options);
  std::vector<uint64_t> calls;
  for (int i = 0; i < 40; ++i) calls.push_back(scene.cluster.Sample(scene.running.id));
  scene.StartSampler();
  scene.cluster.Clear();
  scene.cluster.Post(CancelSample{calls[1]});
  scene.cluster.Post(CancelSample{calls[2]});
  EXPECT_EQ(scene.cluster.responses(calls[5]).size(), 2u);
  EXPECT_LE(scene.cluster.responses(calls[39]).size(), 1u);
  scene.cluster.Advance(1000);
  scene.cluster.Post(CancelSample{calls[3]});
  EXPECT_EQ(scene.cluster.responses(calls[39]).back().queued().position(), 35);
}

TEST(RetryTest, LargeImagesGoOnWhereTheyStopped) {
  Scene scene(1, StateOptions());
  const uint64_t call = scene.cluster.Sample(scene.running.id, {}, 2);
  const auto start = scene.StartSampler();
  const auto task = scene.cluster.tasks(scene.running.session).back();
  scene.cluster.Update(task, Part(0, 0, "abcd", 10));
  scene.cluster.Update(task, Part(0, 4, "efgh", 10));
  scene.KillSampler(start);
  scene.StartSampler();
  const auto again = scene.cluster.tasks(scene.running.session).back();
  scene.cluster.Update(again, Part(0, 0, "abcde", 10));
  scene.cluster.Update(again, Part(0, 5, "fghij", 10));
  scene.cluster.Update(again, Part(1, 0, "xyz", 3));
  scene.cluster.Update(again, Finished());
  EXPECT_EQ(Pixels(scene.cluster, call), "abcdefghijxyz");
  EXPECT_TRUE(scene.cluster.sample_ends.at(call).ok());
  int64_t offset = 0;
  for (const v1::SampleResponse& response : scene.cluster.responses(call)) {
    if (!response.has_image() || response.image().index() != 0) continue;
    EXPECT_EQ(response.image().offset(), offset);
    offset += static_cast<int64_t>(response.image().pixels().size());
  }
}

TEST(RetryTest, MissingPartsAndEarlyEndsAreALoss) {
  Scene scene(1, StateOptions());
  const uint64_t gap = scene.cluster.Sample(scene.running.id, {}, 2);
  const uint64_t early = scene.cluster.Sample(scene.running.id, {}, 2);
  scene.StartSampler();
  const auto tasks = scene.cluster.tasks(scene.running.session);
  scene.cluster.Update(tasks[0], Part(0, 0, "ab", 4));
  scene.cluster.Update(tasks[0], Part(1, 0, "xy", 2));
  scene.cluster.Update(tasks[1], Image(0));
  scene.cluster.Update(tasks[1], Finished());
  EXPECT_EQ(scene.cluster.cancelled_tasks(scene.running.session), 2);
  EXPECT_EQ(Pixels(scene.cluster, gap), "ab");
  ASSERT_EQ(scene.cluster.tasks(scene.running.session).size(), 4u) << "both are run again";
  EXPECT_EQ(scene.cluster.state.samples.at(gap).losses, 1);
  EXPECT_EQ(scene.cluster.state.samples.at(early).losses, 1);
}

TEST(RetryTest, ALostSamplerCostsEachOfItsRequestsOneLoss) {
  Scene scene(1, StateOptions());
  std::vector<uint64_t> calls;
  for (int i = 0; i < 5; ++i) calls.push_back(scene.cluster.Sample(scene.running.id));
  scene.KillSampler(scene.StartSampler());
  for (const uint64_t call : calls) EXPECT_EQ(scene.cluster.state.samples.at(call).losses, 1);
  scene.StartSampler();
  EXPECT_EQ(scene.cluster.tasks(scene.running.session).size(), 10u);
}

TEST(RetryTest, ASamplerThatEndsGivesItsRequestsToOthers) {
  StateOptions options;
  options.max_sampler_requests = 2;
  Scene scene(1, options);
  const uint64_t other = scene.cluster.Connect("w2", 1);
  std::vector<uint64_t> calls;
  for (int i = 0; i < 2; ++i) calls.push_back(scene.cluster.Sample(scene.running.id));
  const auto start = scene.StartSampler();
  const auto tasks = scene.cluster.tasks(scene.running.session);
  for (const auto& task : tasks) scene.cluster.Update(task, Started());
  // Its worker got SIGTERM.
  for (const auto& task : tasks) {
    scene.cluster.SampleFailed(task, absl::StatusCode::kUnavailable);
  }
  scene.cluster.Stopped(scene.running.session, start.group().id(), start.group().epoch(), 0);
  ASSERT_EQ(scene.cluster.starts(other).size(), 1u);
  const auto second = scene.cluster.starts(other)[0];
  scene.cluster.Started(other, second.group().id(), second.group().epoch(), 0);
  EXPECT_EQ(scene.cluster.tasks(other).size(), 2u);
  EXPECT_EQ(scene.cluster.tasks(scene.running.session).size(), 2u) << "none goes back";
  EXPECT_TRUE(scene.cluster.sample_ends.empty());
  // It doesn't start another one either.
  scene.KillSampler(start);
  for (int i = 0; i < 4; ++i) scene.cluster.Sample(scene.running.id);
  EXPECT_EQ(scene.cluster.starts(scene.running.session).size(), 1u);
  // Until it is there again.
  scene.cluster.Connect("w1", 2, {Running(scene.running.id, 1, 0, 0)});
  EXPECT_EQ(scene.cluster.state.samplers.size(), 2u);
}

TEST(RetryTest, OneThatBrokeAStreamIsAskedAgainLater) {
  Scene scene(1, StateOptions());
  const uint64_t call = scene.cluster.Sample(scene.running.id);
  scene.StartSampler();
  const auto task = scene.cluster.tasks(scene.running.session)[0];
  scene.cluster.Update(task, Started());
  scene.cluster.SampleFailed(task, absl::StatusCode::kUnavailable);
  EXPECT_EQ(scene.cluster.tasks(scene.running.session).size(), 1u);
  scene.cluster.Advance(2000);
  EXPECT_EQ(scene.cluster.tasks(scene.running.session).size(), 2u);
  EXPECT_EQ(scene.cluster.state.samples.at(call).losses, 1);
}

TEST(RetryTest, ADeadlineCountsWhileItIsQueuedAgain) {
  Scene scene(1, StateOptions());
  const uint64_t call = scene.cluster.Sample(scene.running.id, {}, 1, 3000);
  scene.cluster.Advance(1000);
  scene.KillSampler(scene.StartSampler());
  scene.cluster.Advance(2000);
  EXPECT_EQ(scene.cluster.sample_ends.at(call).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(scene.cluster.state.queued_rows, 0);
}

TEST(RetryTest, WordsOfALostSamplerAreIgnored) {
  Scene scene(1, StateOptions());
  const uint64_t call = scene.cluster.Sample(scene.running.id);
  const auto start = scene.StartSampler();
  const auto old = scene.cluster.tasks(scene.running.session)[0];
  scene.KillSampler(start);
  scene.StartSampler();
  scene.cluster.FinishSample(old);
  EXPECT_FALSE(scene.cluster.sample_ends.contains(call));
}

TEST(RetryTest, ACancelThatWasLostIsSentAgain) {
  Scene scene(1, StateOptions());
  const uint64_t call = scene.cluster.Sample(scene.running.id);
  scene.StartSampler();
  const auto task = scene.cluster.tasks(scene.running.session)[0];
  scene.cluster.Post(CancelSample{call});
  scene.cluster.Clear();
  v1::SampleResponse progress;
  progress.mutable_progress()->set_step(3);
  scene.cluster.Update(task, progress);
  EXPECT_EQ(scene.cluster.cancelled_tasks(scene.running.session), 1);
}

// Random cancels, deaths and ends: nothing is left, every call ends once.
TEST(DispatchTest, RandomLifeLeavesNothingBehind) {
  constexpr uint64_t kSeed = 20260101;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  Scene scene(2, StateOptions());
  ClusterHarness& cluster = scene.cluster;
  std::vector<uint64_t> calls;
  for (int i = 0; i < 10'000; ++i) {
    const uint64_t pick = random() % 10;
    if (pick < 5) {
      calls.push_back(cluster.Sample(scene.running.id, {}, 1 + static_cast<int>(random() % 3),
                                     random() % 4 == 0 ? 500 : 0));
    } else if (pick < 7 && !calls.empty()) {
      cluster.Post(CancelSample{calls[random() % calls.size()]});
    } else if (pick < 9) {
      cluster.Post(WorkerHeartbeat{scene.running.session});
      cluster.Advance(static_cast<int64_t>(random() % 100));
      for (const auto& start : cluster.starts(scene.running.session)) {
        cluster.Started(scene.running.session, start.group().id(), start.group().epoch(), 0);
      }
      const auto tasks = cluster.tasks(scene.running.session);
      cluster.Clear();
      for (const auto& task : tasks) {
        if (random() % 8 != 0) cluster.FinishSample(task);
      }
    } else if (!cluster.state.samplers.empty() && random() % 20 == 0) {
      const SamplerEntry sampler = cluster.state.samplers.begin()->second;
      cluster.Killed(scene.running.session, sampler.id, sampler.epoch, 0, SIGKILL);
    }
  }
  for (const uint64_t call : calls) cluster.Post(CancelSample{call});
  for (const uint64_t call : calls) EXPECT_TRUE(cluster.sample_ends.contains(call)) << call;
  EXPECT_TRUE(cluster.state.samples.empty());
  EXPECT_TRUE(cluster.state.sample_queue.empty());
  EXPECT_EQ(cluster.state.queued_rows, 0);
  EXPECT_TRUE(cluster.state.samples_by_task.empty());
  EXPECT_TRUE(cluster.state.sample_deadlines.empty());
  for (const auto& [id, sampler] : cluster.state.samplers) {
    EXPECT_TRUE(sampler.calls.empty()) << id;
    EXPECT_EQ(sampler.given_rows, 0) << id;
    EXPECT_EQ(sampler.taken_rows, 0) << id;
  }
}

}  // namespace
}  // namespace diffmoe::server
