// Sampling as a service, through the real programs: the same bits alone, in company, after crashes,
// on another worker, and while the job trains.
#include <grpcpp/grpcpp.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/image_assembly.h"
#include "client/pixel_hash.h"
#include "diffmoe/v1/sampling.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/job_helpers.h"
#include "tests/support/cluster.h"
#include "tests/support/http.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLimit = absl::Seconds(90);

// A call with its events; ends with the object.
class Call {
 public:
  Call(Cluster& cluster, const v1::SampleRequest& request)
      : stub_(v1::SamplingService::NewStub(
            grpc::CreateChannel(cluster.grpc_address(), grpc::InsecureChannelCredentials()))) {
    context_.set_deadline(std::chrono::system_clock::now() +
                          std::chrono::seconds(absl::ToInt64Seconds(kLimit)));
    reader_ = stub_->Sample(&context_, request);
  }
  ~Call() {
    if (!finished_) context_.TryCancel();
    if (!finished_) (void)reader_->Finish();
  }

  // Reads until `condition` holds for an event; false when the stream ended first.
  bool ReadUntil(const std::function<bool(const v1::SampleResponse&)>& condition) {
    v1::SampleResponse event;
    while (reader_->Read(&event)) {
      if (event.has_image()) {
        const absl::Status fits = images_[event.image().index()].Add(event.image());
        EXPECT_TRUE(fits.ok()) << fits;
      }
      if (event.has_finished()) receipt_ = event.finished().receipt();
      if (condition(event)) return true;
    }
    return false;
  }
  bool ReadUntilStep(int step) {
    return ReadUntil([&](const v1::SampleResponse& event) {
      return event.has_progress() && event.progress().step() >= step;
    });
  }
  grpc::Status Finish() {
    ReadUntil([](const v1::SampleResponse&) { return false; });
    finished_ = true;
    return reader_->Finish();
  }
  // XXH3-128 of each image's pixels as they came.
  std::vector<std::string> Hashes() const {
    std::vector<std::string> hashes;
    for (const auto& [index, image] : images_) hashes.push_back(Xxh3Hex(image.bytes()));
    return hashes;
  }
  const v1::Receipt& receipt() const { return receipt_; }

 private:
  std::unique_ptr<v1::SamplingService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::SampleResponse>> reader_;
  std::map<int, ImageAssembly> images_;
  v1::Receipt receipt_;
  bool finished_ = false;
};

// One cluster with a finished smoke job.
class SamplingServiceTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    cluster_ = new Cluster({.slots = 3,
                            .coordinator_flags = {},
                            .worker_flags = {},
                            .coordinator_environment = {},
                            .data_dir = ""});
    ASSERT_TRUE(cluster_->Start().ok());
    const auto result = cluster_->Cli({"submit", SmokeJob(), "--follow"}, kLimit);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->exit, (ExitState{0, 0})) << result->out << result->err;
    id_ = result->out.substr(0, result->out.find('\n'));
  }
  static void TearDownTestSuite() {
    delete cluster_;
    cluster_ = nullptr;
  }

  v1::SampleRequest Request(uint64_t seed, int count, int steps) const {
    v1::SampleRequest request;
    request.set_checkpoint("jobs/" + id_);
    request.set_seed(seed);
    request.set_count(count);
    request.add_classes(static_cast<int>(seed % 10));
    request.set_steps(steps);
    return request;
  }

  // The flags of requests that have little in common.
  std::vector<std::vector<std::string>> Requests() const {
    return {{"--class", "3", "--n", "3", "--seed", "1", "--steps", "20"},
            {"--class", "all", "--n", "1", "--seed", "2", "--steps", "7", "--guidance", "1"},
            {"--class", "5", "--n", "2", "--seed", "3", "--sampler", "dopri5"},
            {"--class", "0", "--n", "2", "--seed", "4", "--sampler", "heun", "--steps", "9",
             "--guidance-interval", "0.3,0.8"},
            {"--class", "9", "--n", "1", "--seed", "5", "--sampler", "euler_maruyama", "--steps",
             "30", "--negative-class", "2", "--first-image", "77"}};
  }

  std::vector<std::string> SampleArguments(const std::vector<std::string>& flags, int number) {
    std::vector<std::string> arguments = {"sample",
                                          "--job",
                                          id_,
                                          "--out",
                                          dir_.Sub(absl::StrCat("grid", number, ".png")),
                                          "--receipt",
                                          dir_.Sub(absl::StrCat("receipt", number, ".json"))};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    return arguments;
  }
  nlohmann::json Receipt(int number) const {
    return nlohmann::json::parse(ReadFile(dir_.Sub(absl::StrCat("receipt", number, ".json"))),
                                 nullptr, false);
  }

  static void ExpectReplays(const std::string& receipt, const std::string& text) {
    const auto replay = cluster_->Cli({"replay", receipt}, kLimit);
    ASSERT_TRUE(replay.ok()) << replay.status();
    EXPECT_EQ(replay->exit, (ExitState{0, 0})) << replay->out << replay->err;
    EXPECT_EQ(replay->out, text);
  }

  // Value of a metric without labels; -1 when it isn't there.
  static double Metric(const std::string& name) {
    const auto reply = HttpGet(cluster_->coordinator_metrics(), "/metrics");
    if (!reply.ok()) return -1;
    for (absl::string_view line : absl::StrSplit(reply->body, '\n')) {
      const std::pair<absl::string_view, absl::string_view> parts =
          absl::StrSplit(line, absl::MaxSplits(' ', 1));
      double value = -1;
      if (parts.first == name && absl::SimpleAtod(parts.second, &value)) return value;
    }
    return -1;
  }
  static bool AwaitRunning(double count) {
    return WaitUntil(kLimit, [&] { return Metric("diffmoe_sample_running") == count; });
  }

  static std::vector<pid_t> Samplers(Process& worker) {
    return ChildrenOf(worker.pid(), {"diffmoe-rank", "--group sampler-"});
  }

  static Cluster* cluster_;
  static std::string id_;
  TempDir dir_;
};

