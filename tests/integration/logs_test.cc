// Logs of a job's ranks, from the processes that write them to `diffmoe logs`.
#include <signal.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/job_helpers.h"
#include "tests/support/cluster.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"

namespace diffmoe::test {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kJobLimit = absl::Seconds(90);

std::vector<nlohmann::json> ParseLines(const std::string& text) {
  std::vector<nlohmann::json> lines;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    lines.push_back(nlohmann::json::parse(std::string(line)));
  }
  return lines;
}

TEST(LogsTest, LinesOfBothRanksInOrderWithFilters) {
  ClusterOptions options;
  options.worker_flags = {"--log-format", "json"};
  Cluster cluster(options);
  ASSERT_TRUE(cluster.Start().ok());
  const auto id = SubmitSmoke(cluster);
  ASSERT_TRUE(id.ok()) << id.status();
  ASSERT_TRUE(AwaitState(cluster, *id, "SUCCEEDED", kJobLimit).ok());

  const auto all = cluster.Cli({"logs", *id, "-o", "json"});
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_EQ(all->exit.exit_code, 0) << all->err;
  std::set<int> ranks;
  std::string last_time;
  for (const nlohmann::json& line : ParseLines(all->out)) {
    ranks.insert(line["rank"].get<int>());
    EXPECT_EQ(Int(line, "epoch"), 1);
    if (!line.contains("time")) continue;
    EXPECT_GE(line["time"].get<std::string>(), last_time);
    last_time = line["time"];
    // Each line of a rank says itself what it belongs to.
    const auto text = nlohmann::json::parse(line["text"].get<std::string>());
    EXPECT_EQ(text["job"], *id);
    EXPECT_EQ(text["epoch"], "1");
    EXPECT_EQ(text["rank"], absl::StrCat(line["rank"].get<int>()));
  }
  EXPECT_EQ(ranks, (std::set<int>{0, 1}));

  const auto one = cluster.Cli({"logs", *id, "--rank", "1", "--grep", "world_size", "--tail", "1"});
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_THAT(one->out,
              ContainsRegex("^\\{\"time\":.*\"message\":\"training\".*\"rank\":\"1\"\\}\n$"));
  const auto none = cluster.Cli({"logs", *id, "--since", "1ms"});
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(none->out, "");
  const auto bad = cluster.Cli({"logs", *id, "--rank", "7"});
  ASSERT_TRUE(bad.ok()) << bad.status();
  EXPECT_EQ(bad->exit.exit_code, 3);
  EXPECT_THAT(bad->err, HasSubstr("expected 0 to 1, got 7"));
}

TEST(LogsTest, FollowGoesThroughAKilledRankAndAKilledCoordinator) {
  Cluster cluster;
  ASSERT_TRUE(cluster.Start().ok());
  const auto id = SubmitSmoke(cluster, {"train.steps=400", "checkpoint.every_steps=20"});
  ASSERT_TRUE(id.ok()) << id.status();
  // Through the data directory, so that it finds the coordinator again on another port.
  auto logs =
      Process::Start({.argv = {Program("diffmoe"), "--data-dir", cluster.dir(), "logs", *id, "-f"},
                      .environment = {{"DIFFMOE_SERVER", ""}},
                      .working_dir = ""});
  ASSERT_TRUE(logs.ok()) << logs.status();
  ASSERT_TRUE((*logs)->WaitForText("[rank 1] ", kJobLimit)) << (*logs)->Err();
  ASSERT_TRUE(AwaitJob(cluster, *id, kJobLimit, [](const nlohmann::json& job) {
                return RunsPast(job, 20);
              }).ok());
  cluster.KillCoordinator();
  ASSERT_TRUE((*logs)->WaitForText("trying again", kJobLimit)) << (*logs)->Err();
  ASSERT_TRUE(cluster.StartCoordinator().ok());
  ASSERT_TRUE(AwaitState(cluster, *id, "RUNNING", kJobLimit).ok());
  const auto ranks = ChildrenOf(cluster.worker()->pid(), {"diffmoe-rank", *id, "--rank 1"});
  ASSERT_EQ(ranks.size(), 1u);
  ASSERT_EQ(kill(ranks[0], SIGKILL), 0);
  const auto exit = (*logs)->Wait(kJobLimit);
  ASSERT_TRUE(exit.ok()) << exit.status() << (*logs)->Out() << (*logs)->Err();
  EXPECT_EQ(exit->exit_code, 0) << (*logs)->Err();
  EXPECT_THAT((*logs)->Err(), HasSubstr("attempt 2 begins"));
  // No line twice, and what each attempt said at its start is there.
  std::multiset<std::string> seen;
  int starts = 0;
  for (absl::string_view line : absl::StrSplit((*logs)->Out(), '\n', absl::SkipEmpty())) {
    if (line.find("Z INFO [") == absl::string_view::npos) continue;
    seen.insert(std::string(line));
    EXPECT_EQ(seen.count(std::string(line)), 1u) << line;
    if (line.find("[rank] training ") != absl::string_view::npos) ++starts;
  }
  EXPECT_EQ(starts, 4);
  // The first attempt can still be read.
  const auto first = cluster.Cli({"logs", *id, "--attempt", "1", "--rank", "0"});
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_THAT(first->out, HasSubstr("[rank] training "));
  EXPECT_THAT(first->out, Not(HasSubstr("epoch=2")));
}

