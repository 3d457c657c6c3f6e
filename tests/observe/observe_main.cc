// diffmoe-observe: watches a real cluster through a real Prometheus. Built as ./run observe.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/observe/outcome.h"
#include "tests/observe/scenario.h"
#include "tests/observe/scene.h"

namespace diffmoe::test {
namespace {

constexpr int kSkipped = 77;  // as ctest knows it

int Observe(int seconds, double factor) {
  const auto prometheus = FindPrometheusProgram("prometheus");
  const auto promtool = FindPrometheusProgram("promtool");
  if (!prometheus.has_value() || !promtool.has_value()) {
    std::cout << "prometheus isn't installed: ./run setup\n";
    return kSkipped;
  }
  Scene scene({.prometheus = *prometheus, .rule_factor = factor});
  scene.Allow("DiffmoeStepTimeDoubled", "ranks share the cores with everything else in the run");
  scene.Allow("DiffmoeFsyncSlow", "the disk is shared with whatever else the machine does");
  if (const absl::Status started = scene.Start(); !started.ok()) {
    std::cout << "can't start: " << started << "\n";
    return 1;
  }
  const absl::Time begin = scene.start();
  RunScenario(scene, begin + absl::Seconds(seconds));
  MeasureScrapes(scene);
  CheckEndpoints(scene, *promtool);
  const absl::Time end = absl::Now();
  CheckQueries(scene, begin, end);
  CheckAlerts(scene, begin, end);
  CheckConservation(scene, begin, end);
  std::cout << "\n";
  for (const std::string& failure : scene.failures()) std::cout << "FAILED: " << failure << "\n";
  std::cout << (scene.failures().empty() ? "all was seen" : "not all was seen as it should be")
            << "\n";
  return scene.failures().empty() ? 0 : 1;
}

}  // namespace
}  // namespace diffmoe::test

int main(int argc, char** argv) {
  CLI::App app(
      "Watches a real cluster through a real Prometheus: every query of every dashboard has data, "
      "and faults raise exactly their alerts.");
  int seconds = 300;
  double factor = 20;
  app.add_option("--seconds", seconds, "How long the run lasts at least")
      ->check(CLI::Range(0, 3600))
      ->capture_default_str();
  app.add_option("--factor", factor, "Durations of the alert rules are divided by this")
      ->check(CLI::Range(1.0, 100.0))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return diffmoe::test::Observe(seconds, factor);
}
