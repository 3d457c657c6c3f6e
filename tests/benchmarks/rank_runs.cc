#include "tests/benchmarks/rank_runs.h"

#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <span>
#include <stdexcept>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/philox.h"
#include "core/parallel/gloo_collectives.h"
#include "core/parallel/shared_memory_collectives.h"
#include "core/train/train_engine.h"
#include "tests/benchmarks/report.h"
#include "tests/benchmarks/timing.h"

namespace diffmoe::bench {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RunFigures, ranks, gemm_flops_per_second, seconds_per_step,
                                   forward, backward, exchange, reduce, optimizer, cpu_share,
                                   cpu_seconds_per_step, bytes_sent_per_step, collectives_per_step,
                                   peak_bytes, transport)

namespace {

constexpr int kWarmUpSteps = 2;
constexpr int kResultFile = 3;

int RandomImage(uint64_t index, std::span<float> out) {
  RandomStream(1, RandomUse::kNoise, index, 0).Normal(out);
  return static_cast<int>(index % 10);
}

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// VmHWM of this process.
int64_t PeakBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (!absl::StartsWith(line, "VmHWM:")) continue;
    const std::vector<std::string> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    int64_t kib = 0;
    if (words.size() == 3 && absl::SimpleAtoi(words[1], &kib)) return 1024 * kib;
  }
  throw std::runtime_error("no VmHWM in /proc/self/status");
}

RunFigures RunSteps(const Workload& workload, Collectives& collectives, int steps) {
  TrainEngine engine(workload.config, collectives);
  engine.Initialize();
  std::vector<double> seconds, phases[5];
  RunFigures out;
  out.ranks = collectives.world_size();
  out.transport = collectives.transport();
  double begin = 0, cpu_begin = 0;
  CollectiveCounters before;
  for (int step = 0; step < steps + kWarmUpSteps; ++step) {
    if (step == kWarmUpSteps) {
      begin = Now();
      cpu_begin = CpuSeconds();
      before = collectives.counters();
    }
    const double step_begin = Now();
    const Batch batch = MakeBatch(workload.config, step, collectives.rank(),
                                  collectives.world_size(), 10000, RandomImage);
    engine.Step(step, batch, 0);
    if (step < kWarmUpSteps) continue;
    seconds.push_back(Now() - step_begin);
    const PhaseSeconds& p = engine.phases();
    const double values[] = {p.forward, p.backward, p.exchange, p.reduce, p.optimizer};
    for (size_t i = 0; i < 5; ++i) phases[i].push_back(values[i]);
  }
  const double cpu = CpuSeconds() - cpu_begin;
  out.cpu_share = cpu / (Now() - begin);
  out.cpu_seconds_per_step = cpu / steps;
  const CollectiveCounters& after = collectives.counters();
  out.bytes_sent_per_step = static_cast<double>(after.bytes_sent - before.bytes_sent) / steps;
  out.collectives_per_step = static_cast<double>(after.calls - before.calls) / steps;
  out.seconds_per_step = Median(seconds);
  double* medians[] = {&out.forward, &out.backward, &out.exchange, &out.reduce, &out.optimizer};
  for (size_t i = 0; i < 5; ++i) *medians[i] = Median(phases[i]);
  out.peak_bytes = PeakBytes();
  return out;
}

void StartRank(const Workload& workload, int rank, int ranks, int steps, bool sockets,
               const std::string& store_path, int result) {
  const std::string rank_text = absl::StrCat(rank), ranks_text = absl::StrCat(ranks),
                    steps_text = absl::StrCat(steps);
  dup2(result, kResultFile);
  execl("/proc/self/exe", "diffmoe-bench", "rank", "--workload", workload.name.c_str(), "--rank",
        rank_text.c_str(), "--ranks", ranks_text.c_str(), "--steps", steps_text.c_str(), "--store",
        store_path.c_str(), sockets ? "--sockets" : nullptr, nullptr);
  _exit(127);
}

std::string ReadAll(int file) {
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(file, buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

}  // namespace

Json ToJson(const RunFigures& run) { return nlohmann::json(run); }

double GemmRate() {
  const at::Tensor a = at::randn({2048, 384}), b = at::randn({384, 1536});
  return 2.0 * 2048 * 384 * 1536 /
         TimeOf(
             15, [&] { at::mm(a, b); }, ThreadCpuSeconds);
}

RunFigures RunRanks(const Workload& workload, int ranks, int steps, bool sockets) {
  char store_path[] = "/tmp/diffmoe-bench-XXXXXX";
  const int store = mkstemp(store_path);
  int results[2];
  if (store < 0 || pipe(results) != 0) throw std::runtime_error("no file for the ranks to meet");
  close(store);
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t child = fork();
    if (child == 0) StartRank(workload, rank, ranks, steps, sockets, store_path, results[1]);
    children.push_back(child);
  }
  close(results[1]);
  const std::string text = ReadAll(results[0]);
  close(results[0]);
  bool ok = true;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    ok = ok && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  unlink(store_path);
  if (!ok) throw std::runtime_error(absl::StrCat("a rank of ", workload.name, " failed"));
  return nlohmann::json::parse(text).get<RunFigures>();
}

int RankMain(const std::string& workload, int rank, int ranks, int steps, bool sockets,
             const std::string& store_path) {
  const auto store = c10::make_intrusive<c10d::FileStore>(store_path, ranks);
  const std::unique_ptr<Collectives> collectives =
      sockets ? MakeGlooCollectives(store, rank, ranks, std::chrono::seconds(60))
              : MakeCollectives(store, rank, ranks);
  const double rate = GemmRate();
  RunFigures figures = RunSteps(MakeWorkload(workload), *collectives, steps);
  figures.gemm_flops_per_second = rate;
  if (rank != 0) return 0;
  const std::string text = ToJson(figures).dump();
  return write(kResultFile, text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1;
}

}  // namespace diffmoe::bench
