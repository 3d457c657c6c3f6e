// GET /metrics with many series: the time of a scrape over HTTP, of the text alone, and of a memcpy
// of the same bytes; and the share of a core that 100 scrapes a second take.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/metrics/metrics_server.h"
#include "prometheus/gauge.h"
#include "prometheus/registry.h"
#include "tests/benchmarks/report.h"
#include "tests/benchmarks/timing.h"
#include "tests/support/http.h"
#include "tests/support/wait.h"

namespace diffmoe::bench {
namespace {

constexpr int kSeriesPerFamily = 500;

// Gauges with values and labels like those of layers.
void AddSeries(prometheus::Registry& registry, int count) {
  for (int i = 0; i < count; i += kSeriesPerFamily) {
    auto& family = prometheus::BuildGauge()
                       .Name(absl::StrCat("diffmoe_bench_", i, "_ratio"))
                       .Help("What a layer does.")
                       .Register(registry);
    for (int k = 0; k < std::min(count - i, kSeriesPerFamily); ++k) {
      family.Add({{"block", absl::StrCat(k)}, {"job_id", "fashion-demo-1"}, {"stat", "mean"}})
          .Set(1.0 / (k + 3));
    }
  }
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

void WaitFor(absl::Duration time) {
  test::WaitUntil(time, [] { return false; });
}

std::vector<Figure> Measure(int series, int scrapes) {
  metrics::Registry registry("scrape_bench", "0");
  AddSeries(registry.get(), series);
  const auto server = metrics::MetricsServer::Start("127.0.0.1:0", registry);
  if (!server.ok()) return {};
  std::vector<Figure> figures;
  const auto add = [&figures](const std::string& name, double value, const std::string& unit,
                              std::optional<double> at_most = std::nullopt) {
    figures.push_back({name, value, unit, std::nullopt, at_most});
  };
  std::vector<double> seconds;
  size_t bytes = 0;
  for (int i = 0; i < scrapes; ++i) {
    const double begin = Now();
    const auto reply = test::HttpGet((*server)->address(), "/metrics");
    seconds.push_back(Now() - begin);
    // So that no two share a text.
    WaitFor(absl::Milliseconds(120) + 25 * absl::Seconds(seconds.back()));
    bytes = reply.ok() ? reply->body.size() : 0;
  }
  const std::string text = registry.Text();
  std::string copy(text.size(), ' ');
  const double memcpy_seconds =
      TimeOf(50, [&] { std::memcpy(copy.data(), text.data(), text.size()); });
  add("series", series, "");
  add("bytes of a scrape", static_cast<double>(bytes), "B");
  add("scrape over HTTP", 1000 * Median(seconds), "ms", 50);
  add("text alone", 1000 * TimeOf(10, [&] { registry.Text(); }), "ms");
  add("memcpy of the same bytes", 1000 * memcpy_seconds, "ms");
  add("scrape over memcpy", Median(seconds) / memcpy_seconds, "");

  // 100 a second, this client's work counted in.
  const double cpu = CpuSeconds(), begin = Now();
  int done = 0;
  while (done < 20 * scrapes) {
    test::WaitUntil(absl::Seconds(1), [&] { return Now() >= begin + 0.01 * done; });
    if (test::HttpGet((*server)->address(), "/metrics").ok()) ++done;
  }
  add("share of a core for 100 scrapes/s, client counted in",
      (CpuSeconds() - cpu) / (Now() - begin), "");
  return figures;
}

int Main(int argc, char** argv) {
  CLI::App app{"GET /metrics with many series"};
  int series = 10'000, scrapes = 15;
  app.add_option("--series", series)->check(CLI::Range(1, 1'000'000))->capture_default_str();
  app.add_option("--scrapes", scrapes)->check(CLI::Range(1, 10'000))->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const std::vector<Figure> figures = Measure(series, scrapes);
  std::fputs(Table(figures).c_str(), stdout);
  return figures.empty() ? 1 : 0;
}

}  // namespace
}  // namespace diffmoe::bench

int main(int argc, char** argv) { return diffmoe::bench::Main(argc, argv); }
