// `diffmoe sample-set`, stopped in every way and gone on with.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "core/base/exit_code.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/cluster.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"
#include "tests/unit/client/fake_api.h"
#include "tests/unit/client/fake_sampler.h"

namespace diffmoe {
namespace {

using Writer = grpc::ServerWriter<v1::SampleResponse>;

class SampleSetTest : public testing::Test {
 protected:
  SampleSetTest() {
    server_.api.checkpoint.set_name("jobs/a-1/checkpoints/200");
    server_.api.sample_many = [this](FakeApi::Context* context, const v1::SampleRequest& request,
                                     Writer* writer) {
      const int call = ++calls_;
      if (call > hold_after_) {
        test::WaitUntil(absl::Seconds(30), [&] { return context->IsCancelled(); });
        return grpc::Status::CANCELLED;
      }
      if (call > fail_after_) return failure_;
      {
        absl::MutexLock lock(&mutex_);
        requests_.push_back(request);
      }
      return FakeSample(request, writer);
    };
  }

  std::vector<std::string> Arguments(const std::string& out) const {
    return {"sample-set", "--job",       "a-1",   "--count",
            "50",         "--classes",   "4,7,9", "--seed",
            "5",          "--out",       out,     "--shard-images",
            "16",         "--in-flight", "3",     "--request-images",
            "5"};
  }
  // `more`: flags with values, in place of the usual ones or beside them.
  CliResult Make(const std::string& out, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = Arguments(out);
    for (size_t i = 0; i < more.size(); i += 2) {
      const auto found = std::find(arguments.begin(), arguments.end(), more[i]);
      if (found == arguments.end()) {
        arguments.insert(arguments.end(), {more[i], more[i + 1]});
      } else {
        *(found + 1) = more[i + 1];
      }
    }
    return server_.Cli(arguments);
  }

  // Every file of a folder by name.
  static std::map<std::string, std::string> Files(const std::string& directory) {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      files[entry.path().filename().string()] = test::ReadFile(entry.path().string());
    }
    return files;
  }

  std::map<std::string, std::string> Uninterrupted() {
    const std::string out = dir_.Sub("whole");
    const CliResult result = Make(out);
    EXPECT_EQ(result.exit_code, kExitOk) << result.err;
    return Files(out);
  }

