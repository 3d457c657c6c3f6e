#include "client/report/html_report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/output/text.h"
#include "client/output/views.h"
#include "client/report/svg_plot.h"
#include "core/base/version.h"

namespace diffmoe {
namespace {

constexpr size_t kMaxLayers = 8;  // of a plot with a line per layer
constexpr int kMaxEvents = 200;

constexpr char kStyle[] = R"(*{box-sizing:border-box}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;padding:1.5em;max-width:1200px;color:#1f2328;background:#fff}
h1{margin:.2em 0}h2{margin:1.8em 0 .6em;border-bottom:1px solid var(--grid);padding-bottom:.2em}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:1.6em}
table{border-collapse:collapse;font-size:.9em}td,th{text-align:left;padding:.2em .8em .2em 0;vertical-align:top}
thead th{border-bottom:1px solid var(--grid)}td.number,th.number{text-align:right}
.wide{overflow-x:auto}img{max-width:100%;image-rendering:pixelated;background:#fff;padding:4px}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85em;padding:1em;border:1px solid var(--grid)}
@media screen and (prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}}
@media print{body{max-width:none;padding:0}.plots{grid-template-columns:1fr 1fr}}
)";

std::string Row(const std::string& name, const std::string& value) {
  return absl::StrCat("<tr><th scope=\"row\">", EscapeHtml(name), "</th><td>", EscapeHtml(value),
                      "</td></tr>\n");
}

std::string Png(const std::string& bytes, const std::string& what) {
  return absl::StrCat("<img alt=\"", EscapeHtml(what), "\" src=\"data:image/png;base64,",
                      absl::Base64Escape(bytes), "\">");
}

std::string Section(const std::string& title, const std::string& content) {
  return content.empty() ? "" : absl::StrCat("<h2>", EscapeHtml(title), "</h2>\n", content);
}

std::string Plots(const std::string& plots) {
  return absl::StrCat("<div class=\"plots\">\n", plots, "</div>\n");
}

// Up to kMaxLayers of `count` indices, evenly spread, the last among them.
std::vector<size_t> Shown(size_t count) {
  std::vector<size_t> shown;
  const size_t most = std::min(count, kMaxLayers);
  for (size_t i = 0; i < most; ++i) shown.push_back((i + 1) * count / most - 1);
  return shown;
}

template <typename Values>
double Median(const Values& values) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  std::vector<double> sorted(values.begin(), values.end());
  const auto middle = sorted.begin() + static_cast<int64_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

std::string Summary(const HtmlReport& input) {
  const v1::Job& job = input.report.job;
  const v1::Progress& progress = job.progress();
  std::string rows = Row("State", absl::StrCat(v1::JobState_Name(job.state()), ". ", job.reason()));
  absl::StrAppend(
      &rows,
      Row("Steps", absl::StrFormat("%d of %d, %d images each, on %d ranks", progress.step(),
                                   progress.total_steps(), job.spec().train().global_batch(),
                                   job.spec().parallel().ranks())),
      Row("Loss",
          absl::StrFormat("%.4f (mean of the last twentieth)", FinalLoss(input.report.records))),
      Row("Pace", absl::StrFormat("%s images/s at the last report, %s of training in all",
                                  NumberText(progress.images_per_second()),
                                  DurationText(progress.elapsed_seconds()))),
      Row("Created", TimeText(job.create_time())), Row("Ended", TimeText(job.end_time())),
      Row("Attempts",
          absl::StrFormat("%d, %d of them ended by a fault", job.attempts_size(), job.failures())));
  if (!job.forked_from().empty()) absl::StrAppend(&rows, Row("Forked from", job.forked_from()));
  return absl::StrCat("<table>\n", rows, "</table>\n");
}

using Field = float (v1::StepRecord::*)() const;

SvgSeries Recorded(const v1::ListStepRecordsResponse& records, Field field,
                   const std::string& name) {
  SvgSeries series;
  series.name = name;
  for (const v1::StepRecord& record : records.records()) {
    series.x.push_back(static_cast<double>(record.step()));
    series.y.push_back((record.*field)());
  }
  return series;
}

