// What a monitoring system sees of a running cluster.
#include <csignal>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/job_helpers.h"
#include "tests/integration/prometheus.h"
#include "tests/support/cluster.h"
#include "tests/support/http.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

constexpr absl::Duration kJobLimit = absl::Seconds(60);

// A cluster whose job trains, has a checkpoint and has been sampled.
class MonitoringTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    cluster_ = new Cluster;
    ASSERT_TRUE(cluster_->Start().ok());
    const auto id = SubmitSmoke(*cluster_, {"train.steps=1000000"});
    ASSERT_TRUE(id.ok()) << id.status();
    id_ = *id;
    const auto job = AwaitJob(*cluster_, id_, kJobLimit,
                              [](const nlohmann::json& j) { return RunsPast(j, 10); });
    ASSERT_TRUE(job.ok()) << job.status();
    Sample();
  }
  static void TearDownTestSuite() {
    delete cluster_;
    cluster_ = nullptr;
  }

  static void Sample() {
    const auto receipt = cluster_->CliJson({"sample", "--job", id_, "--class", "0", "--n", "1",
                                            "--steps", "3", "--out", cluster_->dir() + "/a.png"},
                                           kJobLimit);
    ASSERT_TRUE(receipt.ok()) << receipt.status();
  }

  static Cluster* cluster_;
  static std::string id_;
};

Cluster* MonitoringTest::cluster_ = nullptr;
std::string MonitoringTest::id_;

TEST_F(MonitoringTest, BothEndpointsPassPromtool) {
  const auto promtool = FindPrometheusProgram("promtool");
  if (!promtool.has_value()) GTEST_SKIP() << "promtool isn't installed: ./run setup";
  for (const std::string& address : {cluster_->coordinator_metrics(), cluster_->worker_metrics()}) {
    const auto reply = HttpGet(address, "/metrics");
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->code, 200);
    const auto complaint = CheckMetrics(*promtool, reply->body);
    ASSERT_TRUE(complaint.ok()) << complaint.status();
    EXPECT_EQ(*complaint, "") << address;
  }
}

TEST_F(MonitoringTest, TrainingAndSamplingShowUp) {
  const auto worker = HttpGet(cluster_->worker_metrics(), "/metrics");
  ASSERT_TRUE(worker.ok()) << worker.status();
  for (const char* name :
       {"diffmoe_train_loss", "diffmoe_train_step_duration_seconds", "diffmoe_train_samples_total",
        "diffmoe_moe_capacity_ratio", "diffmoe_moe_threshold"}) {
    EXPECT_THAT(worker->body, ContainsRegex(absl::StrCat(name, "[{][^}]*job_id=\"", id_, "\"")));
  }
  const auto coordinator = HttpGet(cluster_->coordinator_metrics(), "/metrics");
  ASSERT_TRUE(coordinator.ok()) << coordinator.status();
  EXPECT_THAT(coordinator->body, HasSubstr("diffmoe_jobs{state=\"running\"} 1\n"));
  EXPECT_THAT(coordinator->body, HasSubstr("diffmoe_jobs{state=\"failed\"} 0\n"));
  EXPECT_THAT(coordinator->body, HasSubstr("diffmoe_sample_requests_total{outcome=\"ok\"} "));
}

TEST_F(MonitoringTest, AWorkerThatJoinsIsScrapedWithoutAWord) {
  const auto program = FindPrometheusProgram("prometheus");
  if (!program.has_value()) GTEST_SKIP() << "prometheus isn't installed: ./run setup";
  const auto prometheus =
      Prometheus::Start(*program, DeployedConfiguration(cluster_->coordinator_metrics()));
  ASSERT_TRUE(prometheus.ok()) << prometheus.status();
  const auto scraped = [&](const std::string& expression) {
    const auto series = (*prometheus)->Query(expression);
    return series.ok() ? static_cast<int>(series->size()) : -1;
  };
  const std::string up = "up{job=\"diffmoe-worker\",worker_id!=\"\"} == 1";
  ASSERT_TRUE(WaitUntil(absl::Seconds(30), [&] { return scraped(up) == 1; }));
  EXPECT_TRUE(WaitUntil(absl::Seconds(30), [&] {
    return scraped("up{job=\"diffmoe-coordinator-ready\"} == 1") == 1;
  }));
  const TempDir dir;
  const auto worker = Process::Start(
      {.argv = {Program("diffmoe-worker"), "--dir", dir.path(), "--coordinator",
                cluster_->grpc_address(), "--slots", "1", "--metrics-listen", "127.0.0.1:0"},
       .environment = {},
       .working_dir = ""});
  ASSERT_TRUE(worker.ok()) << worker.status();
  EXPECT_TRUE(WaitUntil(absl::Seconds(30), [&] { return scraped(up) == 2; }));
  // One that dies stays on the list, so that its absence shows.
  (*worker)->Signal(SIGKILL);
  EXPECT_TRUE(WaitUntil(absl::Seconds(30),
                        [&] { return scraped("up{job=\"diffmoe-worker\"} == 0") == 1; }));
}

// The queries of the dashboards and what the alerts do: tests/observe.
TEST_F(MonitoringTest, TheDeployedConfigurationScrapesAll) {
  const auto program = FindPrometheusProgram("prometheus");
  if (!program.has_value()) GTEST_SKIP() << "prometheus isn't installed: ./run setup";
  const auto prometheus =
      Prometheus::Start(*program, DeployedConfiguration(cluster_->coordinator_metrics()));
  ASSERT_TRUE(prometheus.ok()) << prometheus.status();
  EXPECT_TRUE(WaitUntil(absl::Seconds(30), [&] {
    const auto up = (*prometheus)->Query("count(up == 1) == 3 and on () diffmoe_slots:busy:ratio");
    return up.ok() && !up->empty();
  }));
}

}  // namespace
}  // namespace diffmoe::test