TEST(LogsTest, AWorkerThatIsGoneIsNamed) {
  Cluster cluster;
  ASSERT_TRUE(cluster.Start().ok());
  const auto id = SubmitSmoke(cluster);
  ASSERT_TRUE(id.ok()) << id.status();
  ASSERT_TRUE(AwaitState(cluster, *id, "SUCCEEDED", kJobLimit).ok());
  cluster.KillWorker();
  RunResult result;
  ASSERT_TRUE(WaitUntil(absl::Seconds(30), [&] {
    const auto logs = cluster.Cli({"logs", *id});
    if (logs.ok()) result = *logs;
    return result.err.find("is not connected") != std::string::npos;
  })) << result.err;
  EXPECT_EQ(result.exit.exit_code, 0);
  EXPECT_THAT(result.err,
              ContainsRegex("note: worker w-[0-9a-f]+ is not connected; lines of ranks 0, 1"));
  EXPECT_EQ(result.out, "");
}

// `diffmoe up` keeps the output of its services in bounded files.
TEST(LogsTest, UpKeepsTheLogsOfItsServices) {
  Cluster cluster;
  ASSERT_TRUE(cluster.StartUp().ok());
  for (const char* name : {"coordinator", "worker"}) {
    const std::string path = absl::StrCat(cluster.dir(), "/logs/", name, ".log");
    EXPECT_TRUE(WaitUntil(absl::Seconds(20), [&] {
      return ReadFile(path).find(absl::StrCat("[", name, "] ready ")) != std::string::npos;
    })) << ReadFile(path);
  }
}

