// What people and scripts see: the output of every command that reads, in every format, every error
// text and every exit code, compared with the files in golden/. After a wanted change the message
// of the failed test names the file that holds the new text.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "client/api_status.h"
#include "client/bench/load_report.h"
#include "client/command_line.h"
#include "core/base/exit_code.h"
#include "google/protobuf/descriptor.h"
#include "nlohmann/json.hpp"
#include "tests/support/temp_dir.h"
#include "tests/unit/client/fake_api.h"
#include "yaml-cpp/yaml.h"

namespace diffmoe {
namespace {

constexpr int64_t kNow = 1'800'000'000;  // of FixedClock, seconds

void ExpectGolden(const std::string& name, const std::string& text) {
  const std::string path = absl::StrCat(DIFFMOE_SOURCE_DIR, "/tests/unit/client/golden/", name);
  const std::string expected =
      std::filesystem::exists(path) ? test::ReadFile(path) : "(no such file)\n";
  if (text == expected) return;
  const std::string actual = absl::StrCat(testing::TempDir(), "golden-", name);
  test::WriteFile(actual, text);
  ADD_FAILURE() << path << " differs from what there is now:\n"
                << text << "If that is meant: cp " << actual << " " << path;
}

v1::Job ExampleJob() {
  v1::Job job;
  job.set_id("fashion-1");
  job.set_state(v1::RUNNING);
  job.set_reason("training");
  job.set_reason_code(v1::REASON_TRAINING);
  job.set_priority(5);
  (*job.mutable_labels())["team"] = "vision";
  job.mutable_spec()->mutable_parallel()->set_ranks(2);
  job.mutable_create_time()->set_seconds(kNow - 300);
  job.mutable_start_time()->set_seconds(kNow - 290);
  job.set_epoch(2);
  job.set_restarts(1);
  job.set_latest_checkpoint_step(200);
  v1::Attempt& first = *job.add_attempts();
  first.set_epoch(1);
  first.mutable_start_time()->set_seconds(kNow - 290);
  first.mutable_end_time()->set_seconds(kNow - 100);
  first.set_last_step(230);
  first.set_end_cause(v1::END_CAUSE_SIGNAL);
  first.set_end_reason("rank 1 on worker w-1 was killed by signal 9");
  v1::Attempt& second = *job.add_attempts();
  second.set_epoch(2);
  second.mutable_start_time()->set_seconds(kNow - 90);
  second.set_restored_step(200);
  second.set_restored_from("jobs/fashion-1/checkpoints/200");
  second.set_last_step(812);
  for (int rank = 0; rank < 2; ++rank) {
    v1::Placement& placement = *second.add_placements();
    placement.set_rank(rank);
    placement.set_worker_id("w-1");
    placement.set_slot(rank);
  }
  v1::Progress& progress = *job.mutable_progress();
  progress.set_step(812);
  progress.set_total_steps(1767);
  progress.set_loss(0.1715);
  progress.set_predictor_loss(0.3);
  progress.set_images_per_second(117.62);
  progress.set_learning_rate(0.002);
  progress.set_grad_norm(0.5);
  progress.set_elapsed_seconds(240);
  progress.set_seconds_left(252);
  v1::LayerStats& layer = *progress.add_layers();
  layer.set_block(1);
  layer.set_capacity(0.99);
  layer.set_predictor_accuracy(0.931);
  layer.set_zero_expert_tokens(0.25);
  for (const float value : {0.5F, 0.25F}) layer.add_thresholds(value);
  for (const float value : {0.9F, 1.1F}) layer.add_expert_load(value);
  return job;
}

v1::Checkpoint ExampleCheckpoint() {
  v1::Checkpoint checkpoint;
  checkpoint.set_name("jobs/fashion-1/checkpoints/200");
  checkpoint.set_job_id("fashion-1");
  checkpoint.set_step(200);
  checkpoint.set_epoch(1);
  checkpoint.mutable_commit_time()->set_seconds(kNow - 75);
  checkpoint.set_bytes(20 << 20);
  checkpoint.set_world_size(2);
  checkpoint.set_loss(0.2);
  checkpoint.set_pinned(true);
  v1::LayerThresholds& layer = *checkpoint.add_thresholds();
  layer.set_block(1);
  for (const float value : {0.5F, 0.25F}) layer.add_thresholds(value);
  v1::TensorInfo& tensor = *checkpoint.add_tensors();
  tensor.set_name("model/blocks.1.mlp.gate.weight");
  tensor.set_dtype("F32");
  tensor.add_shape(4);
  tensor.add_shape(64);
  tensor.set_bytes(1024);
  return checkpoint;
}

void FillCluster(FakeApi* api) {
  api->job = ExampleJob();
  v1::JobEvent& event = *api->events.add_events();
  event.set_sequence(1);
  event.mutable_time()->set_seconds(kNow - 300);
  event.set_state(v1::QUEUED);
  event.set_message("submitted");
  for (int i = 1; i <= 3; ++i) {
    v1::StepRecord& record = *api->records.add_records();
    record.set_step(i);
    record.set_loss(1.0F / static_cast<float>(i));
    record.set_predictor_loss(0.5F);
    record.set_grad_norm(2);
    record.set_learning_rate(0.001);
  }
  v1::Worker& worker = *api->workers.add_workers();
  worker.set_id("w-1");
  worker.set_host("box");
  worker.set_state(v1::CONNECTED);
  worker.set_metrics_address("127.0.0.1:9000");
  worker.mutable_connect_time()->set_seconds(kNow - 60);
  for (int i = 0; i < 2; ++i) {
    v1::Slot& slot = *worker.add_slots();
    slot.set_index(i);
    slot.set_device("cpu");
    if (i == 0) slot.set_used_by("fashion-1 rank 0");
  }
  api->checkpoint = ExampleCheckpoint();
  *api->checkpoints.add_checkpoints() = api->checkpoint;
  v1::ThresholdPoint& point = *api->thresholds.add_points();
  point.set_step(200);
  *point.add_layers() = api->checkpoint.thresholds(0);
  api->calibration.set_checkpoint(api->checkpoint.name());
  api->calibration.set_images(256);
  api->calibration.set_data("/data/fashion test");
  v1::CalibratedTarget& target = *api->calibration.add_targets();
  target.set_rule(v1::CALIBRATED);
  target.set_capacity(0.5);
  target.set_measured(0.502);
  target.set_loss(0.18);
  target.set_seconds(0.004);
  v1::CalibrateCheckpointResponse finished;
  *finished.mutable_finished() = api->calibration;
  api->calibrate_events = {finished};
  api->verified.set_finished(true);
  api->verified.set_bytes(20 << 20);
  api->verified.set_total_bytes(20 << 20);
  api->logs = [](FakeApi::Context*, const v1::ReadJobLogsRequest&,
                 grpc::ServerWriter<v1::ReadJobLogsResponse>* writer) {
    v1::ReadJobLogsResponse response;
    for (int rank = 0; rank < 2; ++rank) {
      v1::LogLine& line = *response.add_lines();
      line.mutable_time()->set_seconds(kNow - 20);
      line.set_epoch(2);
      line.set_rank(rank);
      line.set_worker_id("w-1");
      line.set_text("2027-01-15T07:59:40.000Z INFO [rank] training job=fashion-1");
    }
    writer->Write(response);
    return grpc::Status::OK;
  };
}

// Commands that read, each with its golden file.
struct Read {
  std::string command;  // with arguments
  std::string golden;
};

const std::vector<Read>& Reads() {
  static const std::vector<Read>* reads = new std::vector<Read>{
      {"jobs", "jobs"},
      {"job get fashion-1", "job_get"},
      {"job why fashion-1", "job_why"},
      {"job events fashion-1", "job_events"},
      {"logs fashion-1", "logs"},
      {"metrics fashion-1", "metrics"},
      {"ckpt ls fashion-1", "ckpt_ls"},
      {"ckpt get fashion-1 200 --tensors", "ckpt_get"},
      {"ckpt get fashion-1 --history", "thresholds"},
      {"ckpt verify fashion-1 200", "ckpt_verify"},
      {"calibrate fashion-1 --show", "calibrate_show"},
      {"calibrate fashion-1", "calibrate"},
      {"workers", "workers"},
      {"explain model.experts", "explain_field"},
      {"explain parallel", "explain_section"},
      {"version", ""},  // another one with each version
  };
  return *reads;
}

// Commands that change something, talk to a terminal, or have tests of their own for each format.
const std::set<std::string>& OtherCommands() {
  static const std::set<std::string>* others = new std::set<std::string>{
      "up",         "submit",      "watch",        "top",          "completion",   "sample",
      "sample-set", "replay",      "report",       "bench sample", "job cancel",   "job pause",
      "job resume", "job retry",   "job fork",     "job set",      "ckpt pin",     "ckpt unpin",
      "ckpt rm",    "ckpt export", "admin backup", "admin verify", "admin restore"};
  return *others;
}

std::vector<std::string> Words(const std::string& command) { return absl::StrSplit(command, ' '); }

class GoldenTest : public testing::Test {
 protected:
  GoldenTest() { FillCluster(&server_.api); }

