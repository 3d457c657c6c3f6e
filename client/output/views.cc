#include "client/output/views.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/output/table.h"
#include "client/output/text.h"
#include "core/spec/spec_fields.h"

namespace diffmoe {
namespace {

std::string StepsText(const v1::Job& job) {
  if (!job.has_progress()) return "-";
  return absl::StrCat(job.progress().step(), "/", job.progress().total_steps());
}

std::string LossText(const v1::Job& job) {
  return job.has_progress() ? NumberText(job.progress().loss()) : "-";
}

std::string LabelsText(const v1::Job& job) {
  const std::map<std::string, std::string> sorted(job.labels().begin(), job.labels().end());
  return absl::StrJoin(sorted, " ", absl::PairFormatter("="));
}

// What holds a checkpoint, or that it is damaged.
std::string UseText(const v1::Checkpoint& checkpoint) {
  std::vector<std::string> parts;
  if (checkpoint.damaged()) parts.emplace_back("damaged");
  if (checkpoint.pinned()) parts.emplace_back("pinned");
  parts.insert(parts.end(), checkpoint.used_by().begin(), checkpoint.used_by().end());
  return absl::StrJoin(parts, ", ");
}

std::string PlacementText(const v1::Attempt& attempt) {
  std::vector<std::string> places;
  for (const v1::Placement& placement : attempt.placements()) {
    places.push_back(absl::StrCat("rank ", placement.rank(), " on ", placement.worker_id(),
                                  " slot ", placement.slot()));
  }
  return absl::StrJoin(places, ", ");
}

std::string AttemptsTable(const v1::Job& job) {
  Table table({">ATTEMPT", "STARTED", ">FROM STEP", ">LAST STEP", "RANKS", "ENDED"});
  for (const v1::Attempt& attempt : job.attempts()) {
    table.AddRow({absl::StrCat(attempt.epoch()), TimeText(attempt.start_time()),
                  absl::StrCat(attempt.restored_step()), absl::StrCat(attempt.last_step()),
                  PlacementText(attempt),
                  attempt.end_reason().empty() ? "running" : attempt.end_reason()});
  }
  return table.ToString();
}

std::string LayersTable(const v1::Progress& progress) {
  Table table({">BLOCK", ">C", ">PREDICTOR ACCURACY", ">TOKENS WITHOUT EXPERT", ">LOAD MIN",
               ">LOAD MAX", "THRESHOLDS"});
  for (const v1::LayerStats& layer : progress.layers()) {
    const auto [low, high] =
        std::minmax_element(layer.expert_load().begin(), layer.expert_load().end());
    const bool known = !layer.expert_load().empty();
    std::vector<std::string> thresholds;
    for (float value : layer.thresholds()) thresholds.push_back(absl::StrFormat("%.3f", value));
    table.AddRow(
        {absl::StrCat(layer.block()), absl::StrFormat("%.3f", layer.capacity()),
         layer.thresholds().empty() ? "-" : absl::StrFormat("%.3f", layer.predictor_accuracy()),
         absl::StrFormat("%.3f", layer.zero_expert_tokens()),
         known ? absl::StrFormat("%.2f", *low) : "-", known ? absl::StrFormat("%.2f", *high) : "-",
         absl::StrJoin(thresholds, " ")});
  }
  return table.ToString();
}

std::vector<std::string> ThresholdHeader(std::vector<std::string> first, int experts) {
  for (int i = 0; i < experts; ++i) first.push_back(absl::StrCat(">EXPERT ", i));
  return first;
}

void AppendThresholds(const v1::LayerThresholds& layer, std::vector<std::string>* row) {
  for (float value : layer.thresholds()) row->push_back(absl::StrFormat("%.4f", value));
}

// "dynamic", and with a target "calibrated for 0.75".
std::string RuleText(const v1::Receipt& receipt) {
  if (receipt.threshold_rule() == v1::THRESHOLD_RULE_UNSPECIFIED) return "";
  std::string text = absl::AsciiStrToLower(v1::ThresholdRule_Name(receipt.threshold_rule()));
  if (receipt.has_target_capacity()) {
    absl::StrAppend(&text, " for ", NumberText(receipt.target_capacity()));
  }
  return text;
}

}  // namespace

std::string JobsTable(const v1::ListJobsResponse& jobs, int64_t now_ms) {
  Table table({"JOB", "STATE", ">STEP", ">LOSS", ">IMAGES/S", ">AGE", "REASON"});
  for (const v1::Job& job : jobs.jobs()) {
    const bool running = job.state() == v1::RUNNING && job.has_progress();
    table.AddRow({job.id(), v1::JobState_Name(job.state()), StepsText(job), LossText(job),
                  running ? absl::StrFormat("%.0f", job.progress().images_per_second()) : "-",
                  AgeText(job.create_time(), now_ms), CutText(job.reason(), 60)});
  }
  return table.empty() ? "No jobs. `diffmoe submit FILE` makes one.\n" : table.ToString();
}

std::string JobText(const v1::Job& job, int64_t now_ms) {
  std::vector<std::pair<std::string, std::string>> pairs = {
      {"job", job.id()},
      {"state", v1::JobState_Name(job.state())},
      {"reason", job.reason()},
      {"next", job.next_command()},
      {"priority", job.priority() == 0 ? "" : absl::StrCat(job.priority())},
      {"labels", LabelsText(job)},
      {"forked from", job.forked_from()},
      {"created", absl::StrCat(TimeText(job.create_time()), " (",
                               AgeText(job.create_time(), now_ms), " ago)")},
      {"started", job.has_start_time() ? TimeText(job.start_time()) : ""},
      {"ended", job.has_end_time() ? TimeText(job.end_time()) : ""},
      {"attempts", absl::StrCat(job.attempts_size(), ", restarts ", job.restarts())},
      {"checkpoint", job.latest_checkpoint_step() < 0
                         ? "none yet"
                         : absl::StrCat("step ", job.latest_checkpoint_step())}};
  if (job.has_progress()) {
    const v1::Progress& progress = job.progress();
    pairs.push_back({"step", StepsText(job)});
    pairs.push_back(
        {"loss", absl::StrCat(NumberText(progress.loss()), ", predictor ",
                              NumberText(progress.predictor_loss()),
                              progress.balance_loss() > 0
                                  ? absl::StrCat(", balance ", NumberText(progress.balance_loss()))
                                  : "")});
    pairs.push_back({"speed", absl::StrFormat("%.1f images/s", progress.images_per_second())});
    pairs.push_back({"learning rate", NumberText(progress.learning_rate())});
    pairs.push_back({"gradient norm", NumberText(progress.grad_norm())});
    pairs.push_back({"time", absl::StrCat(DurationText(progress.elapsed_seconds()), " trained, ",
                                          DurationText(progress.seconds_left()), " left")});
    if (progress.bad_files() > 0) {
      pairs.push_back({"broken files", absl::StrCat(progress.bad_files(), " skipped")});
    }
  }
  std::string text = KeyValueText(pairs);
  if (!job.progress().layers().empty()) absl::StrAppend(&text, "\n", LayersTable(job.progress()));
  if (!job.attempts().empty()) absl::StrAppend(&text, "\n", AttemptsTable(job));
  return text;
}

namespace {

// Where the newest attempt that failed says more.
std::string LogHint(const v1::Job& job) {
  for (auto attempt = job.attempts().rbegin(); attempt != job.attempts().rend(); ++attempt) {
    if (attempt->end_reason().empty() || attempt->end_cause() == v1::END_CAUSE_FINISHED) continue;
    std::string hint =
        absl::StrCat("Logs: diffmoe logs ", CleanText(job.id()), " --attempt ", attempt->epoch());
    int rank = 0;
    const std::vector<std::string> words = absl::StrSplit(attempt->end_reason(), ' ');
    if (words.size() > 1 && words[0] == "rank" && absl::SimpleAtoi(words[1], &rank)) {
      absl::StrAppend(&hint, " --rank ", rank);
    }
    return hint + "\n";
  }
  return "";
}

}  // namespace

std::string WhyText(const v1::Job& job, const v1::ListJobEventsResponse& events) {
  static constexpr int kEvents = 10;
  std::string text = absl::StrCat(CleanText(job.id()), " is ", v1::JobState_Name(job.state()),
                                  job.reason().empty() ? "" : ": ", CleanText(job.reason()), "\n");
  if (job.reason_code() != v1::REASON_UNSPECIFIED) {
    absl::StrAppend(&text, "Code: ", v1::ReasonCode_Name(job.reason_code()), "\n");
  }
  if (!job.next_command().empty()) {
    absl::StrAppend(&text, "Next: ", CleanText(job.next_command()), "\n");
  }
  absl::StrAppend(&text, LogHint(job));
  if (!job.attempts().empty()) absl::StrAppend(&text, "\n", AttemptsTable(job));
  v1::ListJobEventsResponse newest;
  for (int i = std::max(0, events.events_size() - kEvents); i < events.events_size(); ++i) {
    *newest.add_events() = events.events(i);
  }
  if (!newest.events().empty()) absl::StrAppend(&text, "\n", EventsTable(newest));
  return text;
}

std::string EventsTable(const v1::ListJobEventsResponse& events) {
  Table table({">#", "TIME", "STATE", ">ATTEMPT", "EVENT"});
  for (const v1::JobEvent& event : events.events()) {
    table.AddRow({absl::StrCat(event.sequence()), TimeText(event.time()),
                  v1::JobState_Name(event.state()), absl::StrCat(event.epoch()), event.message()});
  }
  return table.empty() ? "No events.\n" : table.ToString();
}

std::string StepRecordsTable(const v1::ListStepRecordsResponse& records, int rows) {
  Table table({">STEP", ">LOSS", ">PREDICTOR LOSS", ">GRADIENT NORM", ">LEARNING RATE"});
  const int count = records.records_size();
  const int shown = std::min(rows, count);
  for (int i = 0; i < shown; ++i) {
    // The last record is shown, and the others at even distances before it.
    const int64_t at = shown == 1 ? count - 1 : static_cast<int64_t>(i) * (count - 1) / (shown - 1);
    const v1::StepRecord& record = records.records(static_cast<int>(at));
    table.AddRow({absl::StrCat(record.step()), NumberText(record.loss()),
                  NumberText(record.predictor_loss()), NumberText(record.grad_norm()),
                  NumberText(record.learning_rate())});
  }
  return table.empty() ? "No steps recorded yet.\n" : table.ToString();
}

std::string CheckpointsTable(const v1::ListCheckpointsResponse& checkpoints, int64_t now_ms) {
  Table table({">STEP", ">AGE", ">SIZE", ">RANKS", ">LOSS", ">ATTEMPT", "USE"});
  for (const v1::Checkpoint& checkpoint : checkpoints.checkpoints()) {
    table.AddRow({absl::StrCat(checkpoint.step()), AgeText(checkpoint.commit_time(), now_ms),
                  BytesText(checkpoint.bytes()), absl::StrCat(checkpoint.world_size()),
                  NumberText(checkpoint.loss()), absl::StrCat(checkpoint.epoch()),
                  UseText(checkpoint)});
  }
  return table.empty() ? "No checkpoints yet.\n" : table.ToString();
}

std::string CheckpointText(const v1::Checkpoint& checkpoint, bool tensors) {
  std::string text = KeyValueText({{"checkpoint", checkpoint.name()},
                                   {"job", checkpoint.job_id()},
                                   {"step", absl::StrCat(checkpoint.step())},
                                   {"attempt", absl::StrCat(checkpoint.epoch())},
                                   {"committed", TimeText(checkpoint.commit_time())},
                                   {"size", BytesText(checkpoint.bytes())},
                                   {"written by", absl::StrCat(checkpoint.world_size(), " ranks")},
                                   {"loss", NumberText(checkpoint.loss())},
                                   {"use", UseText(checkpoint)},
                                   {"tensors", absl::StrCat(checkpoint.tensors_size())}});
  int experts = 0;
  for (const auto& layer : checkpoint.thresholds()) {
    experts = std::max(experts, layer.thresholds_size());
  }
  if (experts > 0) {
    Table table(ThresholdHeader({">BLOCK"}, experts));
    for (const v1::LayerThresholds& layer : checkpoint.thresholds()) {
      std::vector<std::string> row = {absl::StrCat(layer.block())};
      AppendThresholds(layer, &row);
      table.AddRow(std::move(row));
    }
    absl::StrAppend(&text, "\nThresholds\n", table.ToString());
  }
  if (tensors) {
    Table table({"TENSOR", "TYPE", "SHAPE", ">SIZE"});
    for (const v1::TensorInfo& tensor : checkpoint.tensors()) {
      table.AddRow({tensor.name(), tensor.dtype(),
                    absl::StrCat("[", absl::StrJoin(tensor.shape(), ", "), "]"),
                    BytesText(tensor.bytes())});
    }
    absl::StrAppend(&text, "\n", table.ToString());
  }
  return text;
}

std::string ThresholdsTable(const v1::ListThresholdsResponse& history) {
  int experts = 0;
  for (const v1::ThresholdPoint& point : history.points()) {
    for (const auto& layer : point.layers()) experts = std::max(experts, layer.thresholds_size());
  }
  Table table(ThresholdHeader({">STEP", ">BLOCK"}, experts));
  for (const v1::ThresholdPoint& point : history.points()) {
    for (const v1::LayerThresholds& layer : point.layers()) {
      std::vector<std::string> row = {absl::StrCat(point.step()), absl::StrCat(layer.block())};
      AppendThresholds(layer, &row);
      table.AddRow(std::move(row));
    }
  }
  return table.empty() ? "No thresholds recorded yet.\n" : table.ToString();
}

std::string WorkersTable(const v1::ListWorkersResponse& workers, int64_t now_ms) {
  Table table({"WORKER", "HOST", "STATE", ">SLOT", "DEVICE", "USED BY", ">CONNECTED", "METRICS"});
  for (const v1::Worker& worker : workers.workers()) {
    const std::vector<std::string> head = {worker.id(), worker.host(),
                                           v1::WorkerState_Name(worker.state())};
    const std::string age = AgeText(worker.connect_time(), now_ms);
    if (worker.slots().empty()) {
      table.AddRow({head[0], head[1], head[2], "-", "-", "-", age, worker.metrics_address()});
    }
    for (const v1::Slot& slot : worker.slots()) {
      table.AddRow({head[0], head[1], head[2], absl::StrCat(slot.index()), slot.device(),
                    slot.used_by().empty() ? "free" : slot.used_by(), age,
                    worker.metrics_address()});
    }
  }
  return table.empty()
             ? "No workers. `diffmoe-worker --coordinator HOST:PORT --dir DIR` adds one.\n"
             : table.ToString();
}

std::string SamplerText(const v1::Receipt& receipt) {
  std::string text = CleanText(receipt.sampler());
  if (receipt.steps() > 0) absl::StrAppend(&text, ", ", receipt.steps(), " steps");
  if (receipt.eta() != 0) absl::StrAppend(&text, ", eta ", NumberText(receipt.eta()));
  return text;
}

std::string GuidanceText(const v1::Receipt& receipt) {
  if (!receipt.has_guidance_interval()) return NumberText(receipt.guidance());
  return absl::StrCat(NumberText(receipt.guidance()), " from ",
                      NumberText(receipt.guidance_interval().begin()), " to ",
                      NumberText(receipt.guidance_interval().end()), " of the way");
}

std::string CalibrationText(const v1::Calibration& calibration) {
  std::string text = KeyValueText({{"checkpoint", calibration.checkpoint()},
                                   {"held-out images", absl::StrCat(calibration.images())},
                                   {"data", calibration.data()}});
  Table table({"RULE", ">TARGET", ">MEASURED", ">LOSS", ">S/IMAGE AND CALL"});
  for (const v1::CalibratedTarget& target : calibration.targets()) {
    table.AddRow({absl::AsciiStrToLower(v1::ThresholdRule_Name(target.rule())),
                  NumberText(target.capacity()), absl::StrFormat("%.3f", target.measured()),
                  NumberText(target.loss()), NumberText(target.seconds())});
  }
  return table.empty() ? text : absl::StrCat(text, "\n", table.ToString());
}

std::string ReceiptText(const v1::Receipt& receipt) {
  std::vector<std::string> capacity;
  for (double value : receipt.capacity()) capacity.push_back(absl::StrFormat("%.3f", value));
  return KeyValueText(
      {{"checkpoint", receipt.checkpoint()},
       {"seed", absl::StrCat(receipt.seed())},
       {"sampler", SamplerText(receipt)},
       {"guidance", GuidanceText(receipt)},
       {"images", absl::StrCat(receipt.count())},
       {"C per MoE layer", absl::StrJoin(capacity, " ")},
       {"without expert",
        receipt.zero_expert_token_ratio() > 0
            ? absl::StrFormat("%.2f %% of tokens", 100 * receipt.zero_expert_token_ratio())
            : ""},
       {"rule", RuleText(receipt)},
       {"thresholds", receipt.thresholds_hash()},
       {"network calls", absl::StrCat(receipt.network_calls())},
       {"time", DurationText(receipt.seconds())}});
}

}  // namespace diffmoe
