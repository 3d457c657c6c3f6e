#include "client/bench/load_report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/output/table.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

struct Summary {
  std::map<std::string, int64_t> by_code;
  int64_t good = 0;         // successes inside the window
  int64_t good_images = 0;  // of them
  int64_t all_images = 0;
  int64_t after_deadline = 0;  // successes that came too late
  double most_late = 0;        // seconds, of them
  Percentiles latency, first_progress, refusal, unary;
  double ratio = 0;  // p50 of a request by p50 of a small call
};

double PerSecond(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

Summary Summarise(const LoadResult& result) {
  Summary summary;
  std::vector<double> latency, first_progress, refusal;
  for (const LoadOutcome& outcome : result.outcomes) {
    ++summary.by_code[absl::StatusCodeToString(outcome.code)];
    summary.all_images += outcome.images;
    if (outcome.first_progress_seconds >= 0) {
      first_progress.push_back(outcome.first_progress_seconds);
    }
    if (outcome.code == absl::StatusCode::kResourceExhausted) {
      refusal.push_back(outcome.latency_seconds);
    }
    if (outcome.code != absl::StatusCode::kOk) continue;
    latency.push_back(outcome.latency_seconds);
    if (result.deadline_seconds > 0 && outcome.latency_seconds > result.deadline_seconds) {
      ++summary.after_deadline;
      summary.most_late =
          std::max(summary.most_late, outcome.latency_seconds - result.deadline_seconds);
    }
    if (outcome.start_seconds + outcome.latency_seconds <= result.window_seconds) {
      ++summary.good;
      summary.good_images += outcome.images;
    }
  }
  summary.latency = PercentilesOf(std::move(latency));
  summary.first_progress = PercentilesOf(std::move(first_progress));
  summary.refusal = PercentilesOf(std::move(refusal));
  summary.unary = PercentilesOf(result.unary_seconds);
  if (summary.unary.p50 > 0) summary.ratio = summary.latency.p50 / summary.unary.p50;
  return summary;
}

nlohmann::ordered_json Json(const Percentiles& values) {
  return {{"count", values.count},
          {"mean_ms", values.mean * 1e3},
          {"p50_ms", values.p50 * 1e3},
          {"p95_ms", values.p95 * 1e3},
          {"p99_ms", values.p99 * 1e3}};
}

std::string Milliseconds(double seconds) { return absl::StrFormat("%.3g", seconds * 1e3); }

void AddRow(const char* what, const Percentiles& values, Table* table) {
  if (values.count == 0) return;
  table->AddRow({what, absl::StrCat(values.count), Milliseconds(values.mean),
                 Milliseconds(values.p50), Milliseconds(values.p95), Milliseconds(values.p99)});
}

}  // namespace

Percentiles PercentilesOf(std::vector<double> values) {
  Percentiles result;
  if (values.empty()) return result;
  std::sort(values.begin(), values.end());
  const auto at = [&values](double share) {
    const double rank = std::ceil(share * static_cast<double>(values.size()));
    return values[static_cast<size_t>(std::max(1.0, rank)) - 1];
  };
  result.count = static_cast<int64_t>(values.size());
  for (double value : values) result.mean += value;
  result.mean /= static_cast<double>(values.size());
  result.p50 = at(0.5);
  result.p95 = at(0.95);
  result.p99 = at(0.99);
  return result;
}

nlohmann::ordered_json LoadReportJson(const LoadResult& result) {
  const Summary summary = Summarise(result);
  nlohmann::ordered_json json;
  json["arrivals"] = result.arrivals;
  json["window_seconds"] = result.window_seconds;
  json["wall_seconds"] = result.wall_seconds;
  json["deadline_seconds"] = result.deadline_seconds;
  json["images_per_request"] = result.images_per_request;
  json["requests"] = result.outcomes.size();
  json["outcomes"] = nlohmann::ordered_json::object();
  for (const auto& [code, count] : summary.by_code) json["outcomes"][code] = count;
  json["goodput_requests_per_second"] = PerSecond(summary.good, result.window_seconds);
  json["goodput_images_per_second"] = PerSecond(summary.good_images, result.window_seconds);
  json["images_per_second"] = PerSecond(summary.all_images, result.wall_seconds);
  json["latency"] = Json(summary.latency);
  json["first_progress"] = Json(summary.first_progress);
  json["refusal"] = Json(summary.refusal);
  json["successes_after_deadline"] = summary.after_deadline;
  json["most_late_ms"] = summary.most_late * 1e3;
  json["most_in_flight"] = result.most_in_flight;
  json["in_flight_bound"] = result.in_flight_bound;
  json["not_started"] = result.not_started;
  json["unary_call"] = Json(summary.unary);
  json["latency_to_unary_p50_ratio"] = summary.ratio;
  return json;
}

std::string LoadReportText(const LoadResult& result) {
  const Summary summary = Summarise(result);
  std::string codes;
  for (const auto& [code, count] : summary.by_code) {
    absl::StrAppend(&codes, codes.empty() ? "" : ", ", count, " ", code);
  }
  std::string text = KeyValueText(
      {{"arrivals", absl::StrFormat("%s, for %.3g s", result.arrivals, result.window_seconds)},
       {"requests", absl::StrCat(result.outcomes.size(), " of ", result.images_per_request,
                                 result.images_per_request == 1 ? " image" : " images")},
       {"outcomes", codes},
       {"goodput", absl::StrFormat("%.3g requests/s, %.3g images/s",
                                   PerSecond(summary.good, result.window_seconds),
                                   PerSecond(summary.good_images, result.window_seconds))},
       {"server", absl::StrFormat("%.3g images/s until the last end",
                                  PerSecond(summary.all_images, result.wall_seconds))},
       {"in flight", absl::StrFormat("%d at most", result.most_in_flight)},
       {"after deadline", summary.after_deadline == 0
                              ? std::string()
                              : absl::StrCat(summary.after_deadline, " successes, by ",
                                             Milliseconds(summary.most_late), " ms at most")},
       {"unary call", absl::StrFormat("p50 %s ms; a request takes %.3g times as long",
                                      Milliseconds(summary.unary.p50), summary.ratio)}});
  if (result.not_started > 0) {
    absl::StrAppend(&text, result.not_started,
                    " arrivals were not started: ", result.in_flight_bound,
                    " requests were in flight\n");
  }
  Table table({"MS", ">COUNT", ">MEAN", ">P50", ">P95", ">P99"});
  AddRow("success", summary.latency, &table);
  AddRow("first progress", summary.first_progress, &table);
  AddRow("refusal", summary.refusal, &table);
  AddRow("unary call", summary.unary, &table);
  return table.empty() ? text : absl::StrCat(text, "\n", table.ToString());
}

}  // namespace diffmoe
