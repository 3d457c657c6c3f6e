#include "client/command_line.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/exit_code.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/unit/client/fake_api.h"

namespace diffmoe {
namespace {

using Arguments = std::vector<std::string>;

TEST(CommandLine, UsageErrorsExitWithTwo) {
  for (const Arguments& arguments :
       {Arguments{},
        {"jbos"},
        {"job"},
        {"job", "get"},
        {"job", "wyh", "a-1"},
        {"jobs", "--nope"},
        {"jobs", "extra"},
        {"jobs", "-o", "xml"},
        {"submit"},
        {"sample", "--job", "a-1"},
        {"sample", "--class", "1"},
        {"sample", "--job", "a-1", "--class", "x"},
        {"sample", "--job", "a-1", "--class", "1", "--n", "0"},
        {"sample", "--job", "a-1", "--class", "1", "--n", "1000000"},
        {"sample", "--job", "a-1", "--class", "1", "--seed", "-1"},
        {"sample", "--job", "a-1", "--class", "1", "--seed", "18446744073709551616"},
        {"sample", "--job", "a-1", "--class", "1", "--guidance", "much"},
        {"sample", "--job", "a-1", "--class", "1", "--guidance-interval", "0.5"},
        {"sample", "--job", "a-1", "--class", "1", "--guidance-interval", "0.1,a"},
        {"sample", "--job", "a-1@5", "--class", "1"},
        {"metrics", "a-1", "--points", "0"},
        {"ckpt", "get", "a-1", "soon"},
        {"up", "--slots", "0"},
        {"up", "--slots", "many"}}) {
    const CliResult result = FakeServer::RunCli(arguments);
    EXPECT_EQ(result.exit_code, kExitUsage) << testing::PrintToString(arguments) << result.err;
    EXPECT_TRUE(absl::StartsWith(result.err, "diffmoe: ")) << result.err;
    EXPECT_EQ(result.out, "");
  }
}

TEST(CommandLine, NamesTheNearestCommand) {
  EXPECT_EQ(FakeServer::RunCli({"-o", "json", "jbos"}).err,
            "diffmoe: no command \"jbos\"; did you mean `jobs`?\n"
            "`diffmoe --help` and `diffmoe COMMAND --help` say how to use it.\n");
  EXPECT_TRUE(absl::StartsWith(FakeServer::RunCli({"job", "wyh", "a-1"}).err,
                               "diffmoe: no command \"wyh\"; did you mean `why`?\n"));
  EXPECT_TRUE(
      absl::StartsWith(FakeServer::RunCli({"zzzzzz"}).err, "diffmoe: no command \"zzzzzz\"\n"));
}

TEST(CommandLine, HelpIsNoError) {
  const CliResult help = FakeServer::RunCli({"--help"});
  EXPECT_EQ(help.exit_code, kExitOk);
  for (const char* command : {"up", "submit", "jobs", "job", "watch", "metrics", "ckpt", "sample",
                              "workers", "explain"}) {
    EXPECT_TRUE(absl::StrContains(help.out, absl::StrCat("\n  ", command, " "))) << command;
    EXPECT_EQ(FakeServer::RunCli({command, "--help"}).exit_code, kExitOk) << command;
  }
  EXPECT_EQ(FakeServer::RunCli({"--version"}).exit_code, kExitOk);
}

TEST(CommandLine, UnreachableCoordinatorIsUnavailableAndSaysWhatToDo) {
  // Port 1 on loopback: nothing listens there.
  const CliResult result = FakeServer::RunCli({"--server", "127.0.0.1:1", "jobs"});
  EXPECT_EQ(result.exit_code, kExitUnavailable);
  EXPECT_TRUE(absl::StartsWith(
      result.err, "diffmoe: no answer from the coordinator at 127.0.0.1:1 (given by --server): "))
      << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, "`diffmoe up`")) << result.err;
}

TEST(CommandLine, UnknownJobIsNotFound) {
  FakeServer server;
  v1::ErrorDetails details;
  details.set_reason(v1::JOB_NOT_FOUND);
  details.set_resource("jobs/none");
  server.api.answer = ApiError(grpc::StatusCode::NOT_FOUND, "no job \"none\"", details);
  for (const Arguments& arguments : {Arguments{"job", "get", "none"},
                                     {"job", "why", "none"},
                                     {"job", "events", "none"},
                                     {"job", "cancel", "none"},
                                     {"metrics", "none"},
                                     {"ckpt", "ls", "none"}}) {
    const CliResult result = server.Cli(arguments);
    EXPECT_EQ(result.exit_code, kExitNotFound) << arguments[1];
    EXPECT_EQ(result.err, "diffmoe: no job \"none\"\n`diffmoe jobs` lists the jobs.\n");
  }
}

