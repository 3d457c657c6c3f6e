// Answers and messages of the coordinator, and the truth of workers and ranks.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tests/simulation/checker.h"

namespace diffmoe::simulation {

Checker::AttemptView* Checker::FindAttempt(const std::string& job_id, int64_t epoch) {
  const auto job = jobs_.find(job_id);
  if (job == jobs_.end()) return nullptr;
  const auto attempt = job->second.attempts.find(epoch);
  return attempt == job->second.attempts.end() ? nullptr : &attempt->second;
}

void Checker::OnSubmitAnswered(const std::string& request_id, const server::Reply& reply) {
  if (!reply.status.ok()) return;
  const std::string& id = reply.job.id();
  const auto job = jobs_.find(id);
  if (job == jobs_.end() || !job->second.has_record) {
    return world_->Violate("no answer before the commit",
                           absl::StrCat("submit ", request_id, " was answered with ", id));
  }
  if (job->second.request_id != request_id) {
    world_->Violate("one job per request_id",
                    absl::StrCat("submit ", request_id, " was answered with ", id, " of request ",
                                 job->second.request_id));
  }
}

void Checker::OnCancelAnswered(const std::string& job_id, const server::Reply& reply) {
  const auto job = jobs_.find(job_id);
  if (job == jobs_.end() || !job->second.has_record) {
    return world_->Violate("no answer before the commit", absl::StrCat("cancel of ", job_id));
  }
  if (absl::IsNotFound(reply.status)) {
    return world_->Violate("an acknowledged job is never lost",
                           absl::StrCat("cancel of ", job_id, ": ", reply.status.message()));
  }
  if (!reply.status.ok()) return;
  const v1::JobState state = job->second.state;
  if (state != v1::CANCELLING && state != v1::CANCELLED) {
    world_->Violate(
        "no answer before the commit",
        absl::StrCat("cancel of ", job_id, " was answered, it is ", v1::JobState_Name(state)));
  }
  job->second.cancel_promised = true;
}

void Checker::OnPauseAnswered(const std::string& job_id, const server::Reply& reply) {
  if (!reply.status.ok()) return;
  JobView& job = jobs_[job_id];
  if (job.state == v1::PAUSING || job.state == v1::PAUSED) {
    job.pause_promised = true;
    return;
  }
  // It may have ended, or been cancelled or resumed, in the same batch.
  if (server::HasEnded(job.state) || job.state == v1::CANCELLING || job.resume_sent) return;
  world_->Violate(
      "no answer before the commit",
      absl::StrCat("pause of ", job_id, " was answered, it is ", v1::JobState_Name(job.state)));
}

void Checker::OnManifestAnswered(const worker::v1::Manifest& manifest, const server::Reply& reply) {
  if (!reply.status.ok()) return;
  JobView& job = jobs_[manifest.job_id()];
  const auto listed = job.checkpoints.find(manifest.step());
  // A newer checkpoint of the same batch may have pushed it out already.
  const bool replaced = NewestCheckpoint(job) > manifest.step();
  if (!replaced && (listed == job.checkpoints.end() || listed->second != manifest.epoch())) {
    world_->Violate(
        "no answer before the commit",
        absl::StrCat("checkpoint of step ", manifest.step(), " of ", manifest.job_id()));
  }
  if (!job.thresholds.contains(manifest.step())) {
    world_->Violate("acknowledged thresholds are never lost",
                    absl::StrCat("step ", manifest.step(), " of ", manifest.job_id()));
  }
}

void Checker::OnStartSent(const std::string& worker_id, const worker::v1::StartRank& start) {
  if (start.role() != worker::v1::ROLE_TRAIN) return;
  const std::string what = absl::StrCat("rank ", start.rank(), " of ", start.group().id(),
                                        " epoch ", start.group().epoch(), " on ", worker_id);
  const AttemptView* attempt = FindAttempt(start.group().id(), start.group().epoch());
  if (attempt == nullptr) return world_->Violate("no message before the commit", what);
  const auto place = attempt->places.find(start.rank());
  if (place == attempt->places.end() ||
      place->second != std::pair<std::string, int>(worker_id, start.slot()) ||
      start.world_size() != attempt->ranks || start.restore_step() != attempt->restored_step) {
    world_->Violate("ranks start as recorded", what);
  }
}

void Checker::OnStopSent(const worker::v1::StopGroup& stop) {
  if (AttemptView* attempt = FindAttempt(stop.group().id(), stop.group().epoch())) {
    attempt->told_to_stop = true;
  }
}

void Checker::OnCrash() {
  samples_.clear();
  sample_counts_ = {};
  // Preemption and growth are forgotten, but the ranks were told.
  for (auto& [id, job] : jobs_) {
    for (auto& [epoch, attempt] : job.attempts) {
      if (attempt.told_to_stop) attempt.excuse = "an earlier coordinator stopped it";
    }
  }
}

void Checker::OnStartLost(const worker::v1::StartRank& start) {
  AttemptView* attempt = FindAttempt(start.group().id(), start.group().epoch());
  if (attempt != nullptr) attempt->excuse = "a start was lost";
}

void Checker::OnSpawned(const std::string& worker_id, const worker::v1::StartRank& start) {
  if (start.role() != worker::v1::ROLE_TRAIN) return;
  AttemptView* attempt = FindAttempt(start.group().id(), start.group().epoch());
  if (attempt == nullptr) return;  // named by OnStartSent
  if (!attempt->spawned.emplace(start.rank(), worker_id).second) {
    world_->Violate("a rank of an epoch starts once",
                    absl::StrCat("rank ", start.rank(), " of ", start.group().id(), " epoch ",
                                 start.group().epoch(), " on ", worker_id));
  }
}

void Checker::OnSlotTaken(const std::string& worker_id, const worker::v1::StartRank& start,
                          const worker::v1::StartRank& holder) {
  world_->Violate("one rank per slot",
                  absl::StrCat("slot ", start.slot(), " of ", worker_id, ": rank ", start.rank(),
                               " of ", start.group().id(), " epoch ", start.group().epoch(),
                               " was sent to where rank ", holder.rank(), " of ",
                               holder.group().id(), " epoch ", holder.group().epoch(), " runs"));
}

void Checker::OnTraining(const std::string& job_id, int64_t epoch) {
  if (AttemptView* attempt = FindAttempt(job_id, epoch)) attempt->training = true;
}

void Checker::OnStepMade(const std::string& job_id, int64_t epoch, int64_t step) {
  AttemptView* attempt = FindAttempt(job_id, epoch);
  if (attempt == nullptr) return;
  attempt->newest_step = step;
  // Longer than any outage of the coordinator, a worker or the network.
  constexpr int64_t kStopLimitMs = 40'000;
  const int64_t since_ms = jobs_[job_id].cancelling_since_ms;
  if (since_ms > 0 && world_->time.now_ms() > since_ms + kStopLimitMs) {
    world_->Violate("the ranks of a cancelled job end",
                    absl::StrCat(job_id, " makes step ", step, " ",
                                 world_->time.now_ms() - since_ms, " ms after its cancel"));
  }
}

void Checker::OnRankEnded(const worker::v1::RankExited& exited) {
  if (exited.cause() == worker::v1::EXIT_CAUSE_DONE ||
      exited.cause() == worker::v1::EXIT_CAUSE_STOPPED) {
    return;
  }
  AttemptView* attempt = FindAttempt(exited.group().id(), exited.group().epoch());
  if (attempt != nullptr) attempt->faulty = true;
}

void Checker::OnRankRead(const std::string& job_id, int64_t epoch, const std::string& source,
                         int64_t step, const absl::Status& status) {
  const AttemptView* attempt = FindAttempt(job_id, epoch);
  if (attempt == nullptr || attempt->ended || jobs_[job_id].epoch != epoch) return;
  if (absl::IsNotFound(status)) {
    world_->Violate("a checkpoint in use is kept",
                    absl::StrCat("epoch ", epoch, " of ", job_id, " can't read step ", step, " of ",
                                 source, ": ", status.message()));
  }
  if (absl::IsDataLoss(status) &&
      !damaged_bytes_.contains({source, step, jobs_[source].checkpoints[step]})) {
    world_->Violate("a listed checkpoint can be read", std::string(status.message()));
  }
}

void Checker::OnWorkerTrouble(const std::string& worker_id, int64_t until_ms) {
  int64_t& trouble_ms = trouble_until_ms_[worker_id];
  trouble_ms = std::max(trouble_ms, until_ms);
}

}  // namespace diffmoe::simulation
