#include "core/metrics/reference.h"

#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/metrics/catalogue.h"

namespace diffmoe::metrics {
namespace {

struct Group {
  absl::string_view prefix, title, server;
};
// The first prefix that fits counts.
constexpr Group kGroups[] = {
    {"diffmoe_build_", "Every process", "every process"},
    {"diffmoe_train_", "Training", "the worker that hosts rank 0 of the job"},
    {"diffmoe_moe_", "MoE layers", "the worker that hosts rank 0 of the job"},
    {"diffmoe_checkpoint_", "Checkpoints", "the coordinator"},
    {"diffmoe_sample_", "Sampling", "the coordinator"},
    {"diffmoe_rpc_", "Calls", "the coordinator"},
    {"diffmoe_store_", "Store", "the coordinator"},
    {"diffmoe_worker_", "Worker", "each worker"},
    {"diffmoe_", "Jobs and cluster", "the coordinator"},
};

absl::string_view TypeOf(const Definition& definition) {
  switch (definition.kind) {
    case Kind::kGauge:
      return "gauge";
    case Kind::kCounter:
      return "counter";
    case Kind::kHistogram:
      return "histogram";
  }
  return "";
}

absl::string_view UnitOf(absl::string_view name) {
  absl::ConsumeSuffix(&name, "_total");
  static constexpr std::pair<absl::string_view, absl::string_view> kUnits[] = {
      {"_timestamp_seconds", "s, Unix time"},
      {"_per_second", "1/s"},
      {"_seconds", "s"},
      {"_bytes", "bytes"},
      {"_ratio", "ratio"},
      {"_nats", "nats"},
      {"_steps", "steps"},
      {"_step", "steps"},
  };
  for (const auto& [suffix, unit] : kUnits) {
    if (absl::EndsWith(name, suffix)) return unit;
  }
  return "1";
}

std::string Row(const Definition& definition) {
  std::vector<std::string> labels;
  for (const char* label : definition.labels) {
    if (label != nullptr) labels.push_back(absl::StrCat("`", label, "`"));
  }
  return absl::StrCat("| `", definition.name, "` | ", TypeOf(definition), " | ",
                      UnitOf(definition.name), " | ", absl::StrJoin(labels, " "), " | ",
                      definition.help, " | ", definition.healthy, " |\n");
}

const Group& GroupOf(const Definition& definition) {
  for (const Group& group : kGroups) {
    if (absl::StartsWith(definition.name, group.prefix)) return group;
  }
  return kGroups[0];
}

}  // namespace

std::string Reference() {
  std::string page =
      "# Metrics\n\n"
      "Made from `core/metrics/catalogue.h` by `build/release/bin/metrics_reference`; a test "
      "compares "
      "both. Every process serves its families in\nthe Prometheus text format on `/metrics`. "
      "Labels "
      "take values from closed sets, but for `job_id`; the series of a job go away within five "
      "minutes of\nits end. Alerts: [alerts.md](alerts.md).\n";
  for (const Group& group : kGroups) {
    absl::StrAppend(&page, "\n## ", group.title, "\n\nServed by ", group.server,
                    ".\n\n| name | type | unit | labels | meaning | healthy |\n"
                    "|---|---|---|---|---|---|\n");
    for (const Definition* definition : kAll) {
      if (&GroupOf(*definition) == &group) absl::StrAppend(&page, Row(*definition));
    }
  }
  return page;
}

}  // namespace diffmoe::metrics