Cluster* SamplingServiceTest::cluster_ = nullptr;
std::string SamplingServiceTest::id_;

TEST_F(SamplingServiceTest, CompanyChangesNoImage) {
  const std::vector<std::vector<std::string>> requests = Requests();
  std::vector<nlohmann::json> alone;
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto result = cluster_->Cli(SampleArguments(requests[i], static_cast<int>(i)), kLimit);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->exit, (ExitState{0, 0})) << result->err;
    alone.push_back(Receipt(static_cast<int>(i)));
    ASSERT_FALSE(alone.back()["image_hashes"].empty());
  }
  std::vector<std::unique_ptr<Process>> clients;
  for (size_t i = 0; i < requests.size(); ++i) {
    auto client = cluster_->StartCli(SampleArguments(requests[i], static_cast<int>(i) + 100));
    ASSERT_TRUE(client.ok()) << client.status();
    clients.push_back(*std::move(client));
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto exit = clients[i]->Wait(kLimit);
    ASSERT_TRUE(exit.ok()) << exit.status();
    ASSERT_EQ(*exit, (ExitState{0, 0})) << clients[i]->Err();
    const nlohmann::json together = Receipt(static_cast<int>(i) + 100);
    EXPECT_EQ(together["image_hashes"], alone[i]["image_hashes"]) << i;
    EXPECT_EQ(together["thresholds_hash"], alone[i]["thresholds_hash"]) << i;
    EXPECT_EQ(together["weights_hash"], alone[i]["weights_hash"]) << i;
  }
}

TEST_F(SamplingServiceTest, ReplayEqualsAfterARestartAndOnAnotherWorker) {
  const auto made = cluster_->Cli(
      SampleArguments({"--class", "all", "--n", "10", "--seed", "11", "--steps", "5"}, 0), kLimit);
  ASSERT_TRUE(made.ok()) << made.status();
  ASSERT_EQ(made->exit, (ExitState{0, 0})) << made->err;
  const std::string receipt = dir_.Sub("receipt0.json");
  ExpectReplays(receipt, "100 of 100 images equal\n");

  cluster_->KillCoordinator();
  cluster_->KillWorker();
  ASSERT_TRUE(cluster_->Start().ok());
  ExpectReplays(receipt, "100 of 100 images equal\n");

  cluster_->KillWorker();
  auto other = Process::Start(
      {.argv = {Program("diffmoe-worker"), "--dir", dir_.Sub("w"), "--coordinator",
                absl::StrCat("file:", cluster_->CoordinatorDir(), "/coordinator.json"), "--slots",
                "2", "--metrics-listen", "127.0.0.1:0"},
       .environment = {},
       .working_dir = ""});
  ASSERT_TRUE(other.ok()) << other.status();
  ExpectReplays(receipt, "100 of 100 images equal\n");
  EXPECT_FALSE(Samplers(**other).empty());
  other->reset();
  ASSERT_TRUE(cluster_->StartWorker().ok());

  // Another seed gives other images, and replay can tell.
  nlohmann::json changed = Receipt(0);
  changed["seed"] = "12";
  WriteFile(receipt, changed.dump());
  const auto differs = cluster_->Cli({"replay", receipt}, kLimit);
  ASSERT_TRUE(differs.ok()) << differs.status();
  EXPECT_EQ(differs->exit, (ExitState{20, 0})) << differs->err;
  EXPECT_THAT(differs->out, HasSubstr("first difference: image 0"));
}

