#include "core/metrics/metrics.h"

#include <gtest/gtest.h>

#include <atomic>
#include <iterator>
#include <limits>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/metrics/reference.h"
#include "diffmoe/v1/training_job.pb.h"
#include "diffmoe/v1/training_spec.pb.h"
#include "tests/support/http.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace diffmoe::metrics {
namespace {

v1::TrainingSpec SpecOf(int64_t global_batch) {
  v1::TrainingSpec spec;
  spec.mutable_train()->set_global_batch(global_batch);
  spec.mutable_checkpoint()->set_every_steps(50);
  spec.mutable_model()->set_capacity(1);
  return spec;
}

v1::Progress SomeProgress(int64_t step) {
  v1::Progress progress;
  progress.set_step(step);
  progress.set_total_steps(1000);
  progress.set_loss(0.25);
  progress.set_predictor_loss(0.5);
  progress.set_grad_norm(1.5);
  progress.set_learning_rate(1e-4);
  progress.set_images_per_second(117);
  progress.mutable_phases()->set_forward(0.125);
  v1::LayerStats& layer = *progress.add_layers();
  layer.set_block(1);
  layer.set_capacity(0.75);
  layer.set_predictor_accuracy(0.875);
  layer.set_zero_expert_tokens(0.0625);
  for (const float value : {0.25F, 0.5F, 0.75F}) layer.add_thresholds(value);
  for (const float value : {0.0F, 1.0F, 2.0F}) layer.add_expert_load(value);
  layer.set_gate_entropy(2.0);
  layer.set_exchange_bytes(4096);
  layer.set_exchange_calls(4);
  for (const int64_t rows : {10, 30}) layer.add_exchange_rows(rows);
  return progress;
}

// Every facade over one registry, with at least one value in every family.
struct Everything {
  explicit Everything(Registry& registry)
      : train(registry),
        cluster(registry),
        checkpoints(registry),
        samples(registry),
        rpc(registry),
        store(registry),
        worker(registry) {
    train.Update("fashion-1", SomeProgress(10), SpecOf(32));
    cluster.SetJobs({{"QUEUED", 2}, {"FAILED", 0}}, 2);
    cluster.SetLoopTime(1'700'000'000'500);
    cluster.CountRestart("signal");
    cluster.SetWorkers(1, 0);
    cluster.SetSlots(2, 1);
    checkpoints.CountReceived(1000);
    checkpoints.CountRead(500);
    checkpoints.SetPending(1);
    checkpoints.Committed("fashion-1", 500, 1'700'000'000'123, 0.3);
    checkpoints.GivenUp(absl::StatusCode::kResourceExhausted);
    samples.ObserveQueueWait(0.01);
    samples.ObserveStep(0.02);
    samples.CountImage();
    samples.CountSubmitted();
    samples.Ended(SampleOutcome::kOk, 1.5);
    samples.SetInWork(0, 0);
    rpc.Ended("TrainingJobService/SubmitJob", absl::StatusCode::kOk, 0.002);
    store.Commit(absl::StatusCode::kOk, 5, 0.0004);
    store.SetBytes(1000, 2000);
    store.SetDiskFree(5000);
    worker.SetSlots(1, 2);
    worker.SetDiskFree(6000);
    worker.CountRankStart(/*sampler=*/true);
    worker.CountRankExit(RankExitCause::kSignal);
    worker.CountBulkSent(10);
    worker.CountBulkReceived(20);
  }
  TrainMetrics train;
  ClusterMetrics cluster;
  CheckpointMetrics checkpoints;
  SampleMetrics samples;
  RpcMetrics rpc;
  StoreMetrics store;
  WorkerMetrics worker;
};

absl::StatusOr<test::RunResult> CheckWithPromtool(const std::string& text) {
  test::TempDir dir;
  test::WriteFile(dir.Sub("metrics.txt"), text);
  test::ProcessOptions options;
  // On PATH, or where setup unpacks it.
  options.argv = {
      "/bin/sh", "-c",
      "PATH=\"$PATH:$HOME/.cache/diffmoe/deps/prometheus/usr/bin\" promtool check metrics < " +
          dir.Sub("metrics.txt")};
  return test::RunProcess(options, absl::Seconds(30));
}

class MetricsTest : public ::testing::Test {
 protected:
  // The value of a series as text; empty when it isn't there.
  std::string Value(const std::string& series) const {
    for (const std::string& line :
         std::vector<std::string>(absl::StrSplit(registry_.Text(), '\n'))) {
      if (absl::StartsWith(line, series + " ")) return line.substr(series.size() + 1);
    }
    return "";
  }
  Registry registry_{"metrics-test", "1.2.3"};
};

TEST_F(MetricsTest, CataloguePageAndScrapeHoldTheSameFamilies) {
  const Everything everything(registry_);
  std::set<std::string> catalogue, page, scrape;
  for (const Definition* definition : kAll) catalogue.insert(definition->name);
  const std::string text = test::ReadFile(DIFFMOE_SOURCE_DIR "/docs/metrics.md");
  EXPECT_EQ(text, Reference()) << "run: build/release/bin/metrics_reference > docs/metrics.md";
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<std::string> cells = absl::StrSplit(line, '`');
    if (absl::StartsWith(line, "| `")) page.insert(cells[1]);
  }
  for (const absl::string_view line : absl::StrSplit(registry_.Text(), '\n')) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words[0] == "#" && words[1] == "TYPE") scrape.insert(words[2]);
  }
  EXPECT_EQ(catalogue, page);
  EXPECT_EQ(catalogue, scrape);
  EXPECT_EQ(catalogue.size(), std::size(kAll));
}

