// What the store holds: jobs, events, attempts, checkpoints.
#include <algorithm>
#include <functional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/util/message_differencer.h"
#include "server/state/step.h"
#include "tests/simulation/checker.h"

namespace diffmoe::simulation {
namespace {

using server::HasEnded;

// docs/architecture.md, "Life of a job". An event may also leave the state as it is.
bool IsLegal(v1::JobState from, v1::JobState to) {
  if (from == to) return true;
  switch (from) {
    case v1::JOB_STATE_UNSPECIFIED:
      return to == v1::QUEUED;
    case v1::QUEUED:
      return to == v1::STARTING || to == v1::CANCELLED || to == v1::PAUSED;
    case v1::STARTING:
      return to == v1::RUNNING || to == v1::QUEUED || to == v1::CANCELLING || to == v1::PAUSING ||
             to == v1::SUCCEEDED || to == v1::FAILED;
    case v1::RUNNING:
      return to == v1::QUEUED || to == v1::CANCELLING || to == v1::PAUSING || to == v1::SUCCEEDED ||
             to == v1::FAILED;
    case v1::CANCELLING:
      return to == v1::CANCELLED;
    case v1::PAUSING:
      return to == v1::PAUSED || to == v1::QUEUED || to == v1::CANCELLING || to == v1::SUCCEEDED ||
             to == v1::FAILED;
    case v1::PAUSED:
      return to == v1::QUEUED || to == v1::CANCELLED;
    default:
      return false;
  }
}

// Whether a job in this state has an attempt that has not ended.
bool HasAttempt(v1::JobState state) {
  return state == v1::STARTING || state == v1::RUNNING || state == v1::CANCELLING ||
         state == v1::PAUSING;
}

std::string NameOf(v1::JobState state) { return v1::JobState_Name(state); }

uint64_t HashOf(const std::string& text) { return std::hash<std::string>{}(text); }

int64_t UnixMs(const google::protobuf::Timestamp& time) {
  return time.seconds() * 1000 + time.nanos() / 1'000'000;
}

// The step at the end of a key such as manifests/ID/00000000000000000010.
int64_t NumberOf(const std::string& text) {
  int64_t number = -1;
  return absl::SimpleAtoi(text, &number) ? number : -1;
}

}  // namespace

void Checker::OnDurable(const std::vector<RecordWrite>& writes) {
  std::map<std::string, std::set<int64_t>> deleted;
  std::map<std::string, std::set<int64_t>> damaged;  // before the batch, by job
  for (const RecordWrite& write : writes) {
    if (write.value) {
      contents_[write.key] = HashOf(*write.value);
    } else {
      contents_.erase(write.key);
    }
    const std::vector<std::string> parts = absl::StrSplit(write.key, '/');
    if (parts.size() < 2) continue;
    const std::string& id = parts[1];
    damaged.emplace(id, jobs_[id].damaged);
    if (parts[0] == "jobs") {
      if (write.value) OnJob(id, *write.value);
    } else if (parts[0] == "events") {
      OnEvent(jobs_[id], id, parts[2], write.value.value_or(""));
    } else if (parts[0] == "manifests") {
      OnManifest(jobs_[id], id, write);
      if (!write.value) deleted[id].insert(NumberOf(parts[2]));
    } else if (parts[0] == "thresholds" && write.value) {
      jobs_[id].thresholds.insert(NumberOf(parts[2]));
    } else if (parts[0] == "calibrations") {
      OnCalibration(id, NumberOf(parts[2]), write.value.has_value());
    } else if (parts[0] == "steps") {
      OnSteps(jobs_[id], id, write);
    }
  }
  for (const auto& [id, steps] : deleted) {
    CheckRetention(id, steps, damaged[id]);
    CheckCalibrations(id);
  }
}

void Checker::OnEvent(JobView& job, const std::string& id, const std::string& key,
                      const std::string& value) {
  v1::JobEvent event;
  if (value.empty() || !event.ParseFromString(value)) {
    return world_->Violate("events stay", absl::StrCat("event ", key, " of ", id, " was removed"));
  }
  if (event.sequence() != job.events + 1 || NumberOf(key) != event.sequence()) {
    world_->Violate("event sequence without holes",
                    absl::StrCat(id, " had ", job.events, " events, the next one is number ",
                                 event.sequence(), ": ", event.message()));
  }
  job.events = event.sequence();
  if (!IsLegal(job.state, event.state())) {
    world_->Violate(HasEnded(job.state) ? "terminal states never change" : "legal transitions",
                    absl::StrCat(id, " went from ", NameOf(job.state), " to ",
                                 NameOf(event.state()), ": ", event.message()));
  }
  if (event.state() != v1::CANCELLING) job.cancelling_since_ms = 0;
  if (event.state() == v1::CANCELLING && job.state != v1::CANCELLING) {
    job.cancelling_since_ms = world_->time.now_ms();
  }
  job.state = event.state();
}

void Checker::OnJob(const std::string& id, const std::string& value) {
  internal::v1::JobRecord record;
  if (!record.ParseFromString(value)) {
    return world_->Violate("records can be read", absl::StrCat("job record of ", id));
  }
  JobView& job = jobs_[id];
  CheckIdentity(job, id, record);
  CheckState(job, id, record.job());
  job.damaged = {record.damaged_steps().begin(), record.damaged_steps().end()};
  CheckAttempts(job, id, record.job());
  job.reason = record.job().reason();
}

void Checker::CheckIdentity(JobView& job, const std::string& id,
                            const internal::v1::JobRecord& record) {
  if (!job.has_record) {
    job.has_record = true;
    job.request_id = record.request_id();
    job.request_hash = record.request_hash();
    job.sequence_number = record.sequence_number();
    const v1::TrainingSpec& spec = record.job().spec();
    job.spec_name = spec.name();
    job.ranks = spec.parallel().ranks();
    job.min_ranks = spec.parallel().min_ranks() > 0 ? spec.parallel().min_ranks() : job.ranks;
    job.source_job = record.source_job();
    job.source_step = record.source_step();
    job.max_restarts = spec.parallel().max_restarts();
    job.steps = spec.train().steps();
    job.keep = std::max(1, spec.checkpoint().keep());
    if (!job.request_id.empty()) {
      const auto [known, added] = ids_by_request_.emplace(job.request_id, id);
      if (!added) {
        world_->Violate("one job per request_id",
                        absl::StrCat(job.request_id, " made ", known->second, " and ", id));
      }
    }
    const auto [known, added] = ids_by_number_.emplace(job.sequence_number, id);
    if (!added) {
      world_->Violate("one job per number", absl::StrCat(known->second, " and ", id, " are number ",
                                                         job.sequence_number));
    }
    return;
  }
  if (job.request_id != record.request_id() || job.request_hash != record.request_hash() ||
      job.sequence_number != record.sequence_number() ||
      job.spec_name != record.job().spec().name()) {
    world_->Violate("an acknowledged job is never lost",
                    absl::StrCat(id, " of request ", job.request_id,
                                 " was overwritten by the one of request ", record.request_id()));
  }
}

void Checker::CheckState(const JobView& job, const std::string& id, const v1::Job& shown) {
  if (shown.state() != job.state) {
    world_->Violate("the history tells every change",
                    absl::StrCat(id, " is ", NameOf(shown.state()), ", its newest event says ",
                                 NameOf(job.state)));
  }
  if (job.cancel_promised && HasEnded(shown.state()) && shown.state() != v1::CANCELLED) {
    world_->Violate("an acknowledged cancel is never lost",
                    absl::StrCat(id, " is ", NameOf(shown.state())));
  }
  if (shown.state() == v1::CANCELLED && !cancels_sent_.contains(id)) {
    world_->Violate("only a client cancels", absl::StrCat(id, " is CANCELLED"));
  }
  if (shown.state() == v1::SUCCEEDED && !job.checkpoints.contains(job.steps)) {
    world_->Violate("a job that succeeded has its last checkpoint", id);
  }
}

void Checker::CheckAttempts(JobView& job, const std::string& id, const v1::Job& shown) {
  const bool has_attempt = HasAttempt(shown.state());
  for (int i = std::max(0, shown.attempts_size() - 2); i < shown.attempts_size(); ++i) {
    const v1::Attempt& attempt = shown.attempts(i);
    const bool last = i + 1 == shown.attempts_size();
    if (!job.attempts.contains(attempt.epoch())) OnAttemptBegun(job, id, attempt);
    AttemptView& view = job.attempts[attempt.epoch()];
    if (attempt.has_end_time() != (!last || !has_attempt)) {
      world_->Violate(
          "one living attempt per job",
          absl::StrCat("epoch ", attempt.epoch(), " of ", id, ", ", NameOf(shown.state()), ", has ",
                       attempt.has_end_time() ? "ended" : "not ended"));
    }
    if (view.ended && !attempt.has_end_time()) {
      world_->Violate("an ended attempt stays ended",
                      absl::StrCat("epoch ", attempt.epoch(), " of ", id, " lives again"));
    }
    if (!view.ended && attempt.has_end_time()) OnAttemptEnded(job, id, shown, attempt);
  }
  job.epoch = shown.epoch();
}

void Checker::OnAttemptBegun(JobView& job, const std::string& id, const v1::Attempt& attempt) {
  if (attempt.epoch() != job.epoch + 1) {
    world_->Violate("epochs grow by one",
                    absl::StrCat(id, " went from epoch ", job.epoch, " to ", attempt.epoch()));
  }
  AttemptView& view = job.attempts[attempt.epoch()];
  view.begin_ms = world_->time.now_ms();
  view.restored_step = attempt.restored_step();
  view.newest_step = attempt.restored_step();
  view.ranks = attempt.placements_size();
  std::set<std::pair<std::string, int>> places;
  for (const v1::Placement& placement : attempt.placements()) {
    view.places[placement.rank()] = {placement.worker_id(), placement.slot()};
    places.emplace(placement.worker_id(), placement.slot());
  }
  bool allowed = false;
  for (int ranks = job.ranks; ranks >= job.min_ranks; ranks /= 2) {
    allowed = allowed || view.ranks == ranks;
    if (ranks == 1) break;
  }
  if (!allowed || places.size() != static_cast<size_t>(view.ranks) ||
      view.places.size() != places.size()) {
    world_->Violate("all ranks are placed or none",
                    absl::StrCat("epoch ", attempt.epoch(), " of ", id, " has ", places.size(),
                                 " places for ", job.ranks, " ranks"));
  }
  const int64_t own = NewestCheckpoint(job);
  if (attempt.restored_step() != (own > 0 ? own : job.source_step)) {
    world_->Violate("an attempt starts from the newest checkpoint",
                    absl::StrCat("epoch ", attempt.epoch(), " of ", id, " starts from step ",
                                 attempt.restored_step(), ", the newest one is of step ",
                                 NewestCheckpoint(job)));
  }
  const auto before = job.attempts.find(attempt.epoch() - 1);
  if (before == job.attempts.end()) return;
  // Nobody waits after a stop that was asked for.
  const v1::EndCause cause = before->second.cause;
  if (cause == v1::END_CAUSE_USER || cause == v1::END_CAUSE_PREEMPTED ||
      cause == v1::END_CAUSE_RESIZED) {
    return;
  }
  const bool progress = view.restored_step > before->second.restored_step;
  job.failing_row = progress ? 1 : job.failing_row + 1;
  const int64_t waited_ms = UnixMs(attempt.start_time()) - before->second.ended_unix_ms;
  const bool paused = pauses_sent_.contains(id);
  if (job.failing_row > 1 && waited_ms < 1000 && !world_->unix_jumped && !paused) {
    world_->Violate("restarts without progress wait",
                    absl::StrCat(id, " begins epoch ", attempt.epoch(), ", number ",
                                 job.failing_row, " without progress, after ", waited_ms, " ms"));
  }
}

void Checker::OnAttemptEnded(JobView& job, const std::string& id, const v1::Job& shown,
                             const v1::Attempt& attempt) {
  AttemptView& view = job.attempts[attempt.epoch()];
  view.ended = true;
  view.ended_unix_ms = UnixMs(attempt.end_time());
  view.cause = attempt.end_cause();
  if (attempt.end_reason().empty() || view.cause == v1::END_CAUSE_UNSPECIFIED) {
    world_->Violate("an attempt ends with a recorded cause",
                    absl::StrCat("epoch ", attempt.epoch(), " of ", id));
  }
  std::string excuse = view.excuse;
  if (view.faulty) excuse = "a rank failed";
  if (shown.state() == v1::SUCCEEDED) excuse = "finished";
  if (cancels_sent_.contains(id)) excuse = "cancelled";
  if (pauses_sent_.contains(id)) excuse = "paused";
  if (view.cause == v1::END_CAUSE_RESIZED && view.ranks < job.ranks) excuse = "grows";
  if (job.damaged.contains(view.newest_step)) excuse = "its last checkpoint was damaged";
  if (view.cause == v1::END_CAUSE_PREEMPTED) excuse = "makes room";
  for (const auto& [rank, place] : view.places) {
    const auto trouble = trouble_until_ms_.find(place.first);
    if (trouble != trouble_until_ms_.end() && trouble->second >= view.begin_ms) {
      excuse = absl::StrCat("trouble of worker ", place.first);
    }
  }
  if (excuse.empty()) {
    world_->Violate(
        "an attempt that is well goes on",
        absl::StrCat("epoch ", attempt.epoch(), " of ", id, " ended: ", attempt.end_reason()));
  }
}

void Checker::OnManifest(JobView& job, const std::string& id, const RecordWrite& write) {
  if (!write.value) {
    job.checkpoints.erase(NumberOf(write.key.substr(write.key.rfind('/') + 1)));
    return;
  }
  worker::v1::Manifest manifest;
  if (!manifest.ParseFromString(*write.value)) {
    return world_->Violate("records can be read", write.key);
  }
  const AttemptView* attempt = FindAttempt(id, manifest.epoch());
  if (attempt == nullptr || attempt->ended || manifest.epoch() != job.epoch) {
    world_->Violate("one epoch writes",
                    absl::StrCat("epoch ", manifest.epoch(), " saved step ", manifest.step(),
                                 " of ", id, ", which is at epoch ", job.epoch));
  } else if (attempt->newest_step < manifest.step()) {
    world_->Violate("a checkpoint is of a step that was made",
                    absl::StrCat(id, " saved step ", manifest.step(), ", epoch ", manifest.epoch(),
                                 " is at step ", attempt->newest_step));
  }
  if (!bytes_.contains({id, manifest.step(), manifest.epoch()})) {
    world_->Violate("a listed checkpoint has its bytes",
                    absl::StrCat("step ", manifest.step(), " of ", id));
  }
  job.checkpoints[manifest.step()] = manifest.epoch();
}

void Checker::OnSteps(JobView& job, const std::string& id, const RecordWrite& write) {
  internal::v1::StepRecords records;
  const int64_t epoch = NumberOf(write.key.substr(write.key.rfind('/') + 1));
  if (!write.value || !records.ParseFromString(*write.value)) return;
  const AttemptView* attempt = FindAttempt(id, epoch);
  if (attempt == nullptr || attempt->ended || epoch != job.epoch) {
    return world_->Violate("one epoch writes",
                           absl::StrCat("steps of epoch ", epoch, " of ", id,
                                        " were taken, which is at epoch ", job.epoch));
  }
  for (const v1::StepRecord& record : records.records()) {
    if (record.step() <= attempt->newest_step && record.grad_norm() == static_cast<float>(epoch))
      continue;
    world_->Violate("recorded steps were made",
                    absl::StrCat("step ", record.step(), " of epoch ", epoch, " of ", id,
                                 " holds what epoch ", record.grad_norm(), " made"));
  }
}

int64_t Checker::NewestCheckpoint(const JobView& job) const {
  for (auto it = job.checkpoints.rbegin(); it != job.checkpoints.rend(); ++it) {
    if (!job.damaged.contains(it->first)) return it->first;
  }
  return 0;
}

void Checker::CheckRetention(const std::string& id, const std::set<int64_t>& deleted,
                             const std::set<int64_t>& damaged) {
  const JobView& job = jobs_[id];
  int kept = 0;
  for (const auto& [step, epoch] : job.checkpoints) {
    // One that is saved anew in the same batch is good again.
    const bool good = !damaged.contains(step) || !job.damaged.contains(step);
    kept += good && step > *deleted.rbegin() ? 1 : 0;
  }
  if (kept < job.keep) {
    world_->Violate("retention keeps the newest",
                    absl::StrCat("step ", *deleted.rbegin(), " of ", id, " was deleted, ", kept,
                                 " newer ones are left of ", job.keep));
  }
  const auto attempt = job.attempts.find(job.epoch);
  if (attempt == job.attempts.end() || attempt->second.ended || attempt->second.training) return;
  if (deleted.contains(attempt->second.restored_step)) {
    world_->Violate("a checkpoint in use is kept",
                    absl::StrCat("step ", attempt->second.restored_step, " of ", id,
                                 " was deleted while epoch ", job.epoch, " restored it"));
  }
}

void Checker::OnBytesDeleted(const CheckpointKey& key) {
  bytes_.erase(key);
  const auto job = jobs_.find(key.job_id);
  if (job == jobs_.end()) return;
  const auto listed = job->second.checkpoints.find(key.step);
  if (listed != job->second.checkpoints.end() && listed->second == key.epoch) {
    world_->Violate("a listed checkpoint has its bytes",
                    absl::StrCat("the bytes of step ", key.step, " of ", key.job_id, " are gone"));
  }
}

void Checker::OnOpened(const absl::Status& status, const ModelStore::Records& records) {
  if (!status.ok()) return world_->Violate("the store opens", std::string(status.message()));
  for (const auto& [key, hash] : contents_) {
    const auto found = records.find(key);
    if (found == records.end() || HashOf(found->second) != hash) {
      world_->Violate("what was committed is never lost",
                      absl::StrCat(key, found == records.end() ? " is missing" : " is an older one",
                                   " after a restart"));
    }
  }
  if (records.size() != contents_.size()) {
    world_->Violate("what was committed is never lost", "deleted records are there again");
  }
}

void Checker::OnCommitted(const server::State& state, const ModelStore::Records& records) {
  std::vector<std::pair<std::string, std::string>> loadable;
  for (const auto& [key, value] : records) {
    const std::string kind = key.substr(0, key.find('/'));
    if (kind == "header" || kind == "jobs" || kind == "manifests")
      loadable.emplace_back(key, value);
  }
  const absl::StatusOr<server::State> loaded = server::LoadState(loadable, state.options);
  const std::string rule = "a restart finds the state that was left";
  if (!loaded.ok()) return world_->Violate(rule, loaded.status().ToString());
  using google::protobuf::util::MessageDifferencer;
  if (!MessageDifferencer::Equals(loaded->header, state.header)) {
    world_->Violate(rule, absl::StrCat("header: ", state.header.ShortDebugString(),
                                       ", loaded: ", loaded->header.ShortDebugString()));
  }
  if (loaded->jobs.size() != state.jobs.size() || loaded->active != state.active ||
      loaded->jobs_by_number != state.jobs_by_number ||
      loaded->jobs_by_request_id != state.jobs_by_request_id) {
    world_->Violate(rule, "the sets of jobs differ");
  }
  for (const auto& [id, job] : state.jobs) {
    const auto other = loaded->jobs.find(id);
    if (other == loaded->jobs.end()) return world_->Violate(rule, absl::StrCat(id, " is missing"));
    if (other->second.checkpoints != job.checkpoints) {
      world_->Violate(rule, absl::StrCat("the checkpoints of ", id, " differ"));
    }
    // The reason of a waiting job is worked out anew.
    internal::v1::JobRecord left = job.record, found = other->second.record;
    for (internal::v1::JobRecord* record : {&left, &found}) {
      record->mutable_job()->clear_reason();
      record->mutable_job()->clear_reason_code();
      record->mutable_job()->clear_next_command();
    }
    MessageDifferencer differencer;
    std::string difference;
    differencer.ReportDifferencesToString(&difference);
    if (!differencer.Compare(found, left)) {
      world_->Violate(rule, absl::StrCat(id, ": ", difference));
    }
  }
}

}  // namespace diffmoe::simulation