TEST(CommandLine, GlobalFlagsMayStandAnywhere) {
  FakeServer server;
  server.api.job.set_id("a-1");
  const CliResult behind =
      FakeServer::RunCli({"job", "get", "a-1", "-o", "json", "--server", server.address});
  EXPECT_EQ(behind.exit_code, kExitOk) << behind.err;
  EXPECT_EQ(nlohmann::json::parse(behind.out)["id"], "a-1");
  EXPECT_EQ(server.api.asked_name, "jobs/a-1");
}

TEST(CommandLine, ReadsEveryFormat) {
  FakeServer server;
  server.api.job.set_id("a-1");
  server.api.job.set_state(v1::QUEUED);
  server.api.job.set_reason("needs \"2\" slots");
  EXPECT_EQ(server.Cli({"jobs"}).out,
            "JOB  STATE   STEP  LOSS  IMAGES/S  AGE  REASON\n"
            "a-1  QUEUED     -     -         -    -  needs \"2\" slots\n"
            "a-1  QUEUED     -     -         -    -  needs \"2\" slots\n");
  const auto json = nlohmann::json::parse(server.Cli({"jobs", "-o", "json"}).out);
  ASSERT_EQ(json["jobs"].size(), 2u);
  EXPECT_EQ(json["jobs"][1]["state"], "QUEUED");
  EXPECT_EQ(json["jobs"][0]["latest_checkpoint_step"], "0");
  const CliResult yaml = server.Cli({"job", "get", "a-1", "-o", "yaml"});
  EXPECT_TRUE(absl::StrContains(yaml.out, "\nreason: \"needs \\\"2\\\" slots\"\n")) << yaml.out;
  EXPECT_EQ(server.Cli({"jobs", "--limit", "1", "-o", "json"}).exit_code, kExitOk);
}

TEST(CommandLine, EveryReadWorksOnEmptyAnswers) {
  FakeServer server;
  for (const Arguments& arguments : {Arguments{"jobs"},
                                     {"job", "get", "a-1"},
                                     {"job", "why", "a-1"},
                                     {"job", "events", "a-1"},
                                     {"metrics", "a-1"},
                                     {"ckpt", "ls", "a-1"},
                                     {"ckpt", "get", "a-1"},
                                     {"ckpt", "get", "a-1", "--history"},
                                     {"workers"}}) {
    for (const char* format : {"table", "json", "yaml"}) {
      Arguments all = arguments;
      all.insert(all.end(), {"-o", format});
      const CliResult result = server.Cli(all);
      EXPECT_EQ(result.exit_code, kExitOk) << testing::PrintToString(all) << result.err;
      EXPECT_FALSE(result.out.empty());
      EXPECT_EQ(result.err, "");
      if (std::string(format) == "json") {
        EXPECT_FALSE(nlohmann::json::parse(result.out, nullptr, false).is_discarded())
            << result.out;
      }
    }
  }
}

TEST(CommandLine, CheckpointsAreAskedForByStepOrLatest) {
  FakeServer server;
  server.Cli({"ckpt", "get", "a-1"});
  EXPECT_EQ(server.api.asked_name, "jobs/a-1/checkpoints/latest");
  server.Cli({"ckpt", "get", "a-1", "200"});
  EXPECT_EQ(server.api.asked_name, "jobs/a-1/checkpoints/200");
}

TEST(Explain, ShowsFieldsSectionsAndNearestNames) {
  EXPECT_EQ(
      FakeServer::RunCli({"explain", "model.capacity"}).out,
      "model.capacity\n"
      "  Training capacity C: each expert takes C * tokens / experts of the tokens in its pool, "
      "so a token meets C experts on average.\n\n"
      "  expects   a number\n"
      "  range     above 0 to 64\n"
      "  default   1\n"
      "  only for  model.family expert_choice, diffmoe\n");
  EXPECT_TRUE(absl::StrContains(FakeServer::RunCli({"explain", "model.width"}).out,
                                "\n  default  required unless model.size\n"));
  EXPECT_TRUE(absl::StrContains(FakeServer::RunCli({"explain", "model.size"}).out,
                                "\n  expects  one of S, B, L, XL\n"));
  EXPECT_TRUE(absl::StrContains(FakeServer::RunCli({"explain", "data"}).out, "\ndata.path "));
  EXPECT_TRUE(absl::StrContains(FakeServer::RunCli({"explain"}).out, "\ncheckpoint.keep "));
  const CliResult unknown = FakeServer::RunCli({"explain", "model.expert"});
  EXPECT_EQ(unknown.exit_code, kExitNotFound);
  EXPECT_EQ(unknown.err, "diffmoe: no field \"model.expert\"; did you mean \"model.experts\"?\n");
  const auto json =
      nlohmann::json::parse(FakeServer::RunCli({"explain", "model", "-o", "json"}).out);
  EXPECT_EQ(json[0]["field"], "model");
  EXPECT_EQ(json[1]["expects"], "one of dense, token_choice, expert_choice, diffmoe");
}

}  // namespace
}  // namespace diffmoe
