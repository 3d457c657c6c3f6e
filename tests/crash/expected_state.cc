#include "tests/crash/expected_state.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace diffmoe::test {
namespace {

bool HasEnded(v1::JobState state) {
  return state == v1::SUCCEEDED || state == v1::FAILED || state == v1::CANCELLED;
}

absl::Status Wrong(const std::string& job_id, const std::string& what) {
  return absl::InternalError(absl::StrCat("job ", job_id, ": ", what));
}

}  // namespace

absl::Status ExpectedState::Submitted(const std::string& request_id, const std::string& job_id) {
  const auto [known, added] = requests_.emplace(request_id, job_id);
  if (!added) {
    if (known->second == job_id) return absl::OkStatus();
    return Wrong(job_id, absl::StrCat("request ", request_id, " was answered with job ",
                                      known->second, " before"));
  }
  if (!jobs_.emplace(job_id, Entry{}).second)
    return Wrong(job_id, absl::StrCat("two requests got it, the second is ", request_id));
  log_ << "submitted " << request_id << " " << job_id << std::endl;
  return absl::OkStatus();
}

void ExpectedState::Cancelled(const std::string& job_id) {
  jobs_.at(job_id).cancelled = true;
  log_ << "cancelled " << job_id << std::endl;
}

void ExpectedState::Paused(const std::string& job_id) {
  jobs_.at(job_id).paused = true;
  ++pauses_;
  log_ << "paused " << job_id << std::endl;
}

void ExpectedState::Resumed(const std::string& job_id) {
  jobs_.at(job_id).paused = false;
  log_ << "resumed " << job_id << std::endl;
}

void ExpectedState::Labelling(const std::string& job_id, int64_t number) {
  jobs_.at(job_id).label_tried = number;
}

void ExpectedState::Labelled(const std::string& job_id, int64_t number) {
  jobs_.at(job_id).label = number;
  ++labels_;
  log_ << "labelled " << job_id << " " << number << std::endl;
}

void ExpectedState::Pinned(const std::string& job_id, int64_t step) {
  jobs_.at(job_id).pinned.insert(step);
  log_ << "pinned " << job_id << " " << step << std::endl;
}

void ExpectedState::Deleting(const std::string& job_id, int64_t step) {
  jobs_.at(job_id).checkpoints.erase(step);
}

void ExpectedState::Deleted(const std::string& job_id, int64_t step, int64_t epoch) {
  jobs_.at(job_id).deleted[step] = epoch;
  log_ << "deleted " << job_id << " " << step << " epoch " << epoch << std::endl;
}

absl::Status ExpectedState::CheckEnd(const v1::Job& job, Entry& entry) {
  if (entry.cancelled && job.state() != v1::CANCELLED && job.state() != v1::CANCELLING) {
    return Wrong(job.id(), absl::StrCat("was cancelled, and is ", v1::JobState_Name(job.state())));
  }
  if (entry.paused && (job.state() == v1::QUEUED || job.state() == v1::RUNNING))
    return Wrong(job.id(), absl::StrCat("was paused, and is ", v1::JobState_Name(job.state())));
  int64_t label = 0;
  const auto found = job.labels().find("number");
  if (found != job.labels().end() && !absl::SimpleAtoi(found->second, &label)) label = -1;
  if (label < entry.label || label > entry.label_tried)
    return Wrong(job.id(), absl::StrCat("has label ", label, ", was given ", entry.label));
  if (entry.ended != v1::JOB_STATE_UNSPECIFIED && job.state() != entry.ended) {
    return Wrong(job.id(), absl::StrCat("had ended as ", v1::JobState_Name(entry.ended),
                                        ", and is ", v1::JobState_Name(job.state())));
  }
  if (job.state() == v1::FAILED) return Wrong(job.id(), "failed: " + job.reason());
  if (HasEnded(job.state()) && entry.ended == v1::JOB_STATE_UNSPECIFIED) {
    entry.ended = job.state();
    log_ << "ended " << job.id() << " " << v1::JobState_Name(job.state()) << std::endl;
  }
  return absl::OkStatus();
}

absl::Status ExpectedState::CheckEvents(const JobView& view, Entry& entry) {
  const std::string& id = view.job.id();
  if (view.events.size() < entry.events.size()) {
    return Wrong(id,
                 absl::StrCat("has ", view.events.size(), " events, had ", entry.events.size()));
  }
  for (size_t i = 0; i < view.events.size(); ++i) {
    const v1::JobEvent& event = view.events[i];
    if (event.sequence() != static_cast<int64_t>(i) + 1)
      return Wrong(id, absl::StrCat("event ", i + 1, " has sequence ", event.sequence()));
    const std::string bytes = event.SerializeAsString();
    if (i < entry.events.size()) {
      if (entry.events[i] != bytes) return Wrong(id, absl::StrCat("event ", i + 1, " has changed"));
      continue;
    }
    entry.events.push_back(bytes);
    log_ << "event " << id << " " << event.sequence() << " " << event.message() << std::endl;
  }
  return absl::OkStatus();
}