// An average over about a thirtieth of the points, without the bias of its start.
SvgSeries Smoothed(const SvgSeries& raw, const std::string& name) {
  const double keep = 1 - 1 / std::max(1.0, static_cast<double>(raw.x.size()) / 30);
  SvgSeries smooth;
  smooth.name = name;
  double sum = 0, weight = 0;
  for (size_t i = 0; i < raw.x.size(); ++i) {
    if (!std::isfinite(raw.y[i])) continue;
    sum = keep * sum + (1 - keep) * raw.y[i];
    weight = keep * weight + (1 - keep);
    smooth.x.push_back(raw.x[i]);
    smooth.y.push_back(sum / weight);
  }
  return smooth;
}

std::string TrainingPlots(const HtmlReport& input) {
  const v1::ListStepRecordsResponse& records = input.report.records;
  SvgSeries loss = Recorded(records, &v1::StepRecord::loss, "each step");
  loss.faint = true;
  SvgSeries predictor = Recorded(records, &v1::StepRecord::predictor_loss, "");
  const SvgSeries norm = Recorded(records, &v1::StepRecord::grad_norm, "");
  const SvgSeries rate = Recorded(records, &v1::StepRecord::learning_rate, "");
  std::string plots =
      SvgLinePlot({Smoothed(loss, "moving average"), loss},
                  {.title = "Loss", .x_label = "step", .y_label = "loss", .log_y = true});
  const bool predicts =
      std::any_of(predictor.y.begin(), predictor.y.end(), [](double value) { return value != 0; });
  if (predicts) {
    absl::StrAppend(&plots, SvgLinePlot({predictor}, {.title = "Loss of the capacity predictor",
                                                      .x_label = "step",
                                                      .y_label = "loss",
                                                      .y_from_zero = true}));
  }
  absl::StrAppend(
      &plots,
      SvgLinePlot({norm}, {.title = "Gradient norm before clipping",
                           .x_label = "step",
                           .y_label = "norm",
                           .log_y = true}),
      SvgLinePlot(
          {rate},
          {.title = "Learning rate", .x_label = "step", .y_label = "rate", .y_from_zero = true}));
  return Plots(plots);
}

std::string CapacityPlot(const HtmlReport& input) {
  const JobReport& report = input.report;
  SvgSeries training{"training batch, at the last report", {}, {}, false, true};
  SvgSeries sampling{"sampling, mean over the way", {}, {}, false, true};
  SvgSeries target{"trained for", {}, {}, true, false};
  const bool by_tokens = report.job.spec().model().family() == v1::FAMILY_TOKEN_CHOICE;
  int index = 0;
  for (const v1::LayerStats& layer : report.job.progress().layers()) {
    training.x.push_back(layer.block());
    training.y.push_back(layer.capacity());
    if (index < report.receipt.capacity_size()) {
      sampling.x.push_back(layer.block());
      sampling.y.push_back(report.receipt.capacity(index));
    }
    target.x.push_back(layer.block());
    target.y.push_back(by_tokens ? report.job.spec().model().top_k()
                                 : report.job.spec().model().capacity());
    ++index;
  }
  return SvgLinePlot({training, sampling, target}, {.title = "Capacity per layer",
                                                    .x_label = "block",
                                                    .y_label = "experts per token",
                                                    .y_from_zero = true});
}

std::string CapacityOverTime(const HtmlReport& input) {
  const auto& calls = input.report.receipt.step_capacity();
  std::vector<SvgSeries> series;
  const size_t layers = calls.empty() ? 0 : static_cast<size_t>(calls[0].layers_size());
  for (const size_t layer : Shown(layers)) {
    const int block = static_cast<int>(layer) < input.report.job.progress().layers_size()
                          ? input.report.job.progress().layers(static_cast<int>(layer)).block()
                          : static_cast<int>(layer);
    SvgSeries& one = series.emplace_back();
    one.name = absl::StrCat("block ", block);
    for (int call = 0; call < calls.size(); ++call) {
      if (static_cast<int>(layer) >= calls[call].layers_size()) continue;
      one.x.push_back(static_cast<double>(call) / std::max(1, calls.size()));
      one.y.push_back(calls[call].layers(static_cast<int>(layer)));
    }
  }
  return SvgLinePlot(series, {.title = "Capacity against t, from noise (0) to image (1)",
                              .x_label = "t",
                              .y_label = "experts per token",
                              .y_from_zero = true});
}

