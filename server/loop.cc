#include "server/loop.h"

#include <algorithm>
#include <utility>

#include "absl/time/time.h"
#include "core/base/log.h"
#include "server/errors.h"

namespace diffmoe::server {

Loop::Loop(State state, Commit commit, const Clock* clock, EffectExecutor* executor,
           std::function<void(absl::Status)> on_fatal, const LoopOptions& options)
    : commit_(std::move(commit)),
      clock_(clock),
      executor_(executor),
      on_fatal_(std::move(on_fatal)),
      options_(options),
      core_(
          std::move(state),
          [this](const std::vector<RecordWrite>& writes) { return CommitRecords(writes); }, clock,
          executor, options.away_ms) {}

Loop::~Loop() { Stop(); }

void Loop::Start() {
  thread_ = std::thread([this] { Run(); });
}

void Loop::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

bool Loop::HasRoom() const {
  return stopping_ || dead_ || (!stalled_ && queue_.size() < options_.max_requests);
}

absl::Status Loop::CheckRoom(const Item& item) {
  if (stopping_ || dead_) {
    return MakeRetryableError(absl::StatusCode::kUnavailable, v1::SHUTTING_DOWN,
                              "the coordinator is stopping", 1000);
  }
  const Event* event = std::get_if<Event>(&item);
  const bool request = event == nullptr || IsRequest(*event);
  if (stalled_ && event != nullptr && request) {
    return StorageError(absl::ResourceExhaustedError("the disk is full"),
                        "the record store can't be written");
  }
  if (queue_.size() >= (request ? options_.max_requests : options_.max_queue)) {
    return MakeRetryableError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                              "the coordinator has too many requests waiting", 1000);
  }
  return absl::OkStatus();
}

absl::Status Loop::Post(Event event) {
  Item item = std::move(event);
  absl::MutexLock lock(&mutex_);
  if (absl::Status status = CheckRoom(item); !status.ok()) return status;
  queue_.push_back(std::move(item));
  return absl::OkStatus();
}

absl::Status Loop::PostWhenRoom(Event event) {
  Item item = std::move(event);
  absl::MutexLock lock(&mutex_, absl::Condition(this, &Loop::HasRoom));
  if (absl::Status status = CheckRoom(item); !status.ok()) return status;
  queue_.push_back(std::move(item));
  return absl::OkStatus();
}

absl::Status Loop::Query(std::function<void(const State&)> query) {
  Item item = std::move(query);
  absl::MutexLock lock(&mutex_);
  if (absl::Status status = CheckRoom(item); !status.ok()) return status;
  queue_.push_back(std::move(item));
  return absl::OkStatus();
}

std::deque<Loop::Item> Loop::TakeItems() {
  const int64_t wake_ms = std::min(core_.wakeup_ms(), clock_->MonotonicMs() + options_.max_wait_ms);
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return stopping_ || (!stalled_ && !queue_.empty());
  };
  absl::MutexLock lock(&mutex_);
  const int64_t wait_ms = stalled_ ? options_.retry_ms : wake_ms - clock_->MonotonicMs();
  mutex_.AwaitWithTimeout(absl::Condition(&ready),
                          absl::Milliseconds(std::max<int64_t>(0, wait_ms)));
  std::deque<Item> items;
  if (!stalled_) {
    while (!queue_.empty() && items.size() < options_.max_batch) {
      items.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    return items;
  }
  // Reads go on while writes wait.
  std::deque<Item> others;
  for (Item& item : queue_) {
    (std::holds_alternative<Event>(item) ? others : items).push_back(std::move(item));
  }
  queue_ = std::move(others);
  return items;
}

absl::Status Loop::CommitRecords(const std::vector<RecordWrite>& writes) {
  absl::Status status = commit_(writes);
  bool was_stalled = false;
  {
    absl::MutexLock lock(&mutex_);
    was_stalled = stalled_;
    stalled_ = !status.ok();
    dead_ = dead_ || (!status.ok() && !absl::IsResourceExhausted(status));
  }
  if (was_stalled && status.ok()) LogInfo("loop", "records can be written again");
  if (!was_stalled && !status.ok()) {
    LogError("loop", "records can't be written", {{"error", status.ToString()}});
  }
  return status;
}

void Loop::EndOnFatal(const absl::Status& status) {
  if (!status.ok() && !absl::IsResourceExhausted(status)) on_fatal_(status);
}

bool Loop::RunBatch() {
  std::deque<Item> items = TakeItems();
  bool last = false;
  {
    absl::MutexLock lock(&mutex_);
    last = stopping_ && (stalled_ || queue_.empty());
  }
  std::vector<Event> events;
  std::vector<std::function<void(const State&)>> queries;
  for (Item& item : items) {
    if (auto* query = std::get_if<std::function<void(const State&)>>(&item)) {
      queries.push_back(std::move(*query));
    } else {
      events.push_back(std::move(std::get<Event>(item)));
    }
  }
  EndOnFatal(core_.RunBatch(events));
  for (auto& query : queries) query(core_.state());
  executor_->BatchDone(core_.state());
  absl::MutexLock lock(&mutex_);
  return !last && !dead_;
}

void Loop::Run() {
  EndOnFatal(core_.Begin());
  executor_->BatchDone(core_.state());
  while (RunBatch()) {
  }
  // Nothing can be posted any more. Queries are answered; events are lost, as if they had never
  // come.
  std::deque<Item> left;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    left.swap(queue_);
  }
  for (Item& item : left) {
    if (auto* query = std::get_if<std::function<void(const State&)>>(&item))
      (*query)(core_.state());
  }
}

}  // namespace diffmoe::server
