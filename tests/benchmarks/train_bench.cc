// diffmoe-bench train: images/s of a training step and the share of this machine's GEMM rate, for 1
// rank and 2 ranks (one process and one thread each), and a MoE layer against its own GEMMs. One
// JSON object on standard output; every figure and its limit come from the same run.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <vector>

#include "core/base/philox.h"
#include "core/parallel/shared_memory_collectives.h"
#include "core/train/train_engine.h"

namespace diffmoe {
namespace {

using Json = nlohmann::ordered_json;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// Median seconds of one call.
template <typename Body>
double TimeOf(int repetitions, const Body& body) {
  body();
  std::vector<double> seconds;
  for (int i = 0; i < repetitions; ++i) {
    const double begin = Now();
    body();
    seconds.push_back(Now() - begin);
  }
  return Median(seconds);
}

// FLOP/s of at::mm at 2048 x 384 x 1536, one thread.
double GemmRate() {
  const at::Tensor a = at::randn({2048, 384}), b = at::randn({384, 1536});
  return 2.0 * 2048 * 384 * 1536 / TimeOf(15, [&] { at::mm(a, b); });
}

struct Workload {
  std::string name;
  TrainingConfig config;
};

Workload MakeWorkload(const std::string& name) {
  Workload w{name, {}};
  ModelConfig& m = w.config.model;
  if (name == "demo") {
    m = {};
    m.image_size = 32, m.channels = 1, m.patch_size = 4, m.width = 192, m.depth = 6, m.heads = 6,
    m.experts = 8;
    w.config.global_batch = 32;
    w.config.unit_samples = 8;
  } else {  // s-e8
    m.image_size = 16, m.channels = 4, m.patch_size = 2, m.width = 384, m.depth = 12, m.heads = 6,
    m.experts = 8;
    m.classes = 1000;
    w.config.global_batch = 32;
    w.config.unit_samples = 8;
  }
  w.config.steps = 1000;
  w.config.optimizer.learning_rate = 1e-4;
  w.config.optimizer.clip_norm = 1;
  return w;
}

// GEMM FLOPs per image of linear layers and attention, forward and backward.
double FlopsPerImage(const ModelConfig& m) {
  const double d = static_cast<double>(m.width), s = static_cast<double>(m.tokens_per_sample());
  const double depth = static_cast<double>(m.depth),
               moe = m.family == Family::kDiffMoe ? static_cast<double>(m.depth / m.moe_every) : 0;
  const double patch = static_cast<double>(m.channels * m.patch_size * m.patch_size);
  const double macs = depth * s * (12 * d * d + 2 * s * d) + depth * 6 * d * d + 2 * s * d * patch +
                      moe * s * (d * d + 2 * d * static_cast<double>(m.experts));
  return 6 * macs;
}

int RandomImage(uint64_t index, std::span<float> out) {
  RandomStream(1, RandomUse::kNoise, index, 0).Normal(out);
  return static_cast<int>(index % 10);
}

Json RunSteps(const Workload& workload, Collectives& collectives, int steps) {
  TrainEngine engine(workload.config, collectives);
  engine.Initialize();
  std::vector<double> seconds;
  std::vector<std::vector<double>> phases(5);
  for (int step = 0; step < steps + 2; ++step) {
    const double begin = Now();
    const Batch batch = MakeBatch(workload.config, step, collectives.rank(),
                                  collectives.world_size(), 10000, RandomImage);
    engine.Step(step, batch, 0);
    if (step < 2) continue;
    seconds.push_back(Now() - begin);
    const PhaseSeconds& p = engine.phases();
    const double values[] = {p.forward, p.backward, p.exchange, p.reduce, p.optimizer};
    for (size_t i = 0; i < 5; ++i) phases[i].push_back(values[i]);
  }
  const double median = Median(seconds);
  Json out;
  out["ranks"] = collectives.world_size();
  out["seconds_per_step"] = median;
  out["images_per_second"] = static_cast<double>(workload.config.global_batch) / median;
  out["phases_seconds"] = {{"forward", Median(phases[0])},
                           {"backward", Median(phases[1])},
                           {"exchange", Median(phases[2])},
                           {"reduce", Median(phases[3])},
                           {"optimizer", Median(phases[4])}};
  return out;
}

// One process per rank; rank 0 writes its figures to a pipe.
Json RunProcesses(const Workload& workload, int ranks, int steps) {
  char store_path[] = "/tmp/diffmoe-bench-XXXXXX";
  const int fd = mkstemp(store_path);
  if (fd >= 0) close(fd);
  int result_pipe[2];
  if (pipe(result_pipe) != 0) std::exit(1);
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t pid = fork();
    if (pid == 0) {
      const std::string rank_text = std::to_string(rank), ranks_text = std::to_string(ranks),
                        steps_text = std::to_string(steps);
      dup2(result_pipe[1], 3);
      execl("/proc/self/exe", "diffmoe-bench", "rank", "--workload", workload.name.c_str(),
            "--rank", rank_text.c_str(), "--ranks", ranks_text.c_str(), "--steps",
            steps_text.c_str(), "--store", store_path, nullptr);
      _exit(127);
    }
    children.push_back(pid);
  }
  close(result_pipe[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(result_pipe[0], buffer, sizeof(buffer))) > 0;)
    text.append(buffer, static_cast<size_t>(n));
  close(result_pipe[0]);
  bool ok = true;
  for (pid_t pid : children) {
    int status = 0;
    waitpid(pid, &status, 0);
    ok = ok && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  unlink(store_path);
  if (!ok) {
    std::fprintf(stderr, "a benchmark rank failed\n");
    std::exit(1);
  }
  return Json::parse(text);
}

int RankMain(const std::string& workload, int rank, int ranks, int steps,
             const std::string& store_path) {
  const std::unique_ptr<Collectives> collectives =
      MakeCollectives(c10::make_intrusive<c10d::FileStore>(store_path, ranks), rank, ranks);
  const Json figures = RunSteps(MakeWorkload(workload), *collectives, steps);
  if (rank == 0) {
    const std::string text = figures.dump();
    if (write(3, text.data(), text.size()) < 0) return 1;
  }
  return 0;
}

// Seconds of the layer's own matrix products: forward once, backward twice their FLOPs, at the
// shapes that occur.
double LayerGemmSeconds(int64_t rows, int64_t width, int64_t hidden, int64_t experts,
                        int64_t tokens) {
  const at::Tensor x = at::randn({rows, width}), h = at::randn({rows, hidden});
  const at::Tensor w1 = at::randn({hidden, width}), w2 = at::randn({width, hidden});
  const double expert = TimeOf(9, [&] {
    at::mm(x, w1.t());
    at::mm(h, w2.t());
    at::mm(x, w2);
    at::mm(h, w1);
    at::mm(h.t(), x);
    at::mm(x.t(), h);
  });
  const at::Tensor t = at::randn({tokens, width}), p = at::randn({width, width});
  const double predictor = TimeOf(9, [&] {
    at::mm(t, p.t());
    at::mm(t.t(), t);
  });
  return static_cast<double>(experts) * expert + predictor;
}

Json MoeLayerShare(int64_t width, int64_t experts) {
  ModelConfig model;
  model.width = width;
  model.depth = 1;
  model.heads = 6;
  model.moe_every = 1;
  model.experts = experts;
  model.image_size = 32;
  model.patch_size = 2;  // 256 tokens
  const int64_t tokens = 8 * model.tokens_per_sample();
  const auto collectives = MakeLocalCollectives();
  const ParameterLayout layout(model, 0, 1);
  Parameters parameters(layout, at::kFloat), gradients(layout, at::kFloat);
  parameters.Initialize(1);
  MoeLayer layer(model, 0, parameters, parameters, MoeOptions{}, *collectives);
  const at::Tensor x = at::randn({tokens, width}), dy = at::randn({tokens, width});
  const double layer_seconds = TimeOf(9, [&] {
    MoeLayer::SavedPtr saved;
    MoeStepStats stats;
    std::vector<std::vector<at::Tensor>> units;
    layer.Forward(x, model.tokens_per_sample() * 2, true, &saved, &stats);
    layer.Backward(dy, *saved, gradients, &units);
  });
  const double gemm_seconds =
      LayerGemmSeconds(tokens / experts, width, model.hidden(), experts, tokens);
  Json out;
  out["width"] = width;
  out["experts"] = experts;
  out["layer_seconds"] = layer_seconds;
  out["gemm_seconds"] = gemm_seconds;
  out["share_of_gemm_bound"] = gemm_seconds / layer_seconds;
  return out;
}

int TrainMain(int steps, const std::vector<std::string>& workloads) {
  Json out;
  const double rate = GemmRate();
  out["gemm_flops_per_second"] = rate;
  for (const int64_t experts : {8, 16}) out["moe_layer"].push_back(MoeLayerShare(384, experts));
  out["moe_layer"].push_back(MoeLayerShare(192, 8));
  for (const std::string& name : workloads) {
    const Workload workload = MakeWorkload(name);
    Json entry;
    entry["workload"] = name;
    for (const int ranks : {1, 2}) {
      Json run = RunProcesses(workload, ranks, steps);
      run["share_of_gemm_rate"] = FlopsPerImage(workload.config.model) *
                                  run["images_per_second"].get<double>() / (rate * ranks);
      entry["runs"].push_back(run);
    }
    entry["two_ranks_over_one"] = entry["runs"][1]["images_per_second"].get<double>() /
                                  entry["runs"][0]["images_per_second"].get<double>();
    out["training"].push_back(entry);
  }
  std::printf("%s\n", out.dump(2).c_str());
  return 0;
}

int Main(int argc, char** argv) {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);
  at::set_num_threads(1);
  CLI::App app{"Benchmarks of the training code. Prints JSON."};
  app.require_subcommand(1);
  int steps = 10, rank = 0, ranks = 1;
  std::string workload = "demo", store;
  std::vector<std::string> workloads{"demo"};
  CLI::App* train = app.add_subcommand("train", "Training step and MoE layer");
  train->add_option("--steps", steps, "Timed steps");
  train->add_option("--workloads", workloads, "demo, s-e8");
  CLI::App* one = app.add_subcommand("rank", "One rank of `train`");
  one->add_option("--workload", workload);
  one->add_option("--rank", rank);
  one->add_option("--ranks", ranks);
  one->add_option("--steps", steps);
  one->add_option("--store", store);
  CLI11_PARSE(app, argc, argv);
  return train->parsed() ? TrainMain(steps, workloads)
                         : RankMain(workload, rank, ranks, steps, store);
}

}  // namespace
}  // namespace diffmoe

int main(int argc, char** argv) { return diffmoe::Main(argc, argv); }
