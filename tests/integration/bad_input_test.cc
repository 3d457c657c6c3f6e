// What a person gets for a mistake: a message that names it, and the exit code that scripts rely
// on.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "core/eval/png.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/job_helpers.h"
#include "tests/support/cluster.h"
#include "tests/support/http.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::Duration kLimit = absl::Seconds(30);

class BadInputTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    cluster_ = new Cluster;
    ASSERT_TRUE(cluster_->Start().ok());
  }
  static void TearDownTestSuite() {
    delete cluster_;
    cluster_ = nullptr;
  }

  // Runs `diffmoe ARGUMENT...` and expects the exit code; returns what it said.
  static std::string Fails(const std::vector<std::string>& arguments, int exit_code) {
    const auto result = cluster_->Cli(arguments);
    if (!result.ok()) {
      ADD_FAILURE() << result.status();
      return "";
    }
    EXPECT_EQ(result->exit, (ExitState{exit_code, 0})) << result->out << result->err;
    return result->out + result->err;
  }

  // The smoke job with one line replaced, as a file.
  std::string Spec(const std::string& line, const std::string& replacement) {
    std::string text = ReadFile(SmokeJob());
    const size_t place = text.find(line);
    EXPECT_NE(place, std::string::npos) << line;
    text.replace(place, line.size(), replacement);
    WriteFile(dir_.Sub("job.yaml"), text);
    return dir_.Sub("job.yaml");
  }

  static Cluster* cluster_;
  TempDir dir_;
};

Cluster* BadInputTest::cluster_ = nullptr;

TEST_F(BadInputTest, FiveFaultsAreFiveReportsWithTheirLines) {
  WriteFile(dir_.Sub("job.yaml"),
            "name: Bad Name\n"  // 1
            "model:\n"
            "  image_size: 32\n"  // 3: not a multiple of 5
            "  channels: 1\n"
            "  patch_size: 5\n"
            "  widht: 64\n"  // 6: unknown key
            "  width: 64\n"
            "  depth: 2\n"
            "  heads: 2\n"
            "  classes: 10\n"
            "data:\n"
            "  format: parquet\n"  // 12
            "  path: /usr/share/datasets/fashion-mnist\n"
            "train:\n"
            "  steps: -3\n"  // 15
            "  global_batch: 16\n");
  const std::string said = Fails({"submit", dir_.Sub("job.yaml")}, 3);
  EXPECT_THAT(said, HasSubstr("5 faults"));
  for (const int line : {1, 3, 6, 12, 15}) {
    EXPECT_THAT(said, HasSubstr("job.yaml:" + std::to_string(line) + ":"));
  }
  EXPECT_THAT(said, AllOf(HasSubstr("widht"), HasSubstr("width")));
}

TEST_F(BadInputTest, UnknownKeyNamesTheNearestOne) {
  EXPECT_THAT(Fails({"submit", Spec("global_batch: 16", "global_batch: 16\n  sede: 4")}, 3),
              AllOf(HasSubstr("train.sede"), HasSubstr("seed")));
}

TEST_F(BadInputTest, FewerTokensThanExperts) {
  // One sample of four tokens for eight experts.
  const std::string said = Fails(
      {"submit", SmokeJob(), "--set", "model.patch_size=16", "--set", "model.experts=8", "--set",
       "train.global_batch=1", "--set", "train.unit_samples=1", "--set", "parallel.ranks=1"},
      3);
  EXPECT_THAT(said, AllOf(HasSubstr("experts"), HasSubstr("8"), HasSubstr("4")));
}

TEST_F(BadInputTest, RanksThatDoNotDivideTheBatch) {
  EXPECT_THAT(Fails({"submit", SmokeJob(), "--set", "parallel.ranks=3"}, 3),
              AllOf(HasSubstr("ranks"), HasSubstr("16"), HasSubstr("3")));
}

TEST_F(BadInputTest, SpecFileThatIsNotThere) {
  EXPECT_THAT(Fails({"submit", dir_.Sub("no.yaml")}, 4), HasSubstr(dir_.Sub("no.yaml")));
}

