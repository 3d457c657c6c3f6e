// What images cost and how long requests wait, on one thread. One JSON object on standard output, a
// table for people on standard error. Each figure stands beside one that was measured in the same
// run.
#include <ATen/Parallel.h>
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include "tests/benchmarks/sampling_latency.h"
#include "tests/benchmarks/sampling_speed.h"

namespace diffmoe::bench {
namespace {

void Append(std::vector<Figure>* to, const std::vector<Figure>& more) {
  to->insert(to->end(), more.begin(), more.end());
}

int Main(int argc, char** argv) {
  // As diffmoe-rank does: freed memory is kept.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);
  at::set_num_threads(1);
  CLI::App app{
      "Sampling: cost of an image, waits. JSON on standard output, a table on standard "
      "error."};
  SpeedOptions speed;
  LatencyOptions latency;
  std::vector<std::string> models = {"s-e8", "demo"};
  app.add_option("--models", models, "s-e8 demo");
  app.add_option("--steps", speed.steps, "Timed, of 50")->check(CLI::Range(1, 49));
  app.add_option("--arrivals", latency.arrivals, "For the wait until the first step")
      ->check(CLI::PositiveNumber);
  app.add_option("--requests", latency.requests, "At 80 % load")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  std::vector<Figure> figures;
  try {
    for (const std::string& name : models) {
      SamplingModel model(name);
      const bool demo = name == "demo";
      Append(&figures, MeasureSpeed(name, model,
                                    demo ? std::pair{0.42, 0.58} : std::pair{0.55, 0.70}, speed));
      if (!demo) continue;
      figures.push_back(MeasureBound(name, model, speed));
      Append(&figures, MeasureFirstStep(model, latency));
    }
    SamplingModel small("small");
    Append(&figures, MeasureLoad(small, latency));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sampling_bench: %s\n", error.what());
    return 1;
  }
  Json out{{"figures", Json::array()}};
  for (const Figure& figure : figures) out["figures"].push_back(ToJson(figure));
  std::printf("%s\n", out.dump(2).c_str());
  std::fprintf(stderr, "%s", Table(figures).c_str());
  return 0;
}

}  // namespace
}  // namespace diffmoe::bench

int main(int argc, char** argv) { return diffmoe::bench::Main(argc, argv); }
