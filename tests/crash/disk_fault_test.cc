// A real cluster on a disk that fills up, refuses to sync, can't be read or turns read-only.
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <regex>
#include <set>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "diffmoe/v1/training_job.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "tests/crash/small_disk.h"
#include "tests/integration/job_helpers.h"
#include "tests/support/cluster.h"
#include "tests/support/http.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLimit = absl::Seconds(90);
// More than the free space that a checkpoint asks for.
constexpr int64_t kDiskBytes = int64_t{192} << 20;
constexpr int kQuota = 7, kCorrupt = 20;

class DiskFaultTest : public ::testing::Test {
 protected:
  void Start(ClusterOptions options) {
    cluster_ = std::make_unique<Cluster>(std::move(options));
    const absl::Status status = cluster_->Start();
    ASSERT_TRUE(status.ok()) << status;
  }

  void StartWithFaults() {
    ClusterOptions options;
    options.coordinator_environment = {
        {"LD_PRELOAD", std::string(DIFFMOE_BIN_DIR) + "/libdiffmoe_faulty_files.so"},
        {"DIFFMOE_FAULTY_FILES", control_}};
    Start(std::move(options));
  }
  void SetFault(const std::string& fault) {
    // Whole or not at all: it is read at every file call.
    WriteFile(control_ + ".new", fault);
    std::filesystem::rename(control_ + ".new", control_);
  }

  // A job that trains for long, with a checkpoint behind it.
  void StartJob() {
    const auto id = SubmitSmoke(*cluster_, {"train.steps=20000", "checkpoint.every_steps=20",
                                            "model.width=16", "train.global_batch=8"});
    ASSERT_TRUE(id.ok()) << id.status();
    id_ = *id;
    const auto job =
        AwaitJob(*cluster_, id_, kLimit, [](const nlohmann::json& j) { return RunsPast(j, 20); });
    ASSERT_TRUE(job.ok()) << job.status();
  }

  // The step that the worker says, which needs no coordinator.
  int64_t WorkerStep() {
    const auto reply = HttpGet(cluster_->worker_metrics(), "/metrics");
    int64_t step = -1;
    std::smatch match;
    static const std::regex kStep("diffmoe_train_step\\{[^}]*\\} ([0-9]+)");
    if (reply.ok() && std::regex_search(reply->body, match, kStep) &&
        !absl::SimpleAtoi(match[1].str(), &step)) {
      return -1;
    }
    return step;
  }
  void ExpectTrainingGoesOn() {
    const int64_t step = WorkerStep();
    // Past more than two checkpoints.
    EXPECT_TRUE(WaitUntil(kLimit, [&] { return WorkerStep() > step + 60; })) << "after " << step;
  }
  int64_t NewestCheckpoint() {
    const auto job = cluster_->CliJson({"job", "get", id_});
    return job.ok() ? Int(*job, "latest_checkpoint_step") : -1;
  }
  void ExpectNewCheckpoint(int64_t than) {
    EXPECT_TRUE(WaitUntil(kLimit, [&] { return NewestCheckpoint() > than; }))
        << "the newest is " << NewestCheckpoint();
  }
  void ExpectNeverRestarted() {
    const auto job = cluster_->CliJson({"job", "get", id_});
    ASSERT_TRUE(job.ok()) << job.status();
    EXPECT_EQ((*job)["state"], "RUNNING");
    EXPECT_EQ(Int(*job, "restarts"), 0);
  }
  RunResult Submit(const std::string& request_id) {
    auto result = cluster_->Cli({"submit", SmokeJob(), "--request-id", request_id});
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : RunResult{};
  }
  std::unique_ptr<v1::TrainingJobService::Stub> Jobs() {
    return v1::TrainingJobService::NewStub(
        grpc::CreateChannel(cluster_->grpc_address(), grpc::InsecureChannelCredentials()));
  }
  std::set<std::string> ListJobs() {
    const auto stub = Jobs();
    std::set<std::string> ids;
    v1::ListJobsRequest request;
    request.set_page_size(1000);
    do {
      grpc::ClientContext context;
      v1::ListJobsResponse page;
      const grpc::Status status = stub->ListJobs(&context, request, &page);
      EXPECT_TRUE(status.ok()) << status.error_message();
      for (const v1::Job& job : page.jobs()) ids.insert(job.id());
      request.set_page_token(page.next_page_token());
    } while (!request.page_token().empty());
    return ids;
  }
  // Bulky jobs, until the log of records has used up the space that it had set aside. Returns the
  // ids of all jobs.
  std::set<std::string> SubmitUntilRefused() {
    std::set<std::string> ids = ListJobs();
    const auto stub = Jobs();
    grpc::ClientContext get_context;
    v1::GetJobRequest get;
    get.set_name("jobs/" + id_);
    v1::SubmitJobRequest request;
    v1::Job job;
    EXPECT_TRUE(stub->GetJob(&get_context, get, &job).ok());
    *request.mutable_spec() = job.spec();
    const std::string path = "/" + std::string(4000, 'x');
    request.mutable_spec()->mutable_data()->set_path(path);
    request.mutable_spec()->mutable_train()->set_initial_weights(path);
    grpc::Status status;
    for (int number = 0; status.ok() && number < 20'000; ++number) {
      grpc::ClientContext context;
      request.set_request_id(absl::StrCat("bulky-", number));
      status = stub->SubmitJob(&context, request, &job);
      if (status.ok()) ids.insert(job.id());
    }
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr("request_id"));
    return ids;
  }
  // The coordinator has ended by itself, saying why.
  void ExpectFailStop(const std::string& why) {
    const auto exit = cluster_->coordinator()->Wait(kLimit);
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_EQ(*exit, (ExitState{1, 0}));
    EXPECT_THAT(cluster_->coordinator()->Err(), HasSubstr(why));
  }
  void ExpectVerified() {
    const auto verified = cluster_->Cli({"admin", "verify"});
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_EQ(verified->exit, (ExitState{0, 0})) << verified->err;
  }

  TempDir dir_;
  const std::string control_ = dir_.Sub("fault");
  std::unique_ptr<SmallDisk> disk_;
  std::unique_ptr<Cluster> cluster_;
  std::string id_;
};

