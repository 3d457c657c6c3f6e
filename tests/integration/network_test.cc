// A worker behind a bad network: slow, reset in the middle of messages, cut off for a while. Its
// job goes on, and everything happens once.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/job_helpers.h"
#include "tests/support/cluster.h"
#include "tests/support/tcp_proxy.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

constexpr absl::Duration kJobLimit = absl::Seconds(120);

class NetworkTest : public ::testing::Test {
 protected:
  // The coordinator, a proxy before it, and a worker that knows the proxy only.
  void Start(const TcpProxyOptions& options) {
    absl::Status status = cluster_.StartCoordinator();
    ASSERT_TRUE(status.ok()) << status;
    auto proxy = TcpProxy::Start(cluster_.grpc_address(), options);
    ASSERT_TRUE(proxy.ok()) << proxy.status();
    proxy_ = *std::move(proxy);
    cluster_.set_worker_coordinator(proxy_->address());
    status = cluster_.StartWorker();
    ASSERT_TRUE(status.ok()) << status;
  }

  void StartJob(int64_t steps) {
    const auto id = SubmitSmoke(
        cluster_, {"train.steps=" + std::to_string(steps), "checkpoint.every_steps=50"});
    ASSERT_TRUE(id.ok()) << id.status();
    id_ = *id;
  }

  void ExpectSuccessWithoutRestart() {
    const auto job = AwaitState(cluster_, id_, "SUCCEEDED", kJobLimit);
    ASSERT_TRUE(job.ok()) << job.status();
    EXPECT_EQ(Int(*job, "restarts"), 0);
    EXPECT_EQ(Int(*job, "epoch"), 1);
    EXPECT_EQ(Int(*job, "latest_checkpoint_step"), Int((*job)["progress"], "step"));
  }

  bool AwaitStep(int64_t step) {
    return WaitUntil(kJobLimit, [&] { return LookAtJob(cluster_, id_).progress().step() >= step; });
  }

  Cluster cluster_;
  std::unique_ptr<TcpProxy> proxy_;
  std::string id_;
};

TEST_F(NetworkTest, SlowAndUnsteadyLinkCostsNoRestart) {
  ASSERT_NO_FATAL_FAILURE(
      Start({.delay = absl::Milliseconds(75), .jitter = absl::Milliseconds(50), .seed = 1}));
  ASSERT_NO_FATAL_FAILURE(StartJob(150));
  ExpectSuccessWithoutRestart();
}

TEST_F(NetworkTest, ResetsInTheMiddleOfMessagesCostNoRestart) {
  ASSERT_NO_FATAL_FAILURE(Start({}));
  ASSERT_NO_FATAL_FAILURE(StartJob(400));
  for (const int64_t step : {20, 60, 120, 200}) {
    ASSERT_TRUE(AwaitStep(step));
    const int64_t before = proxy_->connections();
    proxy_->ResetAll();
    EXPECT_TRUE(WaitUntil(kJobLimit, [&] { return proxy_->connections() > before; }));
  }
  ExpectSuccessWithoutRestart();
  // Every step was told once.
  const auto records = cluster_.CliJson({"metrics", id_});
  ASSERT_TRUE(records.ok()) << records.status();
  int64_t expected = 1;
  for (const auto& record : (*records)["records"]) EXPECT_EQ(Int(record, "step"), expected++);
  EXPECT_EQ(expected, 401);
}

TEST_F(NetworkTest, WorkerThatIsCutOffForAWhileKeepsItsRanks) {
  ASSERT_NO_FATAL_FAILURE(Start({}));
  ASSERT_NO_FATAL_FAILURE(StartJob(900));
  ASSERT_TRUE(AwaitStep(60));
  proxy_->SetDown(true);
  EXPECT_TRUE(WaitUntil(kJobLimit, [&] {
    const auto workers = cluster_.CliJson({"workers"});
    return workers.ok() && (*workers)["workers"][0]["state"] == "SILENT";
  }));
  proxy_->SetDown(false);
  ExpectSuccessWithoutRestart();
}

}  // namespace
}  // namespace diffmoe::test