TEST_F(SamplingServiceTest, AKilledSamplerChangesNoImage) {
  const v1::SampleRequest request = Request(21, 4, 300);
  Call quiet(*cluster_, request);
  const grpc::Status quiet_end = quiet.Finish();
  ASSERT_TRUE(quiet_end.ok()) << quiet_end.error_message();
  Call call(*cluster_, request);
  ASSERT_TRUE(call.ReadUntilStep(20));
  const std::vector<pid_t> samplers = Samplers(*cluster_->worker());
  ASSERT_FALSE(samplers.empty());
  for (pid_t pid : samplers) kill(pid, SIGKILL);
  // It was in the middle: the request waits for another sampler.
  EXPECT_TRUE(call.ReadUntil([](const v1::SampleResponse& event) { return event.has_queued(); }));
  const grpc::Status status = call.Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(call.Hashes(), quiet.Hashes());
  EXPECT_EQ(call.Hashes(), std::vector<std::string>(call.receipt().image_hashes().begin(),
                                                    call.receipt().image_hashes().end()));
}

TEST_F(SamplingServiceTest, ADeadClientLeavesItsPlace) {
  ASSERT_TRUE(AwaitRunning(0));
  const auto client = cluster_->StartCli(
      SampleArguments({"--class", "1", "--n", "64", "--steps", "1000", "--seed", "1"}, 0));
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(AwaitRunning(1));
  (*client)->Signal(SIGKILL);
  EXPECT_TRUE(AwaitRunning(0));
  Call after(*cluster_, Request(1, 1, 3));
  EXPECT_TRUE(after.Finish().ok());
}

TEST_F(SamplingServiceTest, DeadlinesEndRequests) {
  const auto result =
      cluster_->Cli(SampleArguments({"--class", "1", "--n", "64", "--steps", "1000", "--seed", "1",
                                     "--deadline", "20ms", "--no-wait"},
                                    0),
                    kLimit);
  ASSERT_TRUE(result.ok()) << result.status();
  // Too late in the end, or refused at the door because it would be.
  EXPECT_TRUE(result->exit == (ExitState{9, 0}) || result->exit == (ExitState{7, 0}))
      << result->exit.exit_code << result->err;
  EXPECT_FALSE(std::filesystem::exists(dir_.Sub("grid0.png")));
  EXPECT_TRUE(AwaitRunning(0));
}

TEST_F(SamplingServiceTest, CancelByIdEndsARequestOnce) {
  v1::SampleRequest request = Request(31, 16, 1000);
  request.set_request_id("cancel-me");
  Call call(*cluster_, request);
  ASSERT_TRUE(call.ReadUntilStep(1));
  const auto stub = v1::SamplingService::NewStub(
      grpc::CreateChannel(cluster_->grpc_address(), grpc::InsecureChannelCredentials()));
  const auto cancel = [&](const std::string& id) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::CancelSampleRequest cancel_request;
    cancel_request.set_request_id(id);
    v1::CancelSampleResponse response;
    return stub->CancelSample(&context, cancel_request, &response).error_code();
  };
  EXPECT_EQ(cancel("cancel-me"), grpc::StatusCode::OK);
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(cancel("cancel-me"), grpc::StatusCode::OK);
  EXPECT_EQ(cancel("never-seen"), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(AwaitRunning(0));
}

TEST_F(SamplingServiceTest, OneIdMeansOneRequest) {
  v1::SampleRequest request = Request(41, 2, 4);
  request.clear_seed();
  request.set_request_id("once");
  Call first(*cluster_, request);
  ASSERT_TRUE(first.Finish().ok());
  Call second(*cluster_, request);
  const grpc::Status again = second.Finish();
  ASSERT_TRUE(again.ok()) << again.error_message();
  // The seed was drawn once.
  EXPECT_EQ(second.receipt().seed(), first.receipt().seed());
  EXPECT_EQ(second.Hashes(), first.Hashes());
  request.set_steps(5);
  Call other(*cluster_, request);
  EXPECT_EQ(other.Finish().error_code(), grpc::StatusCode::ALREADY_EXISTS);
}