TEST_F(BadInputTest, MissingDataDirectoryFailsTheJob) {
  const std::string said =
      Fails({"submit", SmokeJob(), "--set", "data.path=/nowhere/images", "--follow"}, 10);
  EXPECT_THAT(said, AllOf(HasSubstr("failed"), HasSubstr("/nowhere/images")));
}

// Two classes of ten grey images each.
void WriteImages(const std::string& dir) {
  for (const char* label : {"cats", "dogs"}) {
    std::filesystem::create_directories(dir + "/" + label);
    for (int i = 0; i < 10; ++i) {
      const std::vector<uint8_t> pixels(32 * 32, static_cast<uint8_t>(25 * i));
      const std::string path = dir + "/" + label + "/" + std::to_string(i) + ".png";
      ASSERT_TRUE(WritePng(path, 32, 32, 1, pixels).ok());
    }
  }
}

std::vector<std::string> FolderJob(const std::string& dir) {
  return {"submit",  SmokeJob(),         "--set", "data.format=folder",
          "--set",   "data.path=" + dir, "--set", "data.resize=crop",
          "--set",   "train.steps=2",    "--set", "train.global_batch=8",
          "--follow"};
}

TEST_F(BadInputTest, DamagedImageIsSkippedAndCounted) {
  ASSERT_NO_FATAL_FAILURE(WriteImages(dir_.Sub("data")));
  WriteFile(dir_.Sub("data/cats/3.png"), "\x89PNG\r\n\x1a\nno image");
  const auto result = cluster_->Cli(FolderJob(dir_.Sub("data")), kLimit);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->exit, (ExitState{0, 0})) << result->out << result->err;
  const auto job = cluster_->CliJson({"job", "get", result->out.substr(0, result->out.find('\n'))});
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(Int((*job)["progress"], "bad_files"), 1);
}

TEST_F(BadInputTest, TooManyDamagedImagesFailTheJob) {
  ASSERT_NO_FATAL_FAILURE(WriteImages(dir_.Sub("data")));
  WriteFile(dir_.Sub("data/cats/3.png"), "\x89PNG\r\n\x1a\nno image");
  std::vector<std::string> arguments = FolderJob(dir_.Sub("data"));
  arguments.insert(arguments.end(), {"--set", "data.max_bad_files=0"});
  EXPECT_THAT(Fails(arguments, 10), HasSubstr("cats/3.png"));
}

TEST_F(BadInputTest, UnknownJob) {
  EXPECT_THAT(Fails({"job", "get", "nobody-7"}, 4), HasSubstr("nobody-7"));
  EXPECT_THAT(Fails({"sample", "--job", "nobody-7", "--class", "0"}, 4), HasSubstr("nobody-7"));
}

TEST_F(BadInputTest, ClassOutOfRange) {
  const auto id = SubmitSmoke(*cluster_, {"train.steps=1", "parallel.ranks=1"});
  ASSERT_TRUE(id.ok()) << id.status();
  const auto job = AwaitState(*cluster_, *id, "SUCCEEDED", kLimit);
  ASSERT_TRUE(job.ok()) << job.status();
  for (const char* label : {"10", "-1"}) {
    EXPECT_THAT(
        Fails({"sample", "--job", *id, "--class=" + std::string(label), "--out", dir_.Sub("a.png")},
              3),
        AllOf(HasSubstr(label), HasSubstr("9")));
  }
  EXPECT_FALSE(std::filesystem::exists(dir_.Sub("a.png")));
}

TEST_F(BadInputTest, JobLargerThanTheClusterWaitsAndSaysWhy) {
  const auto id = SubmitSmoke(*cluster_, {"parallel.ranks=4"});
  ASSERT_TRUE(id.ok()) << id.status();
  const auto why = cluster_->Cli({"job", "why", *id});
  ASSERT_TRUE(why.ok()) << why.status();
  EXPECT_THAT(why->out, AllOf(HasSubstr("QUEUED"), HasSubstr("4"), HasSubstr("3")));
  EXPECT_EQ(cluster_->Cli({"job", "cancel", *id})->exit, (ExitState{0, 0}));
}

TEST_F(BadInputTest, MistypedCommandAndFlag) {
  EXPECT_THAT(Fails({"sumbit", SmokeJob()}, 2), HasSubstr("submit"));
  EXPECT_THAT(Fails({"sample", "--job", "a", "--class", "0", "--n", "many"}, 2), HasSubstr("--n"));
}

