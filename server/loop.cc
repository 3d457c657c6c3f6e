#include "server/loop.h"

#include <algorithm>
#include <utility>

#include "absl/time/time.h"
#include "core/base/kill_point.h"
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
      state_(std::move(state)) {}

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

Now Loop::ReadClock() const { return {clock_->MonotonicMs(), clock_->UnixMs()}; }

std::deque<Loop::Item> Loop::TakeItems() {
  const int64_t wake_ms =
      std::min(NextWakeupMs(state_), clock_->MonotonicMs() + options_.max_wait_ms);
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

void Loop::Apply(const Event& event) {
  for (Effect& effect : Step(state_, event, ReadClock())) {
    if (auto* write = std::get_if<WriteRecord>(&effect)) {
      writes_.push_back({std::move(write->key), std::move(write->value)});
    } else if (auto* erase = std::get_if<DeleteRecord>(&effect)) {
      writes_.push_back({std::move(erase->key), std::nullopt});
    } else {
      effects_.push_back(std::move(effect));
    }
  }
}

void Loop::FailRequests(const absl::Status& status) {
  std::vector<Effect> kept;
  for (Effect& effect : effects_) {
    Reply* reply = std::get_if<Reply>(&effect);
    if (reply == nullptr || reply->waits_for_store || !reply->status.ok()) {
      kept.push_back(std::move(effect));
      continue;
    }
    executor_->Execute(Reply{reply->call,
                             StorageError(status,
                                          "the request may still take effect; ask again with the "
                                          "same request_id"),
                             {},
                             false});
  }
  effects_ = std::move(kept);
}

void Loop::CommitBatch() {
  if (!writes_.empty()) {
    const int64_t begin_ms = clock_->MonotonicMs();
    KillPoint("loop.before_commit");
    const absl::Status status = commit_(writes_);
    executor_->Committed(status.code(), static_cast<int64_t>(writes_.size()),
                         static_cast<double>(clock_->MonotonicMs() - begin_ms) / 1000.0);
    if (!status.ok()) {
      FailRequests(status);
      const bool fatal = !absl::IsResourceExhausted(status);
      bool first = false;
      {
        absl::MutexLock lock(&mutex_);
        first = !stalled_;
        stalled_ = true;
        dead_ = dead_ || fatal;
      }
      if (first) LogError("loop", "records can't be written", {{"error", status.ToString()}});
      if (fatal) on_fatal_(status);
      return;
    }
    writes_.clear();
    KillPoint("loop.committed");
  }
  bool recovered = false;
  {
    absl::MutexLock lock(&mutex_);
    recovered = stalled_;
    stalled_ = false;
  }
  for (Effect& effect : effects_) executor_->Execute(std::move(effect));
  effects_.clear();
  KillPoint("loop.effects_done");
  if (recovered) {
    LogInfo("loop", "records can be written again");
    Apply(Resumed{});
  }
}

bool Loop::RunBatch() {
  std::deque<Item> items = TakeItems();
  bool stalled = false, last = false;
  {
    absl::MutexLock lock(&mutex_);
    stalled = stalled_;
    last = stopping_ && (stalled_ || queue_.empty());
  }
  const int64_t now_ms = clock_->MonotonicMs();
  if (!stalled && now_ms - last_seen_ms_ > options_.away_ms) Apply(Resumed{});
  last_seen_ms_ = now_ms;
  std::vector<std::function<void(const State&)>> queries;
  for (Item& item : items) {
    if (auto* query = std::get_if<std::function<void(const State&)>>(&item)) {
      queries.push_back(std::move(*query));
    } else {
      Apply(std::get<Event>(item));
    }
  }
  if (!stalled && NextWakeupMs(state_) <= now_ms) Apply(Tick{});
  if (!stalled && state_.schedule_due) Apply(Schedule{});
  CommitBatch();
  for (auto& query : queries) query(state_);
  executor_->BatchDone(state_);
  absl::MutexLock lock(&mutex_);
  return !last && !dead_;
}

void Loop::Run() {
  last_seen_ms_ = clock_->MonotonicMs();
  Apply(Restarted{});
  Apply(Schedule{});
  CommitBatch();
  executor_->BatchDone(state_);
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
    if (auto* query = std::get_if<std::function<void(const State&)>>(&item)) (*query)(state_);
  }
}

}  // namespace diffmoe::server