absl::Status ExpectedState::CheckCheckpoints(const JobView& view, Entry& entry) {
  const std::string& id = view.job.id();
  std::map<int64_t, int64_t> listed;
  for (const v1::Checkpoint& checkpoint : view.checkpoints) {
    if (checkpoint.damaged())
      return Wrong(id, absl::StrCat("checkpoint ", checkpoint.step(), " is damaged"));
    listed[checkpoint.step()] = checkpoint.epoch();
    if (entry.pinned.contains(checkpoint.step()) && !checkpoint.pinned())
      return Wrong(id, absl::StrCat("checkpoint ", checkpoint.step(), " isn't pinned any more"));
    const auto deleted = entry.deleted.find(checkpoint.step());
    if (deleted != entry.deleted.end() && checkpoint.epoch() <= deleted->second)
      return Wrong(id, absl::StrCat("checkpoint ", checkpoint.step(), " was deleted, and is back"));
  }
  for (const auto& [step, epoch] : entry.checkpoints) {
    const auto found = listed.find(step);
    if (found != listed.end()) {
      if (found->second >= epoch) continue;
      return Wrong(id, absl::StrCat("checkpoint ", step, " of epoch ", epoch, " is that of epoch ",
                                    found->second));
    }
    const auto newer = std::distance(listed.upper_bound(step), listed.end());
    if (newer < entry.keep || entry.pinned.contains(step)) {
      return absl::AbortedError(absl::StrCat("job ", id, ": checkpoint ", step, " is lost: ", newer,
                                             " newer ones are there, ", entry.keep, " are kept"));
    }
  }
  for (const auto& [step, epoch] : listed) {
    const auto known = entry.checkpoints.find(step);
    if (known != entry.checkpoints.end() && known->second == epoch) continue;
    ++entry.checkpoints_seen;
    log_ << "checkpoint " << id << " " << step << " epoch " << epoch << std::endl;
  }
  entry.checkpoints = listed;
  return absl::OkStatus();
}

absl::Status ExpectedState::CheckThresholds(const JobView& view, Entry& entry) {
  const std::string& id = view.job.id();
  std::map<int64_t, std::string> points;
  for (const v1::ThresholdPoint& point : view.thresholds)
    points[point.step()] = point.SerializeAsString();
  // Training is deterministic: a step that is repeated gives the same point.
  for (const auto& [step, bytes] : entry.thresholds) {
    const auto found = points.find(step);
    if (found == points.end())
      return Wrong(id, absl::StrCat("the thresholds of step ", step, " are lost"));
    if (found->second != bytes)
      return Wrong(id, absl::StrCat("the thresholds of step ", step, " have changed"));
  }
  for (const auto& [step, bytes] : points) {
    if (entry.thresholds.emplace(step, bytes).second)
      log_ << "thresholds " << id << " " << step << std::endl;
  }
  return absl::OkStatus();
}

absl::Status ExpectedState::Seen(const JobView& view) {
  const auto found = jobs_.find(view.job.id());
  if (found == jobs_.end()) return Wrong(view.job.id(), "nobody has submitted it");
  Entry& entry = found->second;
  entry.keep = view.job.spec().checkpoint().keep();
  RETURN_IF_ERROR(CheckEnd(view.job, entry));
  RETURN_IF_ERROR(CheckEvents(view, entry));
  RETURN_IF_ERROR(CheckCheckpoints(view, entry));
  return CheckThresholds(view, entry);
}

absl::Status ExpectedState::Listed(const std::vector<v1::Job>& jobs, size_t unanswered) const {
  std::set<std::string> listed;
  for (const v1::Job& job : jobs) {
    if (!listed.insert(job.id()).second) return Wrong(job.id(), "is listed twice");
  }
  for (const auto& [id, entry] : jobs_) {
    if (!listed.erase(id)) return Wrong(id, "is lost");
  }
  if (listed.size() <= unanswered) return absl::OkStatus();
  return Wrong(*listed.begin(), absl::StrCat("one of ", listed.size(), " that belong to at most ",
                                             unanswered, " unanswered requests"));
}

std::vector<std::string> ExpectedState::JobIds() const {
  std::vector<std::string> ids;
  for (const auto& [id, entry] : jobs_) ids.push_back(id);
  return ids;
}

std::vector<std::string> ExpectedState::JobsWithCheckpoints() const {
  std::vector<std::string> ids;
  for (const auto& [id, entry] : jobs_) {
    if (!entry.checkpoints.empty()) ids.push_back(id);
  }
  return ids;
}

std::pair<int64_t, int64_t> ExpectedState::OldestCheckpoint(const std::string& job_id) const {
  const auto& checkpoints = jobs_.at(job_id).checkpoints;
  if (checkpoints.empty()) return {0, 0};
  return {checkpoints.begin()->first, checkpoints.begin()->second};
}

std::pair<int64_t, int64_t> ExpectedState::SpareCheckpoint(const std::string& job_id) const {
  const Entry& entry = jobs_.at(job_id);
  for (const auto& [step, epoch] : entry.checkpoints) {
    const bool newest = step == entry.checkpoints.rbegin()->first;
    if (!newest && !entry.pinned.contains(step)) return {step, epoch};
  }
  return {0, 0};
}

std::vector<std::string> ExpectedState::ActiveJobs() const {
  std::vector<std::string> ids;
  for (const auto& [id, entry] : jobs_) {
    if (entry.ended == v1::JOB_STATE_UNSPECIFIED) ids.push_back(id);
  }
  return ids;
}

ExpectedTotals ExpectedState::totals() const {
  ExpectedTotals totals;
  totals.jobs = static_cast<int64_t>(jobs_.size());
  totals.pauses = pauses_;
  totals.labels = labels_;
  for (const auto& [id, entry] : jobs_) {
    totals.cancellations += entry.cancelled;
    totals.pins += static_cast<int64_t>(entry.pinned.size());
    totals.deletions += static_cast<int64_t>(entry.deleted.size());
    totals.ended += entry.ended != v1::JOB_STATE_UNSPECIFIED;
    totals.events += static_cast<int64_t>(entry.events.size());
    totals.checkpoints += entry.checkpoints_seen;
    totals.thresholds += static_cast<int64_t>(entry.thresholds.size());
  }
  return totals;
}

}  // namespace diffmoe::test
