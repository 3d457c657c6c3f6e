#include "client/report/report_parts.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/sample_call.h"
#include "client/sample_images.h"
#include "core/base/status_macros.h"
#include "core/eval/png.h"

namespace diffmoe {
namespace {

constexpr int kPageSize = 1000;
constexpr int kMaxEvents = 10'000;
constexpr int kMaxThresholdPoints = 1000;

absl::Status FetchEvents(ApiClient* client, const std::string& job,
                         v1::ListJobEventsResponse* events) {
  v1::ListJobEventsRequest request;
  request.set_name(job);
  request.set_page_size(kPageSize);
  while (events->events_size() < kMaxEvents) {
    ASSIGN_OR_RETURN(const v1::ListJobEventsResponse page, client->ListJobEvents(request));
    if (page.events().empty()) break;
    request.set_after_sequence(page.events(page.events_size() - 1).sequence());
    events->MergeFrom(page);
  }
  return absl::OkStatus();
}

absl::Status FetchCheckpoints(ApiClient* client, const std::string& job,
                              v1::ListCheckpointsResponse* checkpoints) {
  v1::ListCheckpointsRequest request;
  request.set_parent(job);
  request.set_page_size(kPageSize);
  do {
    ASSIGN_OR_RETURN(v1::ListCheckpointsResponse page, client->ListCheckpoints(request));
    request.set_page_token(page.next_page_token());
    checkpoints->MergeFrom(page);
  } while (!request.page_token().empty());
  auto* list = checkpoints->mutable_checkpoints();
  std::sort(list->begin(), list->end(),
            [](const v1::Checkpoint& a, const v1::Checkpoint& b) { return a.step() < b.step(); });
  return absl::OkStatus();
}

v1::SampleRequest RequestFor(const std::string& checkpoint, const ReportPartsOptions& options) {
  v1::SampleRequest request;
  request.set_checkpoint(checkpoint);
  request.set_seed(options.seed);
  request.set_steps(std::min(options.steps, kPartSteps));
  request.set_guidance(options.guidance);
  return request;
}

// Evenly spread, the newest among them.
std::vector<const v1::Checkpoint*> Chosen(const v1::ListCheckpointsResponse& checkpoints) {
  std::vector<const v1::Checkpoint*> good, chosen;
  for (const v1::Checkpoint& checkpoint : checkpoints.checkpoints()) {
    if (!checkpoint.damaged()) good.push_back(&checkpoint);
  }
  const size_t most = std::min<size_t>(good.size(), kPartCheckpoints);
  for (size_t i = 0; i < most; ++i) chosen.push_back(good[(i + 1) * good.size() / most - 1]);
  return chosen;
}

class Parts {
 public:
  Parts(const Context& context, ApiClient* client, Interrupt* interrupt,
        const ReportPartsOptions& options, HtmlReport* html)
      : context_(context), client_(client), interrupt_(interrupt), options_(options), html_(html) {}

  absl::Status SampleCheckpoints() {
    for (const v1::Checkpoint* checkpoint : Chosen(html_->checkpoints)) {
      v1::SampleRequest request = RequestFor(checkpoint->name(), options_);
      for (int label = 0; label < Classes(); ++label) request.add_classes(label);
      request.set_count(request.classes_size());
      SampleImages images(request.count());
      const absl::Status status = Run(request, &images).status();
      if (absl::IsNotFound(status)) continue;  // retention has taken it
      RETURN_IF_ERROR(status);
      ASSIGN_OR_RETURN(const std::vector<Image> all, images.All());
      ASSIGN_OR_RETURN(
          const Image grid,
          MakeGrid(all, {.columns = request.count(),
                         .scale = DefaultScale(all.front().height, all.front().width)}));
      ASSIGN_OR_RETURN(std::string png,
                       EncodePng(grid.height, grid.width, grid.channels, grid.pixels));
      html_->samples.push_back({checkpoint->step(), std::move(png)});
    }
    return absl::OkStatus();
  }

  absl::Status SampleClasses() {
    for (int label = 0; label < Classes(); ++label) {
      v1::SampleRequest request = RequestFor(html_->report.checkpoint.name(), options_);
      for (int i = 0; i < 2; ++i) request.add_classes(label);
      request.set_count(request.classes_size());
      SampleImages images(request.count());
      ASSIGN_OR_RETURN(v1::Receipt receipt, Run(request, &images));
      html_->classes.push_back({label, std::move(receipt)});
    }
    return absl::OkStatus();
  }

 private:
  int Classes() const {
    return std::min<int>(html_->report.job.spec().model().classes(), kPartClasses);
  }
  absl::StatusOr<v1::Receipt> Run(const v1::SampleRequest& request, SampleImages* images) {
    return RunSampleCall(context_, client_, interrupt_, request, images);
  }

  const Context& context_;
  ApiClient* const client_;
  Interrupt* const interrupt_;
  const ReportPartsOptions& options_;
  HtmlReport* const html_;
};

}  // namespace

absl::Status FillReportParts(const Context& context, ApiClient* client, Interrupt* interrupt,
                             const ReportPartsOptions& options, HtmlReport* html) {
  const std::string job = html->report.job.name();
  RETURN_IF_ERROR(FetchEvents(client, job, &html->events));
  RETURN_IF_ERROR(FetchCheckpoints(client, job, &html->checkpoints));
  v1::ListThresholdsRequest thresholds;
  thresholds.set_parent(job);
  thresholds.set_max_points(kMaxThresholdPoints);
  ASSIGN_OR_RETURN(html->thresholds, client->ListThresholds(thresholds));
  v1::GetCalibrationRequest calibration;
  calibration.set_checkpoint(html->report.checkpoint.name());
  if (auto found = client->GetCalibration(calibration); found.ok()) {
    html->calibration = *std::move(found);
  }
  ASSIGN_OR_RETURN(html->spec, MessageText(html->report.job.spec(), OutputFormat::kYaml));
  Parts parts(context, client, interrupt, options, html);
  RETURN_IF_ERROR(parts.SampleCheckpoints());
  return html->report.job.progress().layers().empty() ? absl::OkStatus() : parts.SampleClasses();
}

}  // namespace diffmoe