TEST_F(MetricsTest, AJobHasFewSeriesHoweverDeepItsNetwork) {
  Everything everything(registry_);
  v1::Progress progress = SomeProgress(20);
  const v1::LayerStats layer = progress.layers(0);
  progress.clear_layers();
  for (int block = 0; block < 100; ++block) {
    *progress.add_layers() = layer;
    progress.mutable_layers(block)->set_block(block);
  }
  everything.train.Update("deep", progress, SpecOf(32));
  everything.checkpoints.SetLast("deep", 10, 0);
  int series = 0;
  for (const absl::string_view line : absl::StrSplit(registry_.Text(), '\n')) {
    if (absl::StrContains(line, "job_id=\"deep\"")) ++series;
  }
  EXPECT_GT(series, 300);
  EXPECT_LE(series, 500);
  EXPECT_NE(Value("diffmoe_moe_capacity_ratio{block=\"99\",job_id=\"deep\"}") +
                Value("diffmoe_moe_capacity_ratio{job_id=\"deep\",block=\"99\"}"),
            "");
}

TEST_F(MetricsTest, TheEndpointPassesPromtool) {
  const Everything everything(registry_);
  auto server = MetricsServer::Start("127.0.0.1:0", registry_);
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_FALSE(absl::EndsWith((*server)->address(), ":0"));
  const auto reply = test::HttpGet((*server)->address(), "/metrics");
  ASSERT_TRUE(reply.ok()) << reply.status();
  ASSERT_EQ(reply->code, 200);
  for (const char* family :
       {"diffmoe_build_info", "diffmoe_train_loss", "diffmoe_moe_threshold", "diffmoe_jobs",
        "diffmoe_job_restarts_total", "diffmoe_checkpoint_commits_total", "diffmoe_sample_queued",
        "diffmoe_rpc_requests_total", "diffmoe_store_commits_total", "diffmoe_worker_connected"}) {
    EXPECT_TRUE(absl::StrContains(reply->body, absl::StrCat("# HELP ", family, " "))) << family;
  }
  const auto checked = CheckWithPromtool(reply->body);
  ASSERT_TRUE(checked.ok()) << checked.status();
  if (checked->exit.exit_code == 127) GTEST_SKIP() << "promtool isn't installed: ./run setup";
  EXPECT_EQ(checked->exit.exit_code, 0) << checked->out << checked->err;
  EXPECT_EQ(checked->out + checked->err, "");
}