// Spans of a file, by name.
std::multimap<std::string, nlohmann::json> SpansOf(const std::string& path) {
  std::multimap<std::string, nlohmann::json> spans;
  for (const nlohmann::json& request : ParseLines(ReadFile(path))) {
    const auto& span = request["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    spans.emplace(span["name"].get<std::string>(), span);
  }
  return spans;
}

class TracesTest : public testing::Test {
 protected:
  TracesTest() {
    ClusterOptions options;
    options.coordinator_flags = {"--trace-file", of_coordinator_};
    options.worker_flags = {"--trace-file", of_ranks_};
    cluster_ = std::make_unique<Cluster>(options);
  }
  static std::string Header(const std::string& trace) {
    return "00-" + trace + "-" + kSpan + "-01";
  }
  // A job that has succeeded; its submission belonged to `trace`.
  void RunJob(const std::string& trace) {
    ASSERT_TRUE(cluster_->Start().ok());
    const auto submitted = cluster_->Cli({"--traceparent", Header(trace), "submit", SmokeJob(),
                                          "--set", "checkpoint.every_steps=20"});
    ASSERT_TRUE(submitted.ok()) << submitted.status();
    ASSERT_EQ(submitted->exit.exit_code, 0) << submitted->err;
    id_ = std::string(absl::StripAsciiWhitespace(submitted->out));
    ASSERT_TRUE(AwaitState(*cluster_, id_, "SUCCEEDED", kJobLimit).ok());
  }

  inline static const std::string kSpan = "00f067aa0ba902b7";
  TempDir dir_;
  const std::string of_coordinator_ = dir_.Sub("coordinator.jsonl");
  const std::string of_ranks_ = dir_.Sub("ranks.jsonl");
  std::unique_ptr<Cluster> cluster_;
  std::string id_;
};

// One trace from the client's span over the coordinator's to those of the ranks.
TEST_F(TracesTest, AJobIsOneTraceAcrossTheProcesses) {
  const std::string trace = "4bf92f3577b34da6a3ce929d0e0e4736";
  ASSERT_NO_FATAL_FAILURE(RunJob(trace));
  ASSERT_TRUE(WaitUntil(absl::Seconds(20), [&] {
    return SpansOf(of_coordinator_).contains("attempt") && SpansOf(of_ranks_).count("train") == 2;
  }));
  const auto above = SpansOf(of_coordinator_), below = SpansOf(of_ranks_);
  const nlohmann::json submit = above.find("TrainingJobService/SubmitJob")->second;
  EXPECT_EQ(submit["parentSpanId"], kSpan);
  const nlohmann::json attempt = above.find("attempt")->second;
  EXPECT_EQ(attempt["parentSpanId"], submit["spanId"]);
  std::set<std::string> trains;
  const auto [first, last] = below.equal_range("train");
  for (auto it = first; it != last; ++it) {
    EXPECT_EQ(it->second["parentSpanId"], attempt["spanId"]);
    trains.insert(it->second["spanId"]);
  }
  EXPECT_EQ(below.count("save checkpoint"), 4u);  // of steps 20 and 40, each by two ranks
  const auto [begin, end] = below.equal_range("save checkpoint");
  for (auto it = begin; it != end; ++it) {
    EXPECT_TRUE(trains.contains(it->second["parentSpanId"].get<std::string>()));
  }
  for (const auto& spans : {above, below}) {
    for (const auto& [name, one] : spans) EXPECT_EQ(one["traceId"], trace) << name;
  }
}

TEST_F(TracesTest, ASampleIsOneTraceAcrossTheProcesses) {
  ASSERT_NO_FATAL_FAILURE(RunJob("4bf92f3577b34da6a3ce929d0e0e4736"));
  const std::string trace = "0af7651916cd43dd8448eb211c80319c";
  const auto sampled =
      cluster_->Cli({"--traceparent", Header(trace), "sample", "--job", id_, "--class", "3", "--n",
                     "2", "--steps", "3", "--seed", "1", "--out", dir_.Sub("grid.png")},
                    absl::Seconds(60));
  ASSERT_TRUE(sampled.ok()) << sampled.status();
  ASSERT_EQ(sampled->exit.exit_code, 0) << sampled->err;
  std::map<std::string, nlohmann::json> above, below;
  ASSERT_TRUE(WaitUntil(absl::Seconds(20), [&] {
    for (const auto& [name, span] : SpansOf(of_coordinator_)) {
      if (span["traceId"] == trace) above[name] = span;
    }
    for (const auto& [name, span] : SpansOf(of_ranks_)) {
      if (span["traceId"] == trace) below[name] = span;
    }
    return above.contains("SamplingService/Sample") && below.contains("sample");
  }));
  const std::string call = above["SamplingService/Sample"]["spanId"];
  EXPECT_EQ(above["SamplingService/Sample"]["parentSpanId"], kSpan);
  EXPECT_EQ(above["queue"]["parentSpanId"], call);
  EXPECT_EQ(above["run"]["parentSpanId"], call);
  EXPECT_EQ(below["sample"]["parentSpanId"], above["run"]["spanId"]);
  for (const char* name : {"queue", "load model", "run"}) {
    ASSERT_TRUE(below.contains(name)) << name;
    EXPECT_EQ(below[name]["parentSpanId"], below["sample"]["spanId"]) << name;
  }
  EXPECT_EQ(below["sample"]["status"], nlohmann::json::object());
}

}  // namespace
}  // namespace diffmoe::test