TEST_F(BadInputTest, SecondCoordinatorOnOneDirectory) {
  const auto result =
      RunProcess({.argv = {Program("diffmoe-coordinator"), "--data-dir", cluster_->CoordinatorDir(),
                           "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"},
                  .environment = {},
                  .working_dir = ""},
                 kLimit);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->exit, (ExitState{6, 0}));
  EXPECT_THAT(result->err, AllOf(HasSubstr(cluster_->CoordinatorDir()),
                                 HasSubstr(std::to_string(cluster_->coordinator()->pid()))));
  // The first one is unhurt.
  EXPECT_EQ(cluster_->Cli({"jobs"})->exit, (ExitState{0, 0}));
}

// Starts a coordinator that can't run; returns what it said.
std::string CoordinatorFails(const std::vector<std::string>& flags, int exit_code,
                             const std::vector<std::string>& before = {}) {
  std::vector<std::string> argv = before;
  argv.push_back(Program("diffmoe-coordinator"));
  argv.insert(argv.end(), flags.begin(), flags.end());
  const auto result = RunProcess({.argv = argv, .environment = {}, .working_dir = ""}, kLimit);
  if (!result.ok()) {
    ADD_FAILURE() << result.status();
    return "";
  }
  EXPECT_EQ(result->exit, (ExitState{exit_code, 0})) << result->err;
  return result->err;
}

TEST(CoordinatorStartTest, UnwritableDataDirectory) {
  const TempDir dir;
  ASSERT_EQ(mkdir(dir.Sub("data").c_str(), 0555), 0);
  ASSERT_EQ(chmod(dir.path().c_str(), 0755), 0);
  // Root may write anywhere, so the program runs as another user.
  std::vector<std::string> as_nobody;
  if (geteuid() == 0) as_nobody = {"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"};
  EXPECT_THAT(CoordinatorFails({"--data-dir", dir.Sub("data"), "--listen", "127.0.0.1:0",
                                "--metrics-listen", "127.0.0.1:0"},
                               5, as_nobody),
              HasSubstr(dir.Sub("data")));
}

TEST(CoordinatorStartTest, PortInUse) {
  const TempDir dir;
  const HeldPort port;
  EXPECT_THAT(CoordinatorFails({"--data-dir", dir.Sub("a"), "--listen", port.address(),
                                "--metrics-listen", "127.0.0.1:0"},
                               6),
              HasSubstr(port.address()));
  EXPECT_THAT(CoordinatorFails({"--data-dir", dir.Sub("b"), "--listen", "127.0.0.1:0",
                                "--metrics-listen", port.address()},
                               6),
              HasSubstr(port.address()));
}

TEST(CoordinatorStartTest, BadFlag) {
  EXPECT_THAT(CoordinatorFails({"--data-dir", "x", "--lsiten", "y"}, 2), HasSubstr("--lsiten"));
}

TEST(WorkerStartTest, RetriesUntilTheCoordinatorIsThere) {
  Cluster cluster;
  absl::Status status = cluster.StartWorker();
  ASSERT_TRUE(status.ok()) << status;
  // It says whom it can't reach, and that it goes on.
  ASSERT_TRUE(cluster.worker()->WaitForText("coordinator.json", absl::Seconds(20)))
      << cluster.worker()->Err();
  EXPECT_THAT(cluster.worker()->Err(), HasSubstr("next_attempt_in="));
  EXPECT_TRUE(cluster.worker()->Running());
  status = cluster.StartCoordinator();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_TRUE(WaitUntil(kLimit, [&] {
    const auto workers = cluster.CliJson({"workers"});
    return workers.ok() && (*workers)["workers"].size() == 1;
  })) << cluster.worker()->Err();
}

TEST(ClientTest, CoordinatorThatIsNotThere) {
  std::string address;
  {
    const HeldPort port;
    address = port.address();
  }
  const auto result = RunProcess({.argv = {Program("diffmoe"), "--server", address, "jobs"},
                                  .environment = {},
                                  .working_dir = ""},
                                 kLimit);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->exit, (ExitState{8, 0}));
  EXPECT_THAT(result->err, HasSubstr(address));
}

}  // namespace
}  // namespace diffmoe::test