  CliResult Run(const std::string& command, const std::string& format = "table") {
    std::vector<std::string> arguments = {"-o", format};
    for (const std::string& word : Words(command)) arguments.push_back(word);
    CliResult result = server_.Cli(arguments);
    // The port is another one each time.
    for (std::string* text : {&result.out, &result.err}) {
      *text = absl::StrReplaceAll(*text, {{server_.address, "SERVER"}});
    }
    return result;
  }

  FakeServer server_;
};

TEST_F(GoldenTest, EveryTable) {
  for (const Read& read : Reads()) {
    const CliResult result = Run(read.command);
    EXPECT_EQ(result.exit_code, kExitOk) << read.command << ": " << result.err;
    if (!read.golden.empty()) ExpectGolden(read.golden + ".txt", result.out);
  }
  const CliResult top = Run("top --frames 1");
  EXPECT_EQ(top.exit_code, kExitOk) << top.err;
  ExpectGolden("top.txt", top.out);
  const CliResult watch = Run("metrics fashion-1 -w --frames 1");
  EXPECT_EQ(watch.exit_code, kExitOk) << watch.err;
  ExpectGolden("metrics_watch.txt", watch.out);
}

TEST_F(GoldenTest, TablesOfNothing) {
  v1::Job job;
  job.set_id("b-2");
  job.set_state(v1::QUEUED);
  job.mutable_create_time()->set_seconds(kNow - 5);
  job.set_latest_checkpoint_step(-1);
  job.set_reason("needs 4 slots; 2 are free");
  job.set_reason_code(v1::REASON_WAITS_FOR_SLOTS);
  server_.api.job = job;
  server_.api.events.Clear();
  server_.api.records.Clear();
  server_.api.workers.Clear();
  server_.api.checkpoints.Clear();
  server_.api.thresholds.Clear();
  std::string all;
  for (const char* command : {"job get b-2", "job why b-2", "job events b-2", "metrics b-2",
                              "ckpt ls b-2", "ckpt get b-2 --history", "workers"}) {
    const CliResult result = Run(command);
    EXPECT_EQ(result.exit_code, kExitOk) << command << ": " << result.err;
    absl::StrAppend(&all, "$ diffmoe ", command, "\n", result.out, "\n");
  }
  ExpectGolden("nothing.txt", all);
}

TEST_F(GoldenTest, EveryReadIsJsonAndYamlToo) {
  for (const Read& read : Reads()) {
    const CliResult json = Run(read.command, "json");
    EXPECT_EQ(json.exit_code, kExitOk) << read.command << ": " << json.err;
    // The logs are a message a line.
    for (const std::string& text :
         read.command.rfind("logs", 0) == 0
             ? std::vector<std::string>(absl::StrSplit(json.out, '\n', absl::SkipEmpty()))
             : std::vector<std::string>{json.out}) {
      EXPECT_FALSE(nlohmann::json::parse(text, nullptr, false).is_discarded())
          << read.command << ":\n"
          << text;
    }
    const CliResult yaml = Run(read.command, "yaml");
    EXPECT_EQ(yaml.exit_code, kExitOk) << read.command << ": " << yaml.err;
    YAML::Node node;
    EXPECT_NO_THROW(node = YAML::Load(yaml.out)) << read.command << ":\n" << yaml.out;
    EXPECT_TRUE(node.IsMap() || node.IsSequence()) << read.command << ":\n" << yaml.out;
  }
}

void CollectLeaves(const CLI::App& level, const std::string& path, std::set<std::string>* leaves) {
  const auto commands = level.get_subcommands([](const CLI::App*) { return true; });
  if (commands.empty()) leaves->insert(path);
  for (const CLI::App* command : commands) {
    CollectLeaves(*command, absl::StrCat(path, path.empty() ? "" : " ", command->get_name()),
                  leaves);
  }
}

// A new command has to say here whether it reads.
TEST_F(GoldenTest, EveryCommandIsKnownHere) {
  std::ostringstream out, err;
  FixedClock clock;
  Context context{.out = out,
                  .err = err,
                  .clock = clock,
                  .progress = {},
                  .executable = "/nowhere/diffmoe",
                  .endpoint = {},
                  .format = OutputFormat::kTable,
                  .action = {}};
  CLI::App app("", "diffmoe");
  AddCommands(&app, &context);
  std::set<std::string> leaves;
  CollectLeaves(app, "", &leaves);
  std::set<std::string> known = OtherCommands();
  for (const Read& read : Reads()) {
    for (const std::string& leaf : leaves) {
      if (absl::StrCat(read.command, " ").rfind(leaf + " ", 0) == 0) known.insert(leaf);
    }
  }
  EXPECT_EQ(leaves, known);
}

TEST_F(GoldenTest, BenchReport) {
  LoadResult result;
  result.arrivals = "Poisson, 4 a second";
  result.window_seconds = 2;
  result.wall_seconds = 2.5;
  result.deadline_seconds = 1;
  result.images_per_request = 1;
  result.most_in_flight = 3;
  result.in_flight_bound = 4096;
  for (int i = 0; i < 8; ++i) {
    result.outcomes.push_back(
        {.code = i < 6 ? absl::StatusCode::kOk : absl::StatusCode::kResourceExhausted,
         .start_seconds = 0.25 * i,
         .latency_seconds = 0.1 + 0.01 * i,
         .first_progress_seconds = 0.05,
         .images = i < 6 ? 1 : 0});
  }
  result.unary_seconds = {0.001, 0.002, 0.003};
  ExpectGolden("bench_sample.txt", LoadReportText(result));
}

// The code that a reason comes with (error.proto).
absl::StatusCode CodeOf(v1::ErrorReason reason) {
  static const std::map<v1::ErrorReason, absl::StatusCode>* codes =
      new std::map<v1::ErrorReason, absl::StatusCode>{
          {v1::INVALID_SPEC, absl::StatusCode::kInvalidArgument},
          {v1::INVALID_REQUEST, absl::StatusCode::kInvalidArgument},
          {v1::JOB_NOT_FOUND, absl::StatusCode::kNotFound},
          {v1::CHECKPOINT_NOT_FOUND, absl::StatusCode::kNotFound},
          {v1::WORKER_NOT_FOUND, absl::StatusCode::kNotFound},
          {v1::REQUEST_ID_REUSED, absl::StatusCode::kAlreadyExists},
          {v1::QUEUE_FULL, absl::StatusCode::kResourceExhausted},
          {v1::NO_FREE_SLOT, absl::StatusCode::kUnavailable},
          {v1::SAMPLER_LOST, absl::StatusCode::kUnavailable},
          {v1::CORRUPT_CHECKPOINT, absl::StatusCode::kDataLoss},
          {v1::STALE_EPOCH, absl::StatusCode::kAborted},
          {v1::STORAGE_FAILED, absl::StatusCode::kResourceExhausted},
          {v1::SHUTTING_DOWN, absl::StatusCode::kUnavailable},
          {v1::DEADLINE_TOO_SHORT, absl::StatusCode::kResourceExhausted},
          {v1::SAMPLE_NOT_FOUND, absl::StatusCode::kNotFound}};
  const auto found = codes->find(reason);
  return found == codes->end() ? absl::StatusCode::kFailedPrecondition : found->second;
}

// Every reason with the code that it comes with, and every code alone.
TEST(GoldenErrors, EveryTextAndExitCode) {
  std::string all;
  const auto add = [&all](const std::string& name, const absl::Status& status) {
    absl::StrAppend(&all, "## ", name, ", exit code ", ExitCodeForError(status), "\n",
                    DescribeError(status), "\n");
  };
  const google::protobuf::EnumDescriptor* reasons = v1::ErrorReason_descriptor();
  for (int i = 0; i < reasons->value_count(); ++i) {
    if (reasons->value(i)->number() == v1::ERROR_REASON_UNSPECIFIED) continue;
    v1::ErrorDetails details;
    details.set_reason(static_cast<v1::ErrorReason>(reasons->value(i)->number()));
    details.set_resource("jobs/fashion-1/checkpoints/200");
    details.set_retry_delay_ms(1500);
    absl::Status status(CodeOf(details.reason()), "what happened");
    SetErrorDetails(details, &status);
    add(reasons->value(i)->name(), status);
  }
  for (int code = 1; code <= 16; ++code) {
    const auto canonical = static_cast<absl::StatusCode>(code);
    add(absl::StatusCodeToString(canonical), absl::Status(canonical, "what happened"));
  }
  add("usage", UsageError("--rank: expected a number, got \"x\""));
  add("own deadline", OwnDeadlineError("the deadline of 5s passed"));
  v1::ErrorDetails spec;
  spec.set_reason(v1::INVALID_SPEC);
  for (const int line : {7, 9}) {
    v1::FieldViolation& violation = *spec.add_violations();
    violation.set_field(line == 7 ? "model.experts" : "train.steps");
    violation.set_description("expected 1 or more, got 0");
    violation.set_line(line);
  }
  absl::Status faults(absl::StatusCode::kInvalidArgument, "2 faults");
  SetErrorDetails(spec, &faults);
  SetErrorFile("job.yaml", &faults);
  add("spec with two faults", faults);
  ExpectGolden("errors.txt", all);
}

// The table of exit codes in the documentation is the one of core/base/exit_code.h.
TEST(GoldenErrors, ExitCodesAreDocumented) {
  const std::string text = test::ReadFile(absl::StrCat(DIFFMOE_SOURCE_DIR, "/docs/operations.md"));
  std::set<int> documented;
  const size_t begin = text.find("## Exit codes");
  ASSERT_NE(begin, std::string::npos);
  for (absl::string_view line : absl::StrSplit(text.substr(begin + 4), '\n')) {
    if (line.rfind("## ", 0) == 0) break;
    int code = 0;
    const std::vector<std::string> cells = absl::StrSplit(line, '|');
    if (cells.size() > 2 && absl::SimpleAtoi(cells[1], &code)) documented.insert(code);
  }
  EXPECT_EQ(documented, (std::set<int>{kExitOk, kExitInternal, kExitUsage, kExitInvalidSpec,
                                       kExitNotFound, kExitPermission, kExitConflict, kExitQuota,
                                       kExitUnavailable, kExitDeadline, kExitJobFailed,
                                       kExitCancelled, kExitCorrupt, kExitInterrupted}));
}

}  // namespace
}  // namespace diffmoe