TEST_F(SamplingServiceTest, PngFilesHoldTheSameImages) {
  const std::vector<std::string> flags = {"--class", "3", "--n",     "3",
                                          "--seed",  "1", "--steps", "4"};
  const auto raw = cluster_->Cli(SampleArguments(flags, 0), kLimit);
  ASSERT_TRUE(raw.ok() && raw->exit == (ExitState{0, 0})) << raw.status();
  std::vector<std::string> arguments = {"sample",
                                        "--job",
                                        id_,
                                        "--png-dir",
                                        dir_.Sub("files"),
                                        "--receipt",
                                        dir_.Sub("receipt1.json")};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  const auto png = cluster_->Cli(arguments, kLimit);
  ASSERT_TRUE(png.ok()) << png.status();
  ASSERT_EQ(png->exit, (ExitState{0, 0})) << png->err;
  EXPECT_EQ(Receipt(1)["image_hashes"], Receipt(0)["image_hashes"]);
  std::set<std::string> files;
  for (const char* name : {"00000.png", "00001.png", "00002.png"}) {
    files.insert(ReadFile(dir_.Sub("files") + "/" + name));
  }
  EXPECT_EQ(files.size(), 3u);
  for (const std::string& file : files) EXPECT_EQ(file.substr(0, 8), "\x89PNG\r\n\x1a\n");
}

TEST_F(SamplingServiceTest, PreviewsComeWhileAnImageIsMade) {
  v1::SampleRequest request = Request(51, 1, 200);
  request.set_preview_every(5);
  Call call(*cluster_, request);
  int step = 0, previews = 0;
  call.ReadUntil([&](const v1::SampleResponse& event) {
    if (!event.has_preview()) return false;
    ++previews;
    EXPECT_GT(event.preview().step(), step);
    step = event.preview().step();
    EXPECT_EQ(event.preview().image().pixels().size(), 32u * 32u);
    return false;
  });
  EXPECT_GT(previews, 0);
  EXPECT_EQ(call.Hashes().size(), 1u);
}

TEST_F(SamplingServiceTest, CapacityIsADialAfterCalibration) {
  const std::vector<std::string> half = {"--class", "3",       "--n", "4",          "--seed",
                                         "1",       "--steps", "10",  "--capacity", "0.5"};
  const std::string other = id_ + "@step=30";
  std::vector<std::string> uncalibrated = SampleArguments(half, 0);
  uncalibrated[2] = other;
  const auto refused = cluster_->Cli(uncalibrated, kLimit);
  ASSERT_TRUE(refused.ok()) << refused.status();
  EXPECT_EQ(refused->exit, (ExitState{6, 0})) << refused->err;
  EXPECT_THAT(refused->err, HasSubstr("diffmoe calibrate"));

  const auto calibration =
      cluster_->CliJson({"calibrate", id_, "--images", "64", "--capacities", "0.5,1,2"}, kLimit);
  ASSERT_TRUE(calibration.ok()) << calibration.status();
  ASSERT_GE((*calibration)["targets"].size(), 3);
  const auto shown = cluster_->CliJson({"calibrate", id_, "--show"});
  ASSERT_TRUE(shown.ok()) << shown.status();
  EXPECT_EQ(*shown, *calibration);

  double last = 0;
  for (const std::string capacity : {"0.5", "1", "1.5"}) {
    std::vector<std::string> arguments = SampleArguments(half, 1);
    arguments.back() = capacity;
    const auto result = cluster_->Cli(arguments, kLimit);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->exit, (ExitState{0, 0})) << result->err;
    const nlohmann::json receipt = Receipt(1);
    EXPECT_EQ(receipt["threshold_rule"], "CALIBRATED");
    // Experts used: more with every turn of the dial.
    const double used = receipt["capacity"][0].get<double>();
    EXPECT_GT(used, last) << capacity;
    last = used;
    ExpectReplays(dir_.Sub("receipt1.json"), "4 of 4 images equal\n");
  }
}

