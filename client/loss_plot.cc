#include "client/loss_plot.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/eval/line_plot.h"

namespace diffmoe {

absl::Status WriteLossPlot(const std::string& path, const std::string& job_id,
                           const v1::ListStepRecordsResponse& records) {
  if (records.records().empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("no plot of ", job_id, ": expected recorded steps, got none yet"));
  }
  // An average over about a thirtieth of the records, without the bias of its start.
  const double keep = 1 - 1 / std::max(1.0, records.records_size() / 30.0);
  double sum = 0;
  double weight = 0;
  LineSeries loss{"loss", {}, {}};
  LineSeries average{"moving average", {}, {}};
  for (const v1::StepRecord& record : records.records()) {
    const auto step = static_cast<double>(record.step());
    loss.x.push_back(step);
    loss.y.push_back(record.loss());
    if (!std::isfinite(record.loss())) continue;
    sum = keep * sum + (1 - keep) * record.loss();
    weight = keep * weight + (1 - keep);
    average.x.push_back(step);
    average.y.push_back(sum / weight);
  }
  LinePlotOptions options;
  options.title = absl::StrCat("Training loss of ", job_id);
  options.x_label = "step";
  options.y_label = "rectified-flow loss";
  options.log_y = true;
  return WriteLinePlot(path, {loss, average}, options);
}

}  // namespace diffmoe