std::string CapacityOfClasses(const HtmlReport& input) {
  if (input.classes.empty()) return "";
  SvgSeries mean{"", {}, {}, false, true};
  std::vector<SvgSeries> over_time;
  for (const ClassReceipt& one : input.classes) {
    const auto& capacity = one.receipt.capacity();
    double sum = 0;
    for (const double layer : capacity) sum += layer;
    mean.x.push_back(one.label);
    mean.y.push_back(capacity.empty() ? std::numeric_limits<double>::quiet_NaN()
                                      : sum / capacity.size());
    SvgSeries& series = over_time.emplace_back();
    series.name = absl::StrCat("class ", one.label);
    const auto& calls = one.receipt.step_capacity();
    for (int call = 0; call < calls.size(); ++call) {
      double layers = 0;
      for (const float layer : calls[call].layers()) layers += layer;
      series.x.push_back(static_cast<double>(call) / calls.size());
      series.y.push_back(layers / std::max(1, calls[call].layers_size()));
    }
  }
  return absl::StrCat(
      SvgLinePlot({mean}, {.title = "Capacity of each class, mean over layers and the way",
                           .x_label = "class",
                           .y_label = "experts per token"}),
      SvgLinePlot(over_time, {.title = "Capacity of each class against t, mean over layers",
                              .x_label = "t",
                              .y_label = "experts per token"}));
}

std::string ThresholdPlot(const HtmlReport& input) {
  std::map<int, SvgSeries> by_block;
  for (const v1::ThresholdPoint& point : input.thresholds.points()) {
    for (const v1::LayerThresholds& layer : point.layers()) {
      SvgSeries& series = by_block[layer.block()];
      series.name = absl::StrCat("block ", layer.block());
      series.points = input.thresholds.points_size() <= 30;
      series.x.push_back(static_cast<double>(point.step()));
      series.y.push_back(Median(layer.thresholds()));
    }
  }
  std::vector<SvgSeries> all, shown;
  for (auto& [block, series] : by_block) all.push_back(std::move(series));
  for (const size_t i : Shown(all.size())) shown.push_back(all[i]);
  return SvgLinePlot(shown, {.title = "Thresholds per layer, median of the experts",
                             .x_label = "step",
                             .y_label = "probability"});
}

std::string LoadMap(const HtmlReport& input) {
  SvgHeatMap map{.title = "Expert load at the last report: tokens over the ideal share",
                 .column_label = "expert"};
  for (const v1::LayerStats& layer : input.report.job.progress().layers()) {
    map.rows.push_back(absl::StrCat("block ", layer.block()));
    map.values.emplace_back(layer.expert_load().begin(), layer.expert_load().end());
  }
  return SvgHeatMapPlot(map);
}

std::string CalibrationPlot(const HtmlReport& input) {
  if (!input.calibration) return "";
  std::map<int, SvgSeries> by_rule;
  for (const v1::CalibratedTarget& target : input.calibration->targets()) {
    SvgSeries& series = by_rule[target.rule()];
    series.name = v1::ThresholdRule_Name(target.rule());
    series.points = true;
    series.x.push_back(target.measured());
    series.y.push_back(target.loss());
  }
  std::vector<SvgSeries> all;
  for (auto& [rule, series] : by_rule) all.push_back(std::move(series));
  return SvgLinePlot(all, {.title = absl::StrCat("Held-out loss against capacity, from the "
                                                 "calibration of ",
                                                 input.calibration->checkpoint()),
                           .x_label = "experts per token",
                           .y_label = "loss"});
}

