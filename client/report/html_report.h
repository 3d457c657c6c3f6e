// A job as one HTML page that needs nothing else: no script, no network, plots inside. Readable in
// light and dark and in print. Pure function.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "client/report/job_report.h"
#include "diffmoe/v1/checkpoint.pb.h"
#include "diffmoe/v1/sampling.pb.h"
#include "diffmoe/v1/training_job.pb.h"

namespace diffmoe {

// The same seeds and classes at one checkpoint.
struct SampledCheckpoint {
  int64_t step = 0;
  std::string png;  // a row of images
};

// Images of one class alone.
struct ClassReceipt {
  int label = 0;
  v1::Receipt receipt;
};

struct HtmlReport {
  JobReport report;
  v1::ListThresholdsResponse thresholds;  // ascending in step
  v1::ListJobEventsResponse events;
  v1::ListCheckpointsResponse checkpoints;
  std::optional<v1::Calibration> calibration;
  std::vector<ClassReceipt> classes;
  std::vector<SampledCheckpoint> samples;  // ascending in step
  std::string samples_png;                 // of the newest checkpoint, every class
  std::string spec;                        // YAML
};

std::string HtmlReportText(const HtmlReport& report);

}  // namespace diffmoe