TEST_F(MetricsTest, ProgressBecomesSeries) {
  TrainMetrics train(registry_);
  train.Update("j", SomeProgress(10), SpecOf(32));
  EXPECT_EQ(Value("diffmoe_train_loss{job_id=\"j\"}"), "0.25");
  EXPECT_EQ(Value("diffmoe_train_step{job_id=\"j\"}"), "10");
  EXPECT_EQ(Value("diffmoe_train_step_duration_seconds{job_id=\"j\",phase=\"forward\"}"), "0.125");
  EXPECT_EQ(Value("diffmoe_moe_capacity_ratio{block=\"1\",job_id=\"j\"}"), "0.75");
  EXPECT_EQ(Value("diffmoe_moe_threshold{block=\"1\",job_id=\"j\",stat=\"min\"}"), "0.25");
  EXPECT_EQ(Value("diffmoe_moe_threshold{block=\"1\",job_id=\"j\",stat=\"median\"}"), "0.5");
  EXPECT_EQ(Value("diffmoe_moe_expert_load_ratio{block=\"1\",job_id=\"j\",stat=\"p95\"}"), "2");
  EXPECT_EQ(Value("diffmoe_moe_threshold_drift{block=\"1\",job_id=\"j\"}"), "0");
  EXPECT_EQ(Value("diffmoe_moe_expert_load_ratio{block=\"1\",job_id=\"j\",stat=\"max\"}"), "2");
  EXPECT_EQ(Value("diffmoe_moe_dead_experts{block=\"1\",job_id=\"j\"}"), "1");
}

TEST_F(MetricsTest, ThresholdsDriftFromReportToReport) {
  TrainMetrics train(registry_);
  train.Update("j", SomeProgress(10), SpecOf(32));
  v1::Progress later = SomeProgress(20);  // thresholds 0.25, 0.5, 0.75 before
  later.mutable_layers(0)->set_thresholds(0, 0.625F);
  later.mutable_layers(0)->set_thresholds(2, 0.375F);
  train.Update("j", later, SpecOf(32));
  EXPECT_EQ(Value("diffmoe_moe_threshold_drift{block=\"1\",job_id=\"j\"}"), "0.25");
}

TEST_F(MetricsTest, ALossThatIsNotFiniteShowsUntilTheNextReport) {
  TrainMetrics train(registry_);
  train.Update("j", SomeProgress(10), SpecOf(32));
  train.LossNotFinite("j");
  EXPECT_EQ(Value("diffmoe_train_loss{job_id=\"j\"}"), "Nan");
  EXPECT_EQ(Value("diffmoe_train_step{job_id=\"j\"}"), "10");
  train.Update("j", SomeProgress(11), SpecOf(32));
  EXPECT_EQ(Value("diffmoe_train_loss{job_id=\"j\"}"), "0.25");
}

// A request is never missing from the sum that a scrape sees, and never in it twice.
TEST_F(MetricsTest, RequestsAddUpInEveryScrape) {
  SampleMetrics samples(registry_);
  std::atomic<bool> done = false;
  std::thread loop([&] {
    for (int i = 0; i < 3000; ++i) {
      samples.CountSubmitted();
      samples.SetInWork(1, 0);
      samples.SetInWork(0, 1);
      samples.Ended(i % 2 == 0 ? SampleOutcome::kOk : SampleOutcome::kCancelled, 0.1);
      samples.SetInWork(0, 0);
    }
    done = true;
  });
  int scrapes = 0;
  while (!done || scrapes == 0) {
    double submitted = 0, found = 0;
    const std::string text = registry_.Text();
    for (const absl::string_view line : absl::StrSplit(text, '\n')) {
      const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
      double value = 0;
      if (words.size() != 2 || !absl::SimpleAtod(words[1], &value)) continue;
      if (words[0] == "diffmoe_sample_submitted_total") submitted = value;
      if (words[0] == "diffmoe_sample_queued" || words[0] == "diffmoe_sample_running" ||
          absl::StartsWith(words[0], "diffmoe_sample_requests_total{")) {
        found += value;
      }
    }
    ASSERT_EQ(submitted, found) << text;
    ++scrapes;
  }
  loop.join();
  EXPECT_EQ(Value("diffmoe_sample_submitted_total"), "3000");
}

