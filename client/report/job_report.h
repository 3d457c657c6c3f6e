// What a training job achieved: one screen for people, and JSON. Pure functions.
#pragma once

#include <string>

#include "client/report/evaluation.h"
#include "diffmoe/v1/checkpoint.pb.h"
#include "diffmoe/v1/sampling.pb.h"
#include "diffmoe/v1/training_job.pb.h"
#include "nlohmann/json_fwd.hpp"

namespace diffmoe {

struct JobReport {
  v1::Job job;
  v1::Checkpoint checkpoint;            // that was sampled
  v1::ListStepRecordsResponse records;  // ascending in step
  v1::Receipt receipt;
  SampleEvaluation evaluation;
};

// Mean flow loss over the last twentieth of the records (at least one); 0 without records.
double FinalLoss(const v1::ListStepRecordsResponse& records);

std::string ReportText(const JobReport& report);
nlohmann::ordered_json ReportJson(const JobReport& report);

}  // namespace diffmoe
