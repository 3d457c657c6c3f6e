// Which request goes to which sampler, and what waits.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/state/transition.h"

namespace diffmoe::server {
namespace {

constexpr size_t kRememberedCheckpoints = 4;
// Positions before this are told at once.
constexpr int kNearHead = 16;
// A request whose time alone is longer than what is left, by so much, isn't begun.
constexpr double kSureToFail = 0.9;

bool HasLoaded(const SamplerEntry& sampler, const SampleEntry& sample) {
  const std::pair<std::string, int64_t> checkpoint{sample.job_id, sample.step};
  return std::find(sampler.checkpoints.begin(), sampler.checkpoints.end(), checkpoint) !=
         sampler.checkpoints.end();
}

void NoteCheckpoint(SamplerEntry& sampler, const SampleEntry& sample) {
  std::pair<std::string, int64_t> checkpoint{sample.job_id, sample.step};
  std::erase(sampler.checkpoints, checkpoint);
  sampler.checkpoints.insert(sampler.checkpoints.begin(), std::move(checkpoint));
  if (sampler.checkpoints.size() > kRememberedCheckpoints) sampler.checkpoints.pop_back();
}

// `any_backlog`: although it has much to do.
bool HasRoom(const Transition& t, const SamplerEntry& sampler, bool any_backlog) {
  const StateOptions& options = t.options();
  if (sampler.phase != SamplerPhase::kReady || sampler.yielding) return false;
  if (std::max(sampler.not_before_ms, sampler.avoid_until_ms) > t.now.monotonic_ms) return false;
  const auto worker = t.state.workers.find(sampler.worker_id);
  if (worker == t.state.workers.end() || !worker->second.Usable()) return false;
  if (worker->second.no_samplers_until_ms > t.now.monotonic_ms) return false;
  const size_t most = static_cast<size_t>(
      sampler.measured ? options.max_sampler_requests
                       : std::min(options.max_unmeasured_requests, options.max_sampler_requests));
  if (sampler.calls.size() >= most) return false;
  return any_backlog ||
         BacklogSeconds(t.state, sampler) * 1000 < static_cast<double>(options.sampler_backlog_ms);
}

// The one with room that has least to do, with time for loading the checkpoint if it must.
SamplerEntry* ChooseSampler(Transition& t, const SampleEntry& sample, bool any_backlog) {
  SamplerEntry* best = nullptr;
  double best_seconds = 0;
  for (auto& [id, sampler] : t.state.samplers) {
    if (!HasRoom(t, sampler, any_backlog)) continue;
    double seconds = BacklogSeconds(t.state, sampler);
    if (!HasLoaded(sampler, sample)) {
      seconds += static_cast<double>(t.options().sampler_load_ms) / 1000;
    }
    if (best == nullptr || seconds < best_seconds) {
      best = &sampler;
      best_seconds = seconds;
    }
  }
  return best;
}

void GiveTo(Transition& t, SampleEntry& sample, SamplerEntry& sampler) {
  t.state.samples_by_task.erase(sample.task_id);
  sample.task_id = absl::StrCat("sample-", t.state.next_sample_number++);
  t.state.samples_by_task[sample.task_id] = sample.call;
  sample.sampler_id = sampler.id;
  sample.begun = false;
  sample.told_position = -1;
  sampler.calls.push_back(sample.call);
  sampler.given_rows += sample.cost.rows;
  NoteCheckpoint(sampler, sample);
  SendTask(t, sample, sampler);
}

// Time has run so short that it would be begun in vain.
bool EndHopeless(Transition& t, const SampleEntry& sample) {
  const JobEntry* job = FindJob(t, sample.job_id);
  if (!sample.deadline_ms || job == nullptr || !job->step_curve.known()) return false;
  const double left = static_cast<double>(*sample.deadline_ms - t.now.monotonic_ms) / 1000;
  if (kSureToFail * job->step_curve.SecondsAlone(sample.cost) <= left) return false;
  // An estimate alone must not keep an idle sampler from a new measurement.
  if (sample.submitted_ms == t.now.monotonic_ms) return false;
  EndSample(t, sample.call,
            MakeError(absl::StatusCode::kDeadlineExceeded, v1::DEADLINE_TOO_SHORT,
                      "the request waited until too little time was left for it; 0 steps"),
            SampleOutcome::kDeadline);
  return true;
}

}  // namespace

int64_t BacklogRows(const State& state, const SamplerEntry& sampler) {
  if (sampler.measured) return sampler.taken_rows + sampler.given_rows;
  int64_t rows = 0;
  for (const uint64_t call : sampler.calls) rows += state.samples.at(call).cost.rows;
  return rows;
}

double BacklogSeconds(const State& state, const SamplerEntry& sampler) {
  StepCurve curve = sampler.curve;
  if (!curve.known() && !sampler.calls.empty()) {
    const auto job = state.jobs.find(state.samples.at(sampler.calls.front()).job_id);
    if (job != state.jobs.end()) curve = job->second.step_curve;
  }
  return static_cast<double>(BacklogRows(state, sampler)) * curve.SecondsPerRow();
}

void DispatchWaiting(Transition& t) {
  while (const std::optional<uint64_t> call = t.state.sample_queue.Front()) {
    SampleEntry& sample = t.state.samples.at(*call);
    if (EndHopeless(t, sample)) continue;
    SamplerEntry* sampler = ChooseSampler(t, sample, /*any_backlog=*/false);
    // Where no other sampler can take it, it waits on one: there small requests pass large ones,
    // and a step holds rows of many.
    if (sampler == nullptr && !AnotherMayCome(t)) sampler = ChooseSampler(t, sample, true);
    if (sampler == nullptr) return;
    t.state.sample_queue.Pop();
    t.state.queued_rows -= sample.cost.rows;
    GiveTo(t, sample, *sampler);
  }
}

void Rebalance(Transition& t) {
  for (auto& [id, sampler] : t.state.samplers) {
    const std::vector<uint64_t> calls = sampler.calls;
    for (auto call = calls.rbegin(); call != calls.rend(); ++call) {
      const double backlog_ms = BacklogSeconds(t.state, sampler) * 1000;
      if (backlog_ms <= static_cast<double>(t.options().sampler_backlog_ms)) break;
      SampleEntry& sample = t.state.samples.at(*call);
      if (sample.begun) continue;
      const bool taken = std::find(sampler.calls.begin(), sampler.calls.end(), *call) <
                         sampler.calls.begin() + static_cast<int64_t>(sampler.taken);
      CancelOnSampler(t, sample);
      if (taken) {
        sampler.taken_rows = std::max<int64_t>(0, sampler.taken_rows - sample.cost.rows);
      }
      AddToQueue(t.state, sample);
    }
  }
}

void SendTask(Transition& t, const SampleEntry& sample, const SamplerEntry& sampler) {
  worker::v1::SamplerCommand command;
  const auto fill = [&](auto* task) {
    task->set_request_id(sample.task_id);
    task->set_job_id(sample.job_id);
    task->set_step(sample.step);
    *task->mutable_spec() = sample.model->spec;
  };
  if (sample.calibrate) {
    worker::v1::CalibrateTask* task = command.mutable_calibrate_task();
    fill(task);
    *task->mutable_request() = *sample.calibrate;
  } else {
    worker::v1::SampleTask* task = command.mutable_sample_task();
    fill(task);
    *task->mutable_request() = sample.request;
    if (sample.deadline_ms) {
      task->set_deadline_ms(std::max<int64_t>(1, *sample.deadline_ms - t.now.monotonic_ms));
    }
    for (const v1::CalibratedLayer& layer : sample.thresholds) *task->add_thresholds() = layer;
  }
  SendToSamplerOf(t, sampler, std::move(command));
}

void TakeFromSampler(Transition& t, SamplerEntry& sampler, const SampleEntry& sample) {
  const auto place = std::find(sampler.calls.begin(), sampler.calls.end(), sample.call);
  if (place == sampler.calls.end()) return;
  if (static_cast<size_t>(place - sampler.calls.begin()) < sampler.taken) {
    --sampler.taken;  // its part of taken_rows is corrected by the next report
  } else {
    sampler.given_rows -= sample.cost.rows;
  }
  sampler.calls.erase(place);
  t.state.samples_due = true;
  if (!sampler.calls.empty()) return;
  sampler.taken_rows = 0;
  sampler.idle_since_ms = t.now.monotonic_ms;
  if (t.state.samplers_yield) t.state.schedule_due = true;
}

void AddToQueue(State& state, const SampleEntry& sample) {
  state.sample_queue.Add(sample.user, sample.call);
  state.queued_rows += sample.cost.rows;
}

void RemoveFromQueue(State& state, const SampleEntry& sample) {
  const size_t before = state.sample_queue.size();
  state.sample_queue.Remove(sample.user, sample.call);
  if (state.sample_queue.size() < before) state.queued_rows -= sample.cost.rows;
}

void TellQueue(Transition& t, const std::string& reason) {
  int position = -1;
  int64_t rows_before = 0;
  for (const uint64_t call : t.state.sample_queue.Order()) {
    SampleEntry& sample = t.state.samples.at(call);
    ++position;
    const int64_t rows = rows_before;
    rows_before += sample.cost.rows;
    const bool told = sample.told_position == position && sample.told_reason == reason;
    const bool early = position >= kNearHead && sample.told_position >= 0 &&
                       t.now.monotonic_ms < sample.told_ms + t.options().queue_report_ms;
    if (told || early) continue;
    sample.told_position = position;
    sample.told_reason = reason;
    sample.told_ms = t.now.monotonic_ms;
    v1::SampleResponse::Queued queued;
    queued.set_position(position);
    queued.set_reason(reason);
    queued.set_estimated_wait_seconds(WaitSeconds(t.state, t.state.jobs.at(sample.job_id), rows));
    if (sample.calibrate) {
      CalibrationEvent event{call, {}};
      *event.response.mutable_queued() = std::move(queued);
      t.Emit(std::move(event));
    } else {
      SampleEvent event{call, {}};
      *event.response.mutable_queued() = std::move(queued);
      t.Emit(std::move(event));
    }
  }
}

void OnSamplerLoad(Transition& t, SamplerEntry& sampler, const worker::v1::SamplerLoad& load) {
  const StepCurve curve = CurveOf(load);
  if (curve.known()) sampler.curve = curve;
  sampler.measured = sampler.measured || curve.known();
  // Its messages keep their order, so what it had not seen when it said this was given last.
  const auto taken = static_cast<size_t>(std::max(0, load.requests()));
  sampler.taken = std::min(taken, sampler.calls.size());
  sampler.taken_rows = sampler.calls.empty() ? 0 : std::max<int64_t>(0, load.rows_waiting());
  sampler.given_rows = 0;
  bool same_job = !sampler.calls.empty();
  for (size_t i = 0; i < sampler.calls.size(); ++i) {
    const SampleEntry& sample = t.state.samples.at(sampler.calls[i]);
    if (i >= sampler.taken) sampler.given_rows += sample.cost.rows;
    same_job = same_job && sample.job_id == t.state.samples.at(sampler.calls[0]).job_id;
  }
  if (same_job && curve.known()) {
    if (JobEntry* job = FindJob(t, t.state.samples.at(sampler.calls[0]).job_id)) {
      job->step_curve = curve;
    }
  }
  if (!t.state.sample_queue.empty()) t.state.samples_due = true;
}

}  // namespace diffmoe::server