TEST_F(SamplingServiceTest, ASetThatIsInterruptedIsTheSameSet) {
  const auto arguments = [&](const std::string& out) {
    return std::vector<std::string>{
        "sample-set",  "--job",          id_, "--count",          "60", "--classes",
        "0,1,2",       "--seed",         "8", "--steps",          "40", "--out",
        dir_.Sub(out), "--shard-images", "8", "--request-images", "4"};
  };
  const auto files = [&](const std::string& out) {
    std::map<std::string, std::string> all;
    for (const auto& entry : std::filesystem::directory_iterator(dir_.Sub(out))) {
      all[entry.path().filename().string()] = ReadFile(entry.path().string());
    }
    return all;
  };
  const auto whole = cluster_->Cli(arguments("whole"), kLimit);
  ASSERT_TRUE(whole.ok()) << whole.status();
  ASSERT_EQ(whole->exit, (ExitState{0, 0})) << whole->err;

  for (const auto& [signal, shards] : std::vector<std::pair<int, int>>{{SIGKILL, 2}, {SIGINT, 4}}) {
    const auto client = cluster_->StartCli(arguments("parts"));
    ASSERT_TRUE(client.ok()) << client.status();
    const std::string shard = absl::StrCat(dir_.Sub("parts"), "/labels-0000", shards - 1, ".npy");
    ASSERT_TRUE(WaitUntil(kLimit, [&] { return std::filesystem::exists(shard); }))
        << (*client)->Err();
    (*client)->Signal(signal);
    ASSERT_TRUE((*client)->Wait(kLimit).ok());
  }
  const auto rest = cluster_->Cli(arguments("parts"), kLimit);
  ASSERT_TRUE(rest.ok()) << rest.status();
  ASSERT_EQ(rest->exit, (ExitState{0, 0})) << rest->err;
  EXPECT_THAT(rest->err, HasSubstr("going on with "));
  const std::map<std::string, std::string> made = files("whole");
  EXPECT_EQ(made.size(), 2 * 8 + 1u);
  EXPECT_TRUE(files("parts") == made);
}

TEST_F(SamplingServiceTest, TheLoadGeneratorMeasuresAndNothingLeaks) {
  const auto report = cluster_->CliJson({"bench", "sample", "--job", id_, "--closed", "4",
                                         "--requests", "20", "--seconds", "60", "--steps", "3"},
                                        kLimit);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ((*report)["outcomes"]["OK"], 20) << report->dump(1);
  EXPECT_GT((*report)["latency"]["p50_ms"].get<double>(), 0);
  EXPECT_TRUE(AwaitRunning(0));
}

TEST(SamplingBesideTraining, LeavesTheTrainingAsItIs) {
  Cluster cluster;
  ASSERT_TRUE(cluster.Start().ok());
  const TempDir dir;
  const auto weights = [&](const std::string& id, const std::string& name) {
    const auto result =
        cluster.Cli({"ckpt", "export", id, "--weights", "ema", "--out", dir.Sub(name)});
    EXPECT_TRUE(result.ok() && result->exit == (ExitState{0, 0}))
        << result.status() << (result.ok() ? result->err : "");
    return Xxh3Hex(ReadFile(dir.Sub(name)));
  };
  const std::vector<std::string> overrides = {"train.steps=400", "checkpoint.every_steps=20"};
  const auto quiet = SubmitSmoke(cluster, overrides);
  ASSERT_TRUE(quiet.ok()) << quiet.status();
  auto job = AwaitState(cluster, *quiet, "SUCCEEDED", kLimit);
  ASSERT_TRUE(job.ok()) << job.status();

  const auto busy = SubmitSmoke(cluster, overrides);
  ASSERT_TRUE(busy.ok()) << busy.status();
  job = AwaitJob(cluster, *busy, kLimit, [](const nlohmann::json& j) { return RunsPast(j, 20); });
  ASSERT_TRUE(job.ok()) << job.status();
  std::set<std::string> checkpoints;
  bool trained_meanwhile = false;
  for (int i = 0; i < 200; ++i) {
    const auto receipt =
        cluster.CliJson({"sample", "--job", *busy, "--class", "1", "--n", "2", "--seed", "1",
                         "--steps", "10", "--out", dir.Sub("a.png")},
                        kLimit);
    ASSERT_TRUE(receipt.ok()) << receipt.status();
    checkpoints.insert((*receipt)["checkpoint"].get<std::string>());
    const v1::Job now = LookAtJob(cluster, *busy);
    trained_meanwhile |= now.state() == v1::RUNNING && now.progress().step() < 400;
    if (now.state() == v1::SUCCEEDED) break;
  }
  EXPECT_TRUE(trained_meanwhile);
  // The newest checkpoint of a job that trains is a moving one.
  EXPECT_GT(checkpoints.size(), 1u);
  job = AwaitState(cluster, *busy, "SUCCEEDED", kLimit);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(Int(*job, "restarts"), 0);
  EXPECT_EQ(weights(*busy, "busy"), weights(*quiet, "quiet"));
}

}  // namespace
}  // namespace diffmoe::test