std::string SamplesOf(const HtmlReport& input) {
  std::string html;
  if (!input.samples_png.empty()) {
    absl::StrAppend(&html, "<p>", EscapeHtml(input.report.checkpoint.name()),
                    ", a row per class:</p>\n",
                    Png(input.samples_png, "Samples of the newest checkpoint"), "\n");
  }
  if (input.samples.empty()) return html;
  absl::StrAppend(&html, "<p>The same seeds and classes through training:</p>\n<table>\n");
  for (const SampledCheckpoint& sampled : input.samples) {
    const std::string step = absl::StrCat("step ", sampled.step);
    absl::StrAppend(&html, "<tr><td class=\"number\">", step, "</td><td>",
                    Png(sampled.png, "Samples at " + step), "</td></tr>\n");
  }
  return html + "</table>\n";
}

std::string EventsOf(const HtmlReport& input) {
  const int count = input.events.events_size();
  std::string rows;
  for (int i = std::max(0, count - kMaxEvents); i < count; ++i) {
    const v1::JobEvent& event = input.events.events(i);
    absl::StrAppend(&rows, "<tr><td class=\"number\">", event.sequence(), "</td><td>",
                    EscapeHtml(TimeText(event.time())), "</td><td>",
                    EscapeHtml(v1::JobState_Name(event.state())), "</td><td>",
                    EscapeHtml(event.message()), "</td></tr>\n");
  }
  if (rows.empty()) return "";
  return absl::StrCat(
      count > kMaxEvents ? absl::StrCat("<p>The newest ", kMaxEvents, " of ", count, ".</p>\n")
                         : "",
      "<div class=\"wide\"><table>\n<thead><tr><th class=\"number\">#</th><th>Time</th>"
      "<th>State</th><th>Event</th></tr></thead>\n",
      rows, "</table></div>\n");
}

std::string CheckpointsOf(const HtmlReport& input) {
  std::string rows;
  for (const v1::Checkpoint& checkpoint : input.checkpoints.checkpoints()) {
    const std::string marks =
        absl::StrCat(checkpoint.pinned() ? "pinned " : "", checkpoint.damaged() ? "damaged" : "");
    absl::StrAppend(&rows, "<tr><td class=\"number\">", checkpoint.step(), "</td><td>",
                    EscapeHtml(TimeText(checkpoint.commit_time())), "</td><td class=\"number\">",
                    EscapeHtml(BytesText(checkpoint.bytes())), "</td><td class=\"number\">",
                    NumberText(checkpoint.loss()), "</td><td>", marks, "</td></tr>\n");
  }
  if (rows.empty()) return "";
  return absl::StrCat(
      "<table>\n<thead><tr><th class=\"number\">Step</th><th>Saved</th><th "
      "class=\"number\">Size</th>"
      "<th class=\"number\">Loss</th><th></th></tr></thead>\n",
      rows, "</table>\n");
}

}  // namespace

std::string HtmlReportText(const HtmlReport& input) {
  const std::string id = EscapeHtml(input.report.job.id());
  std::string moe;
  if (input.report.job.progress().layers_size() > 0) {
    moe = Plots(absl::StrCat(CapacityPlot(input), CapacityOverTime(input), CapacityOfClasses(input),
                             ThresholdPlot(input), LoadMap(input), CalibrationPlot(input)));
  }
  return absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
      "img-src data:; style-src 'unsafe-inline'\">\n<title>",
      id, "</title>\n<style>\n", kPlotStyle, kStyle, "</style>\n</head>\n<body>\n<h1>", id,
      "</h1>\n", Summary(input), Section("Training", TrainingPlots(input)), Section("Experts", moe),
      Section("Samples", SamplesOf(input)), Section("Checkpoints", CheckpointsOf(input)),
      Section("Events", EventsOf(input)),
      Section("Receipt of the samples",
              absl::StrCat("<pre>", EscapeHtml(ReceiptText(input.report.receipt)), "</pre>\n")),
      Section("Spec", absl::StrCat("<pre>", EscapeHtml(input.spec), "</pre>\n")),
      "<p class=\"none\">Made by diffmoe ", EscapeHtml(kVersion), "</p>\n</body>\n</html>\n");
}

}  // namespace diffmoe
