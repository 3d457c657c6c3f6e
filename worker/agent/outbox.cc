#include "worker/agent/outbox.h"

#include "core/base/kill_point.h"

namespace diffmoe {
namespace {

namespace pb = worker::v1;

constexpr size_t kMaxRecords = 200'000;
constexpr int kRecordsPerMessage = 4096;
constexpr int64_t kResendWindowMs = 10'000;
constexpr size_t kMaxRemembered = 4096;

}  // namespace

void Outbox::AddStarted(pb::RankStarted started) {
  pb::WorkerMessage message;
  *message.mutable_rank_started() = std::move(started);
  absl::MutexLock lock(&mutex_);
  messages_.push_back(std::move(message));
}

void Outbox::AddExited(pb::RankExited exited) {
  absl::MutexLock lock(&mutex_);
  const RankKey key{exited.group().id(), exited.group().epoch(), exited.rank()};
  for (auto entry = reports_.find(key); entry != reports_.end(); entry = reports_.find(key)) {
    TakeReport(entry, &messages_.emplace_back());
  }
  *messages_.emplace_back().mutable_rank_exited() = std::move(exited);
  KillPoint("outbox.exit_added");
}

void Outbox::AddReport(pb::RankReport report) {
  absl::MutexLock lock(&mutex_);
  Report& entry = reports_[RankKey{report.group().id(), report.group().epoch(), report.rank()}];
  if (report.has_progress()) {
    entry.has_progress = true;
    entry.progress = std::move(*report.mutable_progress());
  }
  for (v1::StepRecord& record : *report.mutable_records()) {
    entry.records.push_back(std::move(record));
    if (records_ < kMaxRecords) {
      ++records_;
    } else {
      entry.records.pop_front();
    }
  }
}

Outbox::NextResult Outbox::Next(absl::Duration timeout, pb::WorkerMessage* message) {
  message->Clear();
  absl::MutexLock lock(&mutex_);
  auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return interrupted_ || !Empty(); };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&ready), timeout)) return NextResult::kTimeout;
  if (interrupted_) return NextResult::kInterrupted;
  if (!messages_.empty()) {
    *message = std::move(messages_.front());
    messages_.pop_front();
  } else {
    TakeReport(reports_.begin(), message);
  }
  Remember(*message);
  KillPoint("outbox.message_taken");
  return NextResult::kMessage;
}

void Outbox::TakeReport(std::map<RankKey, Report>::iterator entry, pb::WorkerMessage* message) {
  auto& [key, waiting] = *entry;
  pb::RankReport* report = message->mutable_rank_report();
  report->mutable_group()->set_id(std::get<0>(key));
  report->mutable_group()->set_epoch(std::get<1>(key));
  report->set_rank(std::get<2>(key));
  if (waiting.has_progress) *report->mutable_progress() = std::move(waiting.progress);
  waiting.has_progress = false;
  while (!waiting.records.empty() && report->records_size() < kRecordsPerMessage) {
    *report->add_records() = std::move(waiting.records.front());
    waiting.records.pop_front();
    --records_;
  }
  if (waiting.records.empty()) reports_.erase(entry);
}

void Outbox::Remember(const pb::WorkerMessage& message) {
  const int64_t now = clock_->MonotonicMs();
  while (!sent_.empty() &&
         (sent_.front().first < now - kResendWindowMs || sent_.size() >= kMaxRemembered)) {
    sent_.pop_front();
  }
  if (message.has_rank_exited() || message.has_rank_report()) sent_.emplace_back(now, message);
}

void Outbox::Interrupt() {
  absl::MutexLock lock(&mutex_);
  interrupted_ = true;
}

void Outbox::BeginSession() {
  absl::MutexLock lock(&mutex_);
  interrupted_ = false;
}

void Outbox::SessionLost() {
  absl::MutexLock lock(&mutex_);
  const int64_t oldest = clock_->MonotonicMs() - kResendWindowMs;
  while (!sent_.empty()) {
    auto& [time, message] = sent_.back();
    if (time >= oldest) messages_.push_front(std::move(message));
    sent_.pop_back();
  }
}

bool Outbox::WaitEmpty(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  auto empty = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return Empty(); };
  return mutex_.AwaitWithTimeout(absl::Condition(&empty), timeout);
}

}  // namespace diffmoe