TEST_F(DiskFaultTest, AFullDiskIsSaidAndWritesResumeByThemselves) {
  auto disk = SmallDisk::Mount(kDiskBytes, 0);
  if (!disk.ok()) GTEST_SKIP() << disk.status();
  disk_ = *std::move(disk);
  ClusterOptions options;
  options.data_dir = disk_->path();
  ASSERT_NO_FATAL_FAILURE(Start(std::move(options)));
  ASSERT_NO_FATAL_FAILURE(StartJob());
  disk_->FillBytes();
  const std::set<std::string> acknowledged = SubmitUntilRefused();
  // Reads go on. They show the refused request too, which waits to be written.
  const std::set<std::string> listed = ListJobs();
  EXPECT_THAT(listed, ::testing::IsSupersetOf(acknowledged));
  EXPECT_LE(listed.size(), acknowledged.size() + 1);
  const int64_t saved = NewestCheckpoint();
  ExpectTrainingGoesOn();
  EXPECT_EQ(Submit("refused").exit.exit_code, kQuota);
  EXPECT_EQ(ListJobs(), listed);
  EXPECT_EQ(NewestCheckpoint(), saved);

  disk_->Free();
  ExpectNewCheckpoint(saved);
  EXPECT_EQ(Submit("refused").exit, (ExitState{0, 0}));
  EXPECT_EQ(Submit("refused").exit, (ExitState{0, 0}));
  // The first refused request was in the batch that is written at last; the answer said so.
  const std::set<std::string> now = ListJobs();
  EXPECT_GE(now.size(), acknowledged.size() + 1);
  EXPECT_LE(now.size(), acknowledged.size() + 2);
  EXPECT_THAT(now, ::testing::IsSupersetOf(acknowledged));
  ExpectNeverRestarted();
  cluster_->KillCoordinator();
  const absl::Status restarted = cluster_->StartCoordinator();
  ASSERT_TRUE(restarted.ok()) << restarted;
  EXPECT_EQ(ListJobs(), now);
  ExpectVerified();
}

TEST_F(DiskFaultTest, AStartOnAFullDiskSaysSoAndLosesNothing) {
  auto disk = SmallDisk::Mount(kDiskBytes, 0);
  if (!disk.ok()) GTEST_SKIP() << disk.status();
  disk_ = *std::move(disk);
  ClusterOptions options;
  options.data_dir = disk_->path();
  cluster_ = std::make_unique<Cluster>(std::move(options));
  absl::Status started = cluster_->StartCoordinator();
  ASSERT_TRUE(started.ok()) << started;
  EXPECT_EQ(Submit("before").exit, (ExitState{0, 0}));
  cluster_->KillCoordinator();
  for (int attempt = 0; attempt < 2; ++attempt) {
    disk_->FillBytes();
    started = cluster_->StartCoordinator();
    EXPECT_FALSE(started.ok());
    EXPECT_THAT(std::string(started.message()), HasSubstr("No space left on device"));
    EXPECT_EQ(cluster_->coordinator()->Wait(kLimit).value(), (ExitState{kQuota, 0}));
  }
  disk_->Free();
  started = cluster_->StartCoordinator();
  ASSERT_TRUE(started.ok()) << started;
  EXPECT_EQ(ListJobs().size(), 1);
  EXPECT_EQ(Submit("before").exit, (ExitState{0, 0}));
  EXPECT_EQ(ListJobs().size(), 1);
  ExpectVerified();
}

TEST_F(DiskFaultTest, WithoutInodesACheckpointIsGivenUpAndTheNextOneSaved) {
  auto disk = SmallDisk::Mount(kDiskBytes, 400);
  if (!disk.ok()) GTEST_SKIP() << disk.status();
  disk_ = *std::move(disk);
  ClusterOptions options;
  options.data_dir = disk_->path();
  ASSERT_NO_FATAL_FAILURE(Start(std::move(options)));
  ASSERT_NO_FATAL_FAILURE(StartJob());
  disk_->FillInodes();
  EXPECT_TRUE(cluster_->coordinator()->WaitForText("given up", kLimit));
  const int64_t saved = NewestCheckpoint();
  ExpectTrainingGoesOn();
  disk_->Free();
  ExpectNewCheckpoint(saved);
  ExpectNeverRestarted();
  ExpectVerified();
}

