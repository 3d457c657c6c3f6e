// A rank without Torch for tests of the worker. What it does is told by the name in its spec; a
// sampler serves its tasks.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/crash_report.h"
#include "core/base/status_macros.h"
#include "worker/rank/rank_link.h"

namespace diffmoe {
namespace {

constexpr absl::Duration kLong = absl::Seconds(60);

absl::Status Expect(bool condition, const std::string& what) {
  return condition ? absl::OkStatus() : absl::InternalError(absl::StrCat("expected: ", what));
}

void ReportStep(RankLink& link, int64_t step) {
  ProgressReport progress;
  progress.step = step;
  progress.total_steps = 1'000'000;
  progress.loss = 0.25;
  progress.layers.push_back({.block = 1,
                             .capacity = 0.99,
                             .predictor_accuracy = 0.9,
                             .zero_expert_tokens = 0.1,
                             .thresholds = {0.25f, 0.75f},
                             .expert_load = {1, 1}});
  link.Report(progress, {{.step = step, .loss = 0.25f}});
}

// A step every few milliseconds until told to stop.
absl::Status Train(RankLink& link, bool obey) {
  for (int64_t step = 1;; ++step) {
    ReportStep(link, step);
    link.NextCommand(absl::Milliseconds(5));
    if (obey && link.stop_requested()) return absl::CancelledError("stopped as told");
  }
}

// Trains until told to stop; saves first when told to.
absl::Status TrainAndSave(RankLink& link) {
  for (int64_t step = 1; !link.stop_requested(); ++step) {
    ReportStep(link, step);
    link.NextCommand(absl::Milliseconds(5));
    if (!link.save_requested()) continue;
    const std::string bytes(100, 'x');
    const TensorRun run{"tensor", "U8", {100}, 0, 100, bytes.data()};
    RETURN_IF_ERROR(link.PutShard(step, {run}, std::nullopt));
    return absl::CancelledError("stopped with a checkpoint");
  }
  return absl::CancelledError("stopped as told");
}

// Stops working at a place that its heartbeats name, but lives on.
absl::Status Hang(RankLink& link) {
  link.activity().set_step(7);
  link.activity().set_limit_ms(1'000);
  const ActivityScope scope(&link.activity(), "forward of ", "block 3");
  while (!link.stop_requested()) link.NextCommand(kLong);
  return absl::CancelledError("stopped as told");
}

// Writes as much as it can, and says so between its steps.
absl::Status Flood(RankLink& link) {
  const std::string text(20'000, 'x');
  for (int64_t step = 1; !link.stop_requested(); ++step) {
    for (int i = 0; i < 2'000; ++i) std::fprintf(stderr, "flood %d\n", i);
    std::fprintf(stderr, "%s\n", text.c_str());
    ReportStep(link, step);
    link.NextCommand(absl::Milliseconds(1));
  }
  return absl::CancelledError("stopped as told");
}

// A line for each step.
absl::Status Talk(RankLink& link) {
  for (int64_t step = 1; !link.stop_requested(); ++step) {
    std::fprintf(stderr, "step %d of rank %d\n", static_cast<int>(step), link.assignment().rank);
    ReportStep(link, step);
    link.NextCommand(absl::Milliseconds(20));
  }
  return absl::CancelledError("stopped as told");
}

absl::Status EatMemory() {
  std::vector<std::unique_ptr<char[]>> eaten;
  constexpr size_t kPiece = 16 << 20;
  for (int i = 0; i < 256; ++i) {
    eaten.push_back(std::make_unique<char[]>(kPiece));
    std::memset(eaten.back().get(), i + 1, kPiece);
  }
  return absl::InternalError("nobody minded 4 GB");
}

// noinline, volatile: the compiler keeps every frame.
[[gnu::noinline]] int Recurse(int depth) {
  volatile char frame[4096];
  frame[0] = static_cast<char>(depth);
  return depth < 0 ? frame[0] : Recurse(depth + 1) + frame[0];
}

absl::Status Crash(RankLink& link, bool by_stack) {
  const RankAssignment& mine = link.assignment();
  InstallCrashReport(absl::StrCat("rank ", mine.rank, " of ", mine.group_id, " epoch ", mine.epoch),
                     &link.activity());
  link.activity().set_step(7);
  const ActivityScope scope(&link.activity(), "forward of ", "block 3");
  if (by_stack) return absl::InternalError(absl::StrCat(Recurse(0)));
  std::fprintf(stderr, "an assertion of the kernel failed\n");
  std::abort();
}

std::string Pattern(size_t bytes, unsigned seed) {
  std::string out(bytes, '\0');
  for (char& c : out) c = static_cast<char>((seed = seed * 1103515245u + 12345u) >> 16);
  return out;
}

TensorRun Run(const std::string& tensor, const std::string& bytes) {
  return {.tensor = tensor,
          .dtype = "U8",
          .global_shape = {static_cast<int64_t>(bytes.size())},
          .first_element = 0,
          .elements = static_cast<int64_t>(bytes.size()),
          .data = bytes.data()};
}

// Several MB out and in again, through the worker.
absl::Status Checkpoint(RankLink& link) {
  const std::string first = Pattern(5'000'001, 1), second = Pattern(77, 2),
                    third = Pattern(3'000'000, 3);
  CheckpointSummaryData summary{.loss = 0.5,
                                .blocks = {1, 3},
                                .experts = 2,
                                .thresholds = {1, 2, 3, 4},
                                .trainer_state = "state"};
  RETURN_IF_ERROR(
      link.PutShard(7, {Run("first", first), Run("second", second), Run("third", third)}, summary));
  const std::string job = link.assignment().group_id;
  ASSIGN_OR_RETURN(CheckpointManifest manifest, link.GetManifest(job, 7));
  RETURN_IF_ERROR(Expect(manifest.places.size() == 3 && manifest.places[2].tensor == "third",
                         "three slices, third last"));
  RETURN_IF_ERROR(Expect(manifest.summary.thresholds == summary.thresholds &&
                             manifest.summary.trainer_state == "state",
                         "the summary as it was sent"));
  std::string third_again(third.size(), '\0'), first_again(first.size(), '\0'),
      second_again(77, '\0');
  const std::vector<ReadTarget> targets = {
      {0, manifest.places[2].shard_offset, static_cast<int64_t>(third.size()), third_again.data()},
      {0, 0, 0, nullptr},
      {0, manifest.places[0].shard_offset, static_cast<int64_t>(first.size()), first_again.data()},
      {0, manifest.places[1].shard_offset, 77, second_again.data()}};
  RETURN_IF_ERROR(link.ReadExtents(job, 7, targets));
  RETURN_IF_ERROR(Expect(first == first_again && second == second_again && third == third_again,
                         "the bytes that were sent"));
  const absl::Status missing = link.GetManifest(job, 8).status();
  return Expect(absl::IsNotFound(missing), absl::StrCat("NOT_FOUND, got ", missing.ToString()));
}

absl::Status Keys(RankLink& link) {
  const std::string binary("\0\xff value", 8);
  RETURN_IF_ERROR(link.KeySet("a", binary));
  ASSIGN_OR_RETURN(std::string value, link.KeyGet("a", kLong));
  RETURN_IF_ERROR(Expect(value == binary, "the value that was set"));
  ASSIGN_OR_RETURN(int64_t first, link.KeyAdd("n", 2));
  ASSIGN_OR_RETURN(int64_t second, link.KeyAdd("n", 3));
  RETURN_IF_ERROR(Expect(first == 2 && second == 5, "2 and 5 from add"));
  RETURN_IF_ERROR(link.KeyWait({"a", "n"}, kLong));
  ASSIGN_OR_RETURN(bool both, link.KeyCheck({"a", "n"}));
  ASSIGN_OR_RETURN(bool none, link.KeyCheck({"a", "missing"}));
  RETURN_IF_ERROR(Expect(both && !none, "check to tell present from missing"));
  ASSIGN_OR_RETURN(int64_t count, link.KeyCount());
  RETURN_IF_ERROR(Expect(count == 2, absl::StrCat("2 keys, got ", count)));
  ASSIGN_OR_RETURN(bool deleted, link.KeyDelete("a"));
  ASSIGN_OR_RETURN(bool deleted_again, link.KeyDelete("a"));
  RETURN_IF_ERROR(Expect(deleted && !deleted_again, "one deletion"));
  const absl::Status late = link.KeyGet("missing", absl::Milliseconds(50)).status();
  return Expect(absl::IsDeadlineExceeded(late),
                absl::StrCat("DEADLINE_EXCEEDED, got ", late.ToString()));
}

// Sees the coordinator go away and come back.
absl::Status Outage(RankLink& link) {
  RETURN_IF_ERROR(link.KeySet("key", "value"));
  ReportStep(link, 1);
  const absl::Time limit = absl::Now() + kLong;
  absl::Status status;
  while ((status = link.KeySet("key", "value")).ok() && absl::Now() < limit) {
    link.NextCommand(absl::Milliseconds(5));
  }
  RETURN_IF_ERROR(Expect(absl::IsUnavailable(status), "UNAVAILABLE, got " + status.ToString()));
  ReportStep(link, 2);
  while (absl::IsUnavailable(status = link.KeySet("key", "value")) && absl::Now() < limit) {
    link.NextCommand(absl::Milliseconds(5));
  }
  return status;
}

absl::Status CheckEnvironment(const std::vector<std::string>& descriptors) {
  const char* threads = std::getenv("OMP_NUM_THREADS");
  RETURN_IF_ERROR(Expect(threads != nullptr && std::string(threads) == "1", "OMP_NUM_THREADS=1"));
  const char* mkl = std::getenv("MKL_CBWR");
  RETURN_IF_ERROR(Expect(mkl != nullptr && std::string(mkl) == "TESTED", "MKL_CBWR as it was"));
  const size_t others = static_cast<size_t>(
      std::count_if(descriptors.begin(), descriptors.end(),
                    [](const std::string& fd) { return fd.size() > 1 || fd > "2"; }));
  // Listing the folder takes one descriptor itself.
  RETURN_IF_ERROR(Expect(others == 1, absl::StrCat("no inherited descriptor, got ", others - 1)));
  sigset_t blocked;
  sigprocmask(SIG_BLOCK, nullptr, &blocked);
  return Expect(!sigismember(&blocked, SIGTERM), "SIGTERM not blocked");
}

absl::Status ServeOne(RankLink& link, const SampleWork& work) {
  const std::string& id = work.request_id;
  RETURN_IF_ERROR(link.PushSampleUpdate(id, SampleStarted{}));
  if (work.config.name == "cancel-me") {
    link.FlushSampleUpdates();
    while (auto command = link.NextCommand(kLong)) {
      if (std::holds_alternative<StopCommand>(*command)) return absl::OkStatus();
      if (std::holds_alternative<ForgetSamplesCommand>(*command)) return absl::OkStatus();
      if (auto* cancel = std::get_if<CancelSampleCommand>(&*command);
          cancel && cancel->request_id == id) {
        return Expect(absl::IsUnavailable(link.PushSampleUpdate(id, SampleStarted{})),
                      "nothing to be sent for a request that was cancelled");
      }
    }
  }
  RETURN_IF_ERROR(link.PushSampleUpdate(id, SampleProgressUpdate{1, work.steps, 0}));
  const size_t images = work.config.name == "no-images" ? 0 : work.classes.size();
  for (size_t i = 0; i < images; ++i) {
    SampleImage image;
    image.index = static_cast<int>(i);
    image.label = work.classes[i];
    image.height = image.width = 512;
    image.channels = 3;
    image.pixels = Pattern(512 * 512 * 3, static_cast<unsigned>(work.seed + i));
    RETURN_IF_ERROR(link.PushSampleUpdate(id, EncodedImage{std::move(image)}));
  }
  SampleFinished finished;
  finished.capacity = {1, 2};
  finished.seconds = 0.5;
  finished.thresholds_hash = "ab";
  RETURN_IF_ERROR(link.PushSampleUpdate(id, std::move(finished)));
  link.FlushSampleUpdates();
  return absl::OkStatus();
}

absl::Status Serve(RankLink& link) {
  while (!link.stop_requested()) {
    auto command = link.NextCommand(absl::Milliseconds(100));
    if (!command) continue;
    auto* work = std::get_if<SampleWork>(&*command);
    // A request may fail with its stream; the next one may not.
    if (work != nullptr)
      std::fprintf(stderr, "%s: %s\n", work->request_id.c_str(),
                   ServeOne(link, *work).ToString().c_str());
  }
  return absl::CancelledError("stopped as told");
}

absl::Status Work(RankLink& link, const std::vector<std::string>& descriptors) {
  if (link.assignment().role == RankRole::kSample) return Serve(link);
  const std::string& name = link.assignment().config.name;
  if (name == "stubborn") signal(SIGTERM, SIG_IGN);
  if (name == "train" || name == "stubborn") return Train(link, name == "train");
  if (name == "save") return TrainAndSave(link);
  if (name == "eat-memory") return EatMemory();
  if (name == "abort-in-kernel") return Crash(link, false);
  if (name == "overflow-the-stack") return Crash(link, true);
  if (name == "hang") return Hang(link);
  if (name == "flood") return Flood(link);
  if (name == "talk") return Talk(link);
  if (name == "crash") {
    ReportStep(link, 3);
    std::fprintf(stderr, "terminate called after throwing an instance of 'collective_mismatch'\n");
    std::abort();
  }
  if (name == "code") std::_Exit(3);
  if (name == "silent-end") std::_Exit(0);
  if (name == "error") return absl::DataLossError("rank 0: all_to_all of layer 3: peer 1 has gone");
  if (name == "checkpoint") return Checkpoint(link);
  if (name == "shard") {
    const std::string bytes = Pattern(9'000'000, 4);
    return link.PutShard(9, {Run("tensor", bytes)}, std::nullopt);
  }
  if (name == "keys") return Keys(link);
  if (name == "outage") return Outage(link);
  if (name == "environment") return CheckEnvironment(descriptors);
  if (name == "finish") {
    for (int64_t step = 1; step <= 5; ++step) ReportStep(link, step);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("unknown name " + name);
}

int Main(int argc, char** argv) {
  std::vector<std::string> descriptors;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    descriptors.push_back(entry.path().filename());
  }
  std::string socket, group;
  int64_t epoch = 0;
  int rank = 0;
  CLI::App app;
  app.add_option("--socket", socket)->required();
  app.add_option("--group", group)->required();
  app.add_option("--epoch", epoch)->required();
  app.add_option("--rank", rank)->required();
  CLI11_PARSE(app, argc, argv);
  auto link = RankLink::Connect(socket, group, epoch, rank);
  if (!link.ok()) {
    std::fprintf(stderr, "%s\n", link.status().ToString().c_str());
    return 1;
  }
  const absl::Status status = Work(**link, descriptors);
  if (absl::IsCancelled(status)) return 0;
  if (!status.ok()) {
    (*link)->SayFailure(status, 11);
    return 1;
  }
  (*link)->SayDone(5);
  return 0;
}

}  // namespace
}  // namespace diffmoe

int main(int argc, char** argv) { return diffmoe::Main(argc, argv); }