TEST_F(MetricsTest, WhatCountsBeginsAtZero) {
  const SampleMetrics samples(registry_);
  EXPECT_EQ(Value("diffmoe_sample_images_total"), "0");
  EXPECT_EQ(Value("diffmoe_sample_queue_wait_seconds_count"), "0");
}

TEST_F(MetricsTest, SamplesAreCountedFromReportToReport) {
  TrainMetrics train(registry_);
  const std::string series = "diffmoe_train_samples_total{job_id=\"j\"}";
  train.Update("j", SomeProgress(10), SpecOf(32));
  EXPECT_EQ(Value(series), "0");
  train.Update("j", SomeProgress(15), SpecOf(32));
  EXPECT_EQ(Value(series), "160");
  train.Update("j", SomeProgress(12), SpecOf(32));  // restarted from a checkpoint
  EXPECT_EQ(Value(series), "160");
  train.Update("j", SomeProgress(13), SpecOf(32));
  EXPECT_EQ(Value(series), "192");
}

TEST_F(MetricsTest, SeriesOfAnEndedJobGoAway) {
  Everything everything(registry_);
  everything.train.Update("other", SomeProgress(1), SpecOf(32));
  everything.train.Remove("fashion-1");
  everything.checkpoints.Remove("fashion-1");
  const std::string text = registry_.Text();
  EXPECT_FALSE(absl::StrContains(text, "fashion-1")) << text;
  EXPECT_TRUE(absl::StrContains(text, "diffmoe_train_loss{job_id=\"other\"}"));
  everything.train.Update("fashion-1", SomeProgress(3), SpecOf(32));  // it may come back
  EXPECT_EQ(Value("diffmoe_train_step{job_id=\"fashion-1\"}"), "3");
}

TEST_F(MetricsTest, OddValuesAndNamesStayReadable) {
  TrainMetrics train(registry_);
  v1::Progress progress = SomeProgress(1);
  progress.set_loss(std::numeric_limits<double>::quiet_NaN());
  progress.set_grad_norm(std::numeric_limits<double>::infinity());
  train.Update("a\"b\\c\nd\xc3\xa9", progress, SpecOf(32));
  SampleMetrics samples(registry_);
  samples.Ended(SampleOutcome::kOk, 1e9);  // beyond the last bucket
  EXPECT_EQ(Value("diffmoe_sample_latency_seconds_bucket{le=\"+Inf\"}"), "1");
  EXPECT_EQ(Value("diffmoe_sample_latency_seconds_bucket{le=\"1800\"}"), "0");
  EXPECT_EQ(Value("diffmoe_train_grad_norm{job_id=\"a\\\"b\\\\c\\nd\xc3\xa9\"}"), "+Inf");
  const auto checked = CheckWithPromtool(registry_.Text());
  ASSERT_TRUE(checked.ok()) << checked.status();
  if (checked->exit.exit_code == 127) GTEST_SKIP() << "promtool isn't installed: ./run setup";
  EXPECT_EQ(checked->exit.exit_code, 0) << checked->out << checked->err;
}

TEST_F(MetricsTest, SeriesMayBeSetAndRemovedFromManyThreads) {
  TrainMetrics train(registry_);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      const std::string job = absl::StrCat("job-", thread % 2);
      for (int64_t step = 0; step < 200; ++step) {
        train.Update(job, SomeProgress(step), SpecOf(8));
        if (step % 20 == 19) train.Remove(job);
        if (step % 50 == 0) registry_.Text();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  train.Remove("job-0");
  train.Remove("job-1");
  EXPECT_FALSE(absl::StrContains(registry_.Text(), "job-"));
}

TEST_F(MetricsTest, ATakenPortIsNamed) {
  const test::HeldPort held;
  const absl::Status status = MetricsServer::Start(held.address(), registry_).status();
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), held.address())) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "in use")) << status;
}

TEST_F(MetricsTest, BadAddressesAreRefused) {
  for (const char* address : {"", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000",
                              "127.0.0.1:-1", "somewhere:80", "192.0.2.1:0"}) {
    const absl::Status status = MetricsServer::Start(address, registry_).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << address << ": " << status;
  }
  EXPECT_TRUE(MetricsServer::Start("localhost:0", registry_).ok());
}

}  // namespace
}  // namespace diffmoe::metrics
