// Checkpoints on their whole way: the stall of the step against a memcpy of the same bytes, and
// save and load through rank, worker and coordinator against the disk, all in one run.
//
//   checkpoint_path_bench [--repetitions N]
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/benchmarks/checkpoint_stall.h"
#include "tests/support/cluster.h"
#include "tests/support/http.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"

namespace diffmoe {
namespace {

constexpr double kStallTarget = 1.2, kDiskTarget = 0.6;
constexpr absl::Duration kJobLimit = absl::Minutes(3);

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "checkpoint_path_bench: %s\n", why.c_str());
  std::exit(1);
}

// Bytes that no file system could shorten.
std::string Noise(int64_t bytes) {
  std::string out(static_cast<size_t>(bytes), '\0');
  uint64_t state = 1;
  for (char& byte : out) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<char>(state >> 56);
  }
  return out;
}

double WriteAndSync(const std::string& path, const std::string& bytes) {
  const double begin = Now();
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0 || write(file, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()) ||
      fsync(file) != 0) {
    Die(absl::StrCat("can't write ", path));
  }
  close(file);
  return Now() - begin;
}

// Takes the pages of a file out of memory.
void Evict(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY);
  if (file < 0) return;
  fdatasync(file);
  posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  close(file);
}

double ReadCold(const std::string& path, std::string* bytes) {
  Evict(path);
  const double begin = Now();
  const int file = open(path.c_str(), O_RDONLY);
  size_t at = 0;
  while (file >= 0 && at < bytes->size()) {
    const ssize_t got =
        read(file, bytes->data() + at, std::min<size_t>(1 << 20, bytes->size() - at));
    if (got <= 0) break;
    at += static_cast<size_t>(got);
  }
  if (at != bytes->size()) Die(absl::StrCat("can't read ", path));
  close(file);
  return Now() - begin;
}

class Service {
 public:
  Service() {
    if (const absl::Status started = cluster_.Start(); !started.ok()) Die(started.ToString());
  }

  // Runs a command that makes a job, and waits for the job's one checkpoint. Looks at the metrics
  // only: a program for each look would take the time that is measured.
  std::string Run(const std::vector<std::string>& command) {
    const std::string count = "diffmoe_checkpoint_commit_duration_seconds_count";
    const double before = Metric(count).value_or(0);
    const auto result = cluster_.Cli(command);
    if (!result.ok() || result->exit != test::ExitState{0, 0}) {
      Die(absl::StrCat(command[0], ": ", result.ok() ? result->err : result.status().ToString()));
    }
    std::string id(absl::StripAsciiWhitespace(result->out));
    if (!test::WaitUntil(kJobLimit, [&] { return Metric(count).value_or(0) > before; })) {
      Die(absl::StrCat("job ", id, " saved no checkpoint"));
    }
    return id;
  }

  // A number of the coordinator's metrics.
  std::optional<double> Metric(const std::string& name) const {
    const auto reply = test::HttpGet(cluster_.coordinator_metrics(), "/metrics");
    const size_t at = reply.ok() ? reply->body.find("\n" + name + " ") : std::string::npos;
    if (at == std::string::npos) return std::nullopt;
    return std::atof(reply->body.c_str() + at + name.size() + 2);
  }

  // Seconds of loading in the log of the job's rank 0.
  double LoadSeconds(const std::string& id) const {
    std::ifstream in(absl::StrCat(cluster_.WorkerDir(), "/logs/", id, "-1-0.log"));
    for (std::string line; std::getline(in, line);) {
      const size_t at = line.find(" seconds=");
      double seconds = 0;
      if (line.find("loaded a checkpoint") != std::string::npos && at != std::string::npos &&
          absl::SimpleAtod(line.substr(at + 9, line.find(' ', at + 9) - at - 9), &seconds)) {
        return seconds;
      }
    }
    Die(absl::StrCat("the rank of ", id, " loaded nothing"));
  }

  void EvictAll() const {
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(cluster_.CoordinatorDir())) {
      if (entry.is_regular_file()) Evict(entry.path());
    }
  }

  std::string dir() const { return cluster_.CoordinatorDir(); }

 private:
  test::Cluster cluster_;
};

void Print(const char* what, double value, const char* unit, double ratio, const char* relation,
           double target) {
  std::printf("%-42s %8.1f %-5s ratio %.2f, target %s %.1f: %s\n", what, value, unit, ratio,
              relation, target,
              (relation[0] == '<' ? ratio <= target : ratio >= target) ? "met" : "missed");
}

void MeasureService(int repetitions) {
  const std::string job = DIFFMOE_SOURCE_DIR "/deploy/jobs/fashion-demo.yaml";
  Service service;
  const std::string duration = "diffmoe_checkpoint_commit_duration_seconds_sum",
                    received = "diffmoe_checkpoint_received_bytes_total";
  std::vector<double> save, write, load, read;
  int64_t bytes = 0;
  std::string noise;
  for (int i = 0; i < repetitions; ++i) {
    const double seconds_before = service.Metric(duration).value_or(0);
    const double bytes_before = service.Metric(received).value_or(0);
    const std::string id = service.Run({"submit", job, "--set", "train.steps=1", "--set",
                                        "parallel.ranks=1", "--set", "train.seed=7"});
    save.push_back(service.Metric(duration).value_or(0) - seconds_before);
    bytes = static_cast<int64_t>(service.Metric(received).value_or(0) - bytes_before);
    if (noise.empty()) noise = Noise(bytes);
    const std::string file = service.dir() + "/raw";
    write.push_back(WriteAndSync(file, noise));
    service.EvictAll();
    const std::string fork = service.Run(
        {"job", "fork", id, "1", "--set", "train.steps=2", "--set", "parallel.ranks=1"});
    load.push_back(service.LoadSeconds(fork));
    read.push_back(ReadCold(file, &noise));
  }
  const double megabytes = static_cast<double>(bytes) / 1e6;
  std::printf("checkpoint of %.1f MB through the service, %d repetitions, medians\n", megabytes,
              repetitions);
  std::printf("%-42s %8.1f MB/s\n", "write + fsync of a file", megabytes / Median(write));
  Print("first byte to durable manifest", megabytes / Median(save), "MB/s",
        Median(write) / Median(save), ">=", kDiskTarget);
  std::printf("%-42s %8.1f MB/s\n", "plain read of a file, cold", megabytes / Median(read));
  Print("load with checksums, cold", megabytes / Median(load), "MB/s", Median(read) / Median(load),
        ">=", kDiskTarget);
}

int Main(int argc, char** argv) {
  int repetitions = 3;
  CLI::App app{"Checkpoints: stall of the step, save and load through the service."};
  app.add_option("--repetitions", repetitions)->check(CLI::Range(1, 100))->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const StallFigures stall = MeasureStall(std::max(5, repetitions));
  const double staged = Median(stall.stage_seconds), copied = Median(stall.memcpy_seconds);
  std::printf("%-42s %8.1f ms\n",
              absl::StrCat("memcpy of the state, ", stall.bytes / 1'000'000, " MB").c_str(),
              1000 * copied);
  Print("stall of the step", 1000 * staged, "ms", staged / copied, "<=", kStallTarget);
  MeasureService(repetitions);
  return 0;
}

}  // namespace
}  // namespace diffmoe

int main(int argc, char** argv) { return diffmoe::Main(argc, argv); }
