#include "server/effect_executor.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "core/base/kill_point.h"
#include "core/base/log.h"

namespace diffmoe::server {
namespace {

constexpr int64_t kGaugeIntervalMs = 100;
constexpr int64_t kStoreSizeIntervalMs = 5000;
constexpr int64_t kKeepSeriesMs = 240'000;  // of an ended job

// "worker_lost" of END_CAUSE_WORKER_LOST.
std::string CauseLabel(v1::EndCause cause) {
  const std::string name = v1::EndCause_Name(cause);
  return absl::AsciiStrToLower(absl::StripPrefix(name, "END_CAUSE_"));
}

metrics::SampleOutcome OutcomeOf(SampleOutcome outcome) {
  switch (outcome) {
    case SampleOutcome::kOk:
      return metrics::SampleOutcome::kOk;
    case SampleOutcome::kRefused:
      return metrics::SampleOutcome::kRefused;
    case SampleOutcome::kFailed:
      return metrics::SampleOutcome::kFailed;
    case SampleOutcome::kCancelled:
      return metrics::SampleOutcome::kCancelled;
    case SampleOutcome::kDeadline:
      return metrics::SampleOutcome::kDeadline;
  }
  return metrics::SampleOutcome::kFailed;
}

worker::v1::GroupId Group(const std::string& id, int64_t epoch) {
  worker::v1::GroupId group;
  group.set_id(id);
  group.set_epoch(epoch);
  return group;
}

// Of an image: a large one comes in several messages.
bool IsLastPart(const v1::SampleResponse& response) {
  const v1::SampleResponse::Image& image = response.image();
  return response.has_image() &&
         image.offset() + static_cast<int64_t>(image.pixels().size()) >= image.total_bytes();
}

struct Executor {
  const ExecutorParts& parts;
  std::map<std::string, int64_t>& ended;
  std::map<uint64_t, SampleStepMark>& sample_steps;

  // Committed by the loop, never executed.
  void operator()(WriteRecord&) {}
  void operator()(DeleteRecord&) {}

  void operator()(Reply& reply) {
    KillPoint("effect.before_reply");
    parts.calls->Answer(reply);
    KillPoint("effect.replied");
  }
  void operator()(SendToWorker& send) {
    KillPoint("effect.before_send_to_worker");
    parts.traces->Decorate(&send.message);
    parts.workers->Send(send.session, std::move(send.message));
    KillPoint("effect.sent_to_worker");
  }
  void operator()(CloseSession& close) {
    parts.workers->Close(close.session, close.status);
    KillPoint("effect.session_closed");
  }
  void operator()(SendToSampler& send) {
    KillPoint("effect.before_send_to_sampler");
    parts.traces->Decorate(&send.command);
    parts.samplers->Send(send.session, std::move(send.command));
    KillPoint("effect.sent_to_sampler");
  }
  void operator()(ReadSampler& read) { parts.samplers->ReadOn(read.session); }
  void operator()(CloseSampler& close) { parts.samplers->Close(close.session, close.status); }
  void operator()(PublishJob& publish) {
    if (HasEnded(publish.job.state())) {
      ended.emplace(publish.job.id(), parts.clock->MonotonicMs() + kKeepSeriesMs);
    }
    parts.hub->Publish(publish.job, publish.events);
    parts.logs->JobChanged(publish.job);
    parts.traces->JobChanged(publish.job);
    KillPoint("effect.job_published");
  }
  void operator()(GroupStarted& group) {
    parts.groups->Start(group.id, group.epoch);
    KillPoint("effect.group_started");
  }
  void operator()(GroupEnded& group) {
    parts.groups->End(group.id, group.epoch);
    parts.bulk->EndGroup(Group(group.id, group.epoch));
    KillPoint("effect.group_ended");
  }
  void operator()(DeleteCheckpoint& checkpoint) {
    KillPoint("effect.before_checkpoint_delete");
    parts.deleter->Add(std::move(checkpoint));
  }
  void operator()(SampleEvent& event) {
    if (IsLastPart(event.response)) parts.sample_metrics->CountImage();
    if (event.response.has_started()) {
      MarkStep(event.call, 0);
      parts.traces->SamplingStarted(event.call);
    }
    if (event.response.has_progress()) MarkStep(event.call, event.response.progress().step());
    parts.samples->Push(event.call, std::move(event.response));
    KillPoint("effect.sample_sent");
  }
  void operator()(CalibrationEvent& event) {
    // A calibration begins with its first progress.
    if (event.response.has_progress()) parts.traces->SamplingStarted(event.call);
    parts.calibrations->Push(event.call, std::move(event.response));
  }
  void operator()(SampleEnd& end) {
    sample_steps.erase(end.call);
    parts.traces->EndSampling(end.call, end.status);
    parts.samples->End(end.call, end.status);
    parts.calibrations->End(end.call, end.status);
    KillPoint("effect.sample_ended");
  }
  void operator()(JobLogged& logged) {
    Log(logged.warning ? Severity::kWarning : Severity::kInfo, "jobs", logged.message,
        {{"job", logged.job_id}, {"epoch", logged.epoch}});
  }
  void operator()(WorkerLogged& logged) {
    Log(logged.warning ? Severity::kWarning : Severity::kInfo, "workers", logged.message,
        {{"worker", logged.worker_id}});
  }
  void operator()(RestartCounted& restart) {
    parts.cluster_metrics->CountRestart(CauseLabel(restart.cause));
  }
  void operator()(SampleWaitMeasured& wait) {
    parts.sample_metrics->ObserveQueueWait(static_cast<double>(wait.wait_ms) / 1000.0);
  }
  void operator()(SampleSubmitted&) { parts.sample_metrics->CountSubmitted(); }
  void operator()(SampleCounted& sample) {
    parts.sample_metrics->Ended(OutcomeOf(sample.outcome),
                                static_cast<double>(sample.latency_ms) / 1000.0);
  }