  test::TempDir dir_;
  std::string out_ = dir_.Sub("set");
  FakeServer server_;
  std::atomic<int> calls_ = 0;
  std::atomic<int> fail_after_ = 1'000'000;
  std::atomic<int> hold_after_ = 1'000'000;
  grpc::Status failure_{grpc::StatusCode::INTERNAL, "broken"};
  absl::Mutex mutex_;
  std::vector<v1::SampleRequest> requests_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(SampleSetTest, MakesExactlyTheImagesThatTheRuleSays) {
  const CliResult result = Make(out_, {"-o", "json"});
  ASSERT_EQ(result.exit_code, kExitOk) << result.err;
  const std::map<std::string, std::string> files = Files(out_);
  EXPECT_EQ(files.size(), 9u);  // four shards of two files, and set.json
  v1::SampleRequest request;
  request.set_seed(5);
  std::string images, labels;
  for (int i = 0; i < 50; ++i) {
    request.clear_classes();
    request.add_classes(std::vector<int>{4, 7, 9}[i % 3]);
    request.set_first_image(static_cast<uint32_t>(i));
    images += FakePixels(request, 0);
    const int64_t label = request.classes(0);
    labels.append(reinterpret_cast<const char*>(&label), sizeof(label));
  }
  std::string got_images, got_labels;
  for (int shard = 0; shard < 4; ++shard) {
    got_images += files.at(absl::StrCat("images-0000", shard, ".npy")).substr(128);
    got_labels += files.at(absl::StrCat("labels-0000", shard, ".npy")).substr(128);
  }
  EXPECT_EQ(got_images, images);
  EXPECT_EQ(got_labels, labels);
  const nlohmann::json json = nlohmann::json::parse(result.out);
  EXPECT_EQ(result.out, files.at("set.json"));
  EXPECT_EQ(json["complete"], true);
  EXPECT_EQ(json["images_done"], 50);
  EXPECT_EQ(json["shards"].size(), 4);
  EXPECT_EQ(json["shards"][3]["images"], 2);
  EXPECT_EQ(json["checkpoint"], "jobs/a-1/checkpoints/200");
}

TEST_F(SampleSetTest, TheCheckpointIsFoundOnce) {
  fail_after_ = 5;
  EXPECT_EQ(Make(out_).exit_code, kExitInternal);
  EXPECT_EQ(server_.api.asked_name, "jobs/a-1/checkpoints/latest");
  // Training goes on in between.
  server_.api.checkpoint.set_name("jobs/a-1/checkpoints/300");
  server_.api.asked_name.clear();
  fail_after_ = 1'000'000;
  EXPECT_EQ(Make(out_).exit_code, kExitOk);
  EXPECT_EQ(server_.api.asked_name, "");
  absl::MutexLock lock(&mutex_);
  for (const v1::SampleRequest& request : requests_) {
    EXPECT_EQ(request.checkpoint(), "jobs/a-1/checkpoints/200");
  }
}

TEST_F(SampleSetTest, AfterAnErrorAtAnyPointTheResultIsTheSame) {
  const std::map<std::string, std::string> whole = Uninterrupted();
  for (int fail_after : {0, 1, 4, 7, 11}) {
    const std::string out = dir_.Sub(absl::StrCat("set", fail_after));
    calls_ = 0;
    fail_after_ = fail_after;
    const CliResult broken = Make(out);
    EXPECT_EQ(broken.exit_code, kExitInternal) << broken.err;
    EXPECT_TRUE(absl::StrContains(broken.err, "the same command goes on")) << broken.err;
    fail_after_ = 1'000'000;
    // In other portions, which have no influence.
    const CliResult rest = Make(out, {"--in-flight", "1", "--request-images", "7"});
    EXPECT_EQ(rest.exit_code, kExitOk) << rest.err;
    EXPECT_TRUE(Files(out) == whole) << fail_after;
  }
}

TEST_F(SampleSetTest, AKilledRunIsGoneOnWithFromItsWholeShards) {
  const std::map<std::string, std::string> whole = Uninterrupted();
  calls_ = 0;
  hold_after_ = 8;
  for (const int signal : {SIGKILL, SIGINT}) {
    std::vector<std::string> argv = {test::Program("diffmoe"), "--server", server_.address};
    const std::vector<std::string> arguments = Arguments(out_);
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    auto process = test::Process::Start({.argv = argv, .environment = {}, .working_dir = ""});
    ASSERT_TRUE(process.ok()) << process.status();
    ASSERT_TRUE(test::WaitUntil(absl::Seconds(20), [&] { return calls_ > hold_after_; }));
    (*process)->Signal(signal);
    const auto exit = (*process)->Wait(absl::Seconds(20));
    ASSERT_TRUE(exit.ok()) << exit.status();
    if (signal == SIGINT) {
      EXPECT_EQ(exit->exit_code, kExitInterrupted);
      EXPECT_TRUE(absl::StrContains((*process)->Err(), "Interrupted; "));
    }
    calls_ = 0;
    hold_after_ = 3;
  }
  hold_after_ = 1'000'000;
  const CliResult rest = Make(out_);
  EXPECT_EQ(rest.exit_code, kExitOk) << rest.err;
  EXPECT_TRUE(absl::StrContains(rest.err, "going on with ")) << rest.err;
  EXPECT_TRUE(Files(out_) == whole);
}

TEST_F(SampleSetTest, DamagedAndLostShardsAreMadeAgain) {
  const std::map<std::string, std::string> whole = Uninterrupted();
  ASSERT_EQ(Make(out_).exit_code, kExitOk);
  std::string bytes = test::ReadFile(out_ + "/images-00001.npy");
  bytes[150] ^= 1;
  test::WriteFile(out_ + "/images-00001.npy", bytes);
  std::filesystem::remove(out_ + "/labels-00003.npy");
  calls_ = 0;
  const CliResult result = Make(out_);
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, "images-00001.npy: expected hash")) << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, "going on with 32 of 50")) << result.err;
  EXPECT_EQ(calls_, 4 + 1);  // 16 and 2 images
  EXPECT_TRUE(Files(out_) == whole);
  calls_ = 0;
  EXPECT_EQ(Make(out_).exit_code, kExitOk);
  EXPECT_EQ(calls_, 0);
}