TEST_F(DiskFaultTest, ACheckpointThatCannotBeSyncedIsGivenUp) {
  ASSERT_NO_FATAL_FAILURE(StartWithFaults());
  ASSERT_NO_FATAL_FAILURE(StartJob());
  SetFault("sync-eio /chunks/");
  EXPECT_TRUE(cluster_->coordinator()->WaitForText("given up", kLimit));
  const int64_t saved = NewestCheckpoint();
  ExpectTrainingGoesOn();
  EXPECT_LE(NewestCheckpoint(), saved + 20);  // one may have been under way
  SetFault("none");
  ExpectNewCheckpoint(NewestCheckpoint());
  ExpectNeverRestarted();
  ExpectVerified();
}

TEST_F(DiskFaultTest, RecordsThatCannotBeSyncedStopTheCoordinatorAndNothingElse) {
  ASSERT_NO_FATAL_FAILURE(StartWithFaults());
  ASSERT_NO_FATAL_FAILURE(StartJob());
  EXPECT_EQ(Submit("before").exit, (ExitState{0, 0}));
  const int64_t saved = NewestCheckpoint();
  SetFault("sync-eio /records/");
  const RunResult during = Submit("during");
  EXPECT_NE(during.exit, (ExitState{0, 0}));
  ASSERT_NO_FATAL_FAILURE(ExpectFailStop("stopping"));
  ExpectTrainingGoesOn();
  SetFault("none");
  const absl::Status restarted = cluster_->StartCoordinator();
  ASSERT_TRUE(restarted.ok()) << restarted;
  // Of the unanswered request nobody was told; the same request id makes sure that there is one.
  EXPECT_EQ(Submit("before").exit, (ExitState{0, 0}));
  EXPECT_EQ(Submit("during").exit, (ExitState{0, 0}));
  EXPECT_EQ(ListJobs().size(), 3);
  EXPECT_GE(NewestCheckpoint(), saved);
  ExpectNewCheckpoint(NewestCheckpoint());
  ExpectNeverRestarted();
  ExpectVerified();
}

TEST_F(DiskFaultTest, ADiskThatTurnsReadOnlyIsAFailedOne) {
  ASSERT_NO_FATAL_FAILURE(StartWithFaults());
  ASSERT_NO_FATAL_FAILURE(StartJob());
  EXPECT_EQ(Submit("before").exit, (ExitState{0, 0}));
  SetFault("read-only /coordinator/");
  EXPECT_NE(Submit("during").exit, (ExitState{0, 0}));
  ASSERT_NO_FATAL_FAILURE(ExpectFailStop("stopping"));
  ExpectTrainingGoesOn();
  const absl::Status refused = cluster_->StartCoordinator();
  EXPECT_FALSE(refused.ok());
  EXPECT_THAT(std::string(refused.message()), HasSubstr("Read-only file system"));
  SetFault("none");
  const absl::Status restarted = cluster_->StartCoordinator();
  ASSERT_TRUE(restarted.ok()) << restarted;
  EXPECT_EQ(Submit("during").exit, (ExitState{0, 0}));
  EXPECT_EQ(ListJobs().size(), 3);
  ExpectNewCheckpoint(NewestCheckpoint());
  ExpectNeverRestarted();
  ExpectVerified();
}

TEST_F(DiskFaultTest, ACheckpointThatCannotBeReadIsNamedAndTheOneBeforeIsUsed) {
  ASSERT_NO_FATAL_FAILURE(StartWithFaults());
  const auto id = SubmitSmoke(*cluster_, {});
  ASSERT_TRUE(id.ok()) << id.status();
  const auto job = AwaitState(*cluster_, *id, "SUCCEEDED", kLimit);
  ASSERT_TRUE(job.ok()) << job.status();
  const int64_t newest = Int(*job, "latest_checkpoint_step");
  SetFault("read-eio /chunks/db/");
  const auto result = cluster_->Cli({"ckpt", "export", *id, "--out", dir_.Sub("a.safetensors")});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->exit.exit_code, kCorrupt) << result->err;
  EXPECT_THAT(result->err, HasSubstr(absl::StrCat("job ", *id, " step ", newest)));
  SetFault("none");
  EXPECT_TRUE(WaitUntil(kLimit, [&] {
    const auto latest = cluster_->CliJson({"ckpt", "get", *id, "latest"});
    return latest.ok() && Int(*latest, "step") < newest;
  }));
  const auto again = cluster_->Cli({"ckpt", "export", *id, "--out", dir_.Sub("a.safetensors")});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->exit, (ExitState{0, 0})) << again->err;
}

}  // namespace
}  // namespace diffmoe::test
