// What a job's HTML page shows beside its report: histories, and samples made for it.
#pragma once

#include "absl/status/status.h"
#include "client/api_client.h"
#include "client/context.h"
#include "client/interrupt.h"
#include "client/report/html_report.h"

namespace diffmoe {

struct ReportPartsOptions {
  int steps = 50;  // denoise steps; at most kPartSteps are used
  double guidance = 2;
  uint64_t seed = 1;
};

// Steps of samples that only show a course.
inline constexpr int kPartSteps = 20;
// Checkpoints that are sampled, the newest among them; classes in such a row, and classes that are
// sampled alone.
inline constexpr int kPartCheckpoints = 6;
inline constexpr int kPartClasses = 10;

// Fills all but `report`, which must be there, and `samples_png`. A calibration may be missing, and
// checkpoints that go while the page is made. Errors: the API's.
absl::Status FillReportParts(const Context& context, ApiClient* client, Interrupt* interrupt,
                             const ReportPartsOptions& options, HtmlReport* html);

}  // namespace diffmoe