  // Measures the denoise steps since the call's last word.
  void MarkStep(uint64_t call, int step) {
    const int64_t now_ms = parts.clock->MonotonicMs();
    const auto [mark, first] = sample_steps.try_emplace(call, SampleStepMark{step, now_ms});
    if (!first && step > mark->second.step) {
      parts.sample_metrics->ObserveStep(static_cast<double>(now_ms - mark->second.time_ms) /
                                        1000.0 / (step - mark->second.step));
    }
    mark->second = {step, now_ms};
  }
};

}  // namespace

void LoopEffectExecutor::Execute(Effect effect) {
  std::visit(Executor{parts_, ended_, sample_steps_}, effect);
}

void LoopEffectExecutor::Committed(absl::StatusCode code, int64_t records, double seconds) {
  parts_.store_metrics->Commit(code, records, seconds);
}

void LoopEffectExecutor::ForgetEndedJobs(const State& state, int64_t now_ms) {
  for (auto it = ended_.begin(); it != ended_.end();) {
    if (now_ms < it->second) {
      ++it;
      continue;
    }
    if (!state.active.contains(it->first)) parts_.checkpoint_metrics->Remove(it->first);
    it = ended_.erase(it);
  }
}

void LoopEffectExecutor::ShowJobs(const State& state) {
  std::map<int, int64_t> counts;
  for (int value = v1::QUEUED; value <= v1::PAUSED; ++value) counts[value] = 0;
  for (const auto& [id, job] : state.jobs) ++counts[job.job().state()];
  std::map<std::string, int64_t> by_state;
  for (const auto& [value, count] : counts) {
    by_state[v1::JobState_Name(static_cast<v1::JobState>(value))] = count;
  }
  parts_.cluster_metrics->SetJobs(by_state,
                                  std::max<int64_t>(0, state.header.next_job_number() - 1));
}

void LoopEffectExecutor::ShowStore() {
  parts_.store_metrics->SetBytes(parts_.records->size_bytes(), parts_.chunks->size_bytes());
  std::error_code error;
  const std::filesystem::space_info disk = std::filesystem::space(parts_.data_dir, error);
  if (!error) parts_.store_metrics->SetDiskFree(static_cast<int64_t>(disk.available));
}

void LoopEffectExecutor::BatchDone(const State& state) {
  parts_.samples->Flush();
  parts_.calibrations->Flush();
  // Before anything is left out: a request must not be missing from the sum.
  parts_.sample_metrics->SetInWork(
      static_cast<int64_t>(state.sample_queue.size()),
      static_cast<int64_t>(state.samples.size() - state.sample_queue.size()));
  const int64_t now_ms = parts_.clock->MonotonicMs();
  if (now_ms < next_gauges_ms_) return;  // the loop comes by at least once a second
  next_gauges_ms_ = now_ms + kGaugeIntervalMs;
  ShowJobs(state);
  parts_.cluster_metrics->SetLoopTime(parts_.clock->UnixMs());
  int64_t connected = 0, lost = 0, busy = 0, free = 0;
  for (const auto& [id, worker] : state.workers) {
    ++(worker.Usable() ? connected : lost);
    if (!worker.Usable()) continue;
    for (const SlotEntry& slot : worker.slots) ++(slot.user ? busy : free);
  }
  parts_.cluster_metrics->SetWorkers(connected, lost);
  parts_.cluster_metrics->SetSlots(busy, free);
  ForgetEndedJobs(state, now_ms);
  if (now_ms >= next_store_size_ms_) {
    next_store_size_ms_ = now_ms + kStoreSizeIntervalMs;
    ShowStore();
  }
}

}  // namespace diffmoe::server
