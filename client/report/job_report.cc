#include "client/report/job_report.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/output/table.h"
#include "client/output/text.h"
#include "client/output/views.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

struct Spread {
  double min = 0, mean = 0, max = 0;
};

template <typename Values>
Spread SpreadOf(const Values& values) {
  if (values.empty()) return {};
  return {*std::min_element(values.begin(), values.end()),
          std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()),
          *std::max_element(values.begin(), values.end())};
}

int64_t TrainedImages(const JobReport& report) {
  return report.job.progress().step() * report.job.spec().train().global_batch();
}

// Over the whole training, pauses included.
double MeanImagesPerSecond(const JobReport& report) {
  const double seconds = report.job.progress().elapsed_seconds();
  return seconds > 0 ? static_cast<double>(TrainedImages(report)) / seconds : 0;
}

std::string LayersTable(const JobReport& report) {
  Table table({">BLOCK", ">C TRAINING", ">C SAMPLING", ">PREDICTOR ACCURACY",
               ">TOKENS WITHOUT EXPERT", ">THRESHOLD MIN", ">MEAN", ">MAX"});
  const auto& layers = report.job.progress().layers();
  for (int i = 0; i < report.checkpoint.thresholds_size(); ++i) {
    const v1::LayerThresholds& saved = report.checkpoint.thresholds(i);
    const Spread thresholds = SpreadOf(saved.thresholds());
    const auto layer = std::find_if(layers.begin(), layers.end(), [&](const v1::LayerStats& l) {
      return l.block() == saved.block();
    });
    const bool known = layer != layers.end();
    table.AddRow(
        {absl::StrCat(saved.block()), known ? absl::StrFormat("%.3f", layer->capacity()) : "-",
         i < report.receipt.capacity_size() ? absl::StrFormat("%.3f", report.receipt.capacity(i))
                                            : "-",
         known ? absl::StrFormat("%.3f", layer->predictor_accuracy()) : "-",
         known ? absl::StrFormat("%.3f", layer->zero_expert_tokens()) : "-",
         absl::StrFormat("%.3f", thresholds.min), absl::StrFormat("%.3f", thresholds.mean),
         absl::StrFormat("%.3f", thresholds.max)});
  }
  return table.ToString();
}

std::string QualityTable(const SampleEvaluation& evaluation) {
  const SampleQuality& quality = evaluation.quality;
  const auto number = [](double value) { return absl::StrFormat("%.4f", value); };
  Table table({"COMPARED WITH TRAINING IMAGES", ">SAMPLES", ">REAL (FLOOR)"});
  table.AddRow({"energy distance (0: same distribution)", number(quality.energy_distance),
                number(quality.energy_distance_floor)});
  table.AddRow({"nearest image shows the class asked for", number(quality.class_agreement),
                number(quality.class_agreement_floor)});
  table.AddRow({"distance to the nearest image", number(quality.nearest_distance),
                number(quality.nearest_distance_floor)});
  return table.ToString();
}

std::string RestartsText(const v1::Job& job) {
  return job.restarts() == 0 ? "" : absl::StrCat(", ", job.restarts(), " restarts");
}

}  // namespace

double FinalLoss(const v1::ListStepRecordsResponse& records) {
  if (records.records().empty()) return 0;
  const int count = std::max(1, records.records_size() / 20);
  double sum = 0;
  for (int i = records.records_size() - count; i < records.records_size(); ++i) {
    sum += records.records(i).loss();
  }
  return sum / count;
}

std::string ReportText(const JobReport& report) {
  const v1::Progress& progress = report.job.progress();
  const v1::Receipt& receipt = report.receipt;
  const double first_loss = report.records.records().empty() ? 0 : report.records.records(0).loss();
  std::string text = KeyValueText({
      {"job", absl::StrCat(CleanText(report.job.id()), "  ", v1::JobState_Name(report.job.state()),
                           RestartsText(report.job))},
      {"training",
       absl::StrFormat("%d steps of %d images on %d ranks in %s: %.1f images/s", progress.step(),
                       report.job.spec().train().global_batch(),
                       report.job.spec().parallel().ranks(),
                       DurationText(progress.elapsed_seconds()), MeanImagesPerSecond(report))},
      {"loss", absl::StrFormat("%.4f (mean of the last twentieth), from %.4f",
                               FinalLoss(report.records), first_loss)},
      {"samples",
       absl::StrFormat("%d images of %d classes from checkpoint %d (EMA weights), seed %d, %s, "
                       "guidance %s, in %s",
                       receipt.count(), report.job.spec().model().classes(),
                       report.checkpoint.step(), receipt.seed(), SamplerText(receipt),
                       GuidanceText(receipt), DurationText(receipt.seconds()))},
  });
  absl::StrAppend(&text, "\n", LayersTable(report), "\n", QualityTable(report.evaluation), "  (",
                  report.evaluation.samples, " samples, ", report.evaluation.training_images,
                  " training images; floor: ", report.evaluation.held_out_images, " ",
                  report.evaluation.held_out, ")\n");
  return text;
}

nlohmann::ordered_json ReportJson(const JobReport& report) {
  using Json = nlohmann::ordered_json;
  const v1::Progress& progress = report.job.progress();
  const v1::Receipt& receipt = report.receipt;
  const SampleQuality& quality = report.evaluation.quality;
  Json layers = Json::array();
  for (int i = 0; i < report.checkpoint.thresholds_size(); ++i) {
    const v1::LayerThresholds& saved = report.checkpoint.thresholds(i);
    Json layer = {{"block", saved.block()}};
    for (const v1::LayerStats& stats : progress.layers()) {
      if (stats.block() != saved.block()) continue;
      layer["capacity_training"] = stats.capacity();
      layer["predictor_accuracy"] = stats.predictor_accuracy();
      layer["tokens_without_expert"] = stats.zero_expert_tokens();
    }
    if (i < receipt.capacity_size()) layer["capacity_sampling"] = receipt.capacity(i);
    layer["thresholds"] = std::vector<float>(saved.thresholds().begin(), saved.thresholds().end());
    layers.push_back(std::move(layer));
  }
  return {
      {"job", report.job.id()},
      {"state", v1::JobState_Name(report.job.state())},
      {"restarts", report.job.restarts()},
      {"ranks", report.job.spec().parallel().ranks()},
      {"steps", progress.step()},
      {"images", TrainedImages(report)},
      {"training_seconds", progress.elapsed_seconds()},
      {"images_per_second", MeanImagesPerSecond(report)},
      {"loss", FinalLoss(report.records)},
      {"checkpoint", report.checkpoint.name()},
      {"layers", std::move(layers)},
      {"samples",
       {{"count", receipt.count()},
        {"seed", receipt.seed()},
        {"sampler", receipt.sampler()},
        {"steps", receipt.steps()},
        {"guidance", receipt.guidance()},
        {"seconds", receipt.seconds()},
        {"thresholds_hash", receipt.thresholds_hash()}}},
      {"quality",
       {{"energy_distance", quality.energy_distance},
        {"energy_distance_floor", quality.energy_distance_floor},
        {"class_agreement", quality.class_agreement},
        {"class_agreement_floor", quality.class_agreement_floor},
        {"nearest_distance", quality.nearest_distance},
        {"nearest_distance_floor", quality.nearest_distance_floor},
        {"training_images", report.evaluation.training_images},
        {"held_out_images", report.evaluation.held_out_images},
        {"held_out", report.evaluation.held_out}}},
  };
}

}  // namespace diffmoe