TEST_F(SampleSetTest, OtherParametersAreRefused) {
  ASSERT_EQ(Make(out_).exit_code, kExitOk);
  for (const auto& [text, arguments] :
       std::vector<std::pair<std::string, std::vector<std::string>>>{
           {"seed: it has \"5\", asked for \"6\"", {"--seed", "6"}},
           {"steps: it has the default, asked for 7", {"--steps", "7"}},
           {"count: it has 50, asked for 51", {"--count", "51"}},
           {"classes: it has [4,7,9], asked for [4]", {"--classes", "4"}}}) {
    const CliResult result = Make(out_, arguments);
    EXPECT_EQ(result.exit_code, kExitConflict) << result.err;
    EXPECT_TRUE(absl::StrContains(result.err, text)) << result.err;
  }
}

TEST_F(SampleSetTest, AForeignFolderAndASecondProcessAreRefused) {
  std::filesystem::create_directories(out_);
  test::WriteFile(out_ + "/notes.txt", "mine");
  EXPECT_EQ(Make(out_).exit_code, kExitConflict);
  const std::string empty = dir_.Sub("empty");
  std::filesystem::create_directories(empty);
  const int other = open(empty.c_str(), O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(flock(other, LOCK_EX), 0);
  const CliResult busy = Make(empty);
  EXPECT_EQ(busy.exit_code, kExitConflict);
  EXPECT_TRUE(absl::StrContains(busy.err, "another process")) << busy.err;
  close(other);
  EXPECT_EQ(Make(empty).exit_code, kExitOk);
}

TEST_F(SampleSetTest, ATextThatIsNotUtf8BeginsNoSet) {
  const CliResult result = Make(out_, {"--sampler", "eu\xffler"});
  EXPECT_EQ(result.exit_code, kExitUsage) << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, "--sampler: expected UTF-8")) << result.err;
  EXPECT_FALSE(std::filesystem::exists(out_));
}

TEST_F(SampleSetTest, RequestsAreRepeatedWhenTheServerIsBusyOrAway) {
  std::atomic<int> calls = 0;
  server_.api.sample_many = [&](FakeApi::Context*, const v1::SampleRequest& request,
                                Writer* writer) {
    const int call = ++calls;
    if (call == 2) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "sampler lost");
    if (call == 3) {
      v1::ErrorDetails details;
      details.set_reason(v1::QUEUE_FULL);
      details.set_retry_delay_ms(1);
      return ApiError(grpc::StatusCode::RESOURCE_EXHAUSTED, "full", details);
    }
    return FakeSample(request, writer);
  };
  const CliResult result = Make(out_);
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, "trying again in")) << result.err;
  EXPECT_EQ(calls, 4 + 4 + 4 + 1 + 2);
}

TEST_F(SampleSetTest, PatienceEnds) {
  fail_after_ = 0;
  failure_ = grpc::Status(grpc::StatusCode::UNAVAILABLE, "away");
  const CliResult result = Make(out_, {"--patience", "100ms"});
  EXPECT_EQ(result.exit_code, kExitUnavailable);
  EXPECT_TRUE(absl::StrContains(result.err, "no request finished for 100ms")) << result.err;
}

TEST_F(SampleSetTest, OtherWeightsInTheMiddleEndTheSet) {
  std::atomic<int> calls = 0;
  server_.api.sample_many = [&](FakeApi::Context*, const v1::SampleRequest& request,
                                Writer* writer) {
    for (int i = 0; i < request.count(); ++i) writer->Write(FakeImage(request, i));
    v1::SampleResponse event;
    *event.mutable_finished()->mutable_receipt() = FakeReceipt(request);
    if (++calls == 6) event.mutable_finished()->mutable_receipt()->set_thresholds_hash("cccc");
    writer->Write(event);
    return grpc::Status::OK;
  };
  const CliResult result = Make(out_);
  EXPECT_EQ(result.exit_code, kExitConflict);
  EXPECT_TRUE(absl::StrContains(result.err, "thresholds_hash: expected \"bbbb\", got \"cccc\""))
      << result.err;
}

}  // namespace
}  // namespace diffmoe
