#include "server/api/log_reads.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "server/api/grpc_status.h"
#include "server/api/log_merge.h"
#include "server/api/log_request.h"
#include "server/api/resource_names.h"
#include "server/errors.h"
#include "server/state/state.h"

namespace diffmoe::server {
namespace {

// A waiting push looks so often whether its call still lives.
constexpr absl::Duration kPushPoll = absl::Milliseconds(200);

worker::v1::CoordinatorMessage StopMessage(const std::string& read_id) {
  worker::v1::CoordinatorMessage message;
  message.mutable_stop_reading_logs()->set_read_id(read_id);
  return message;
}

absl::StatusOr<const v1::Attempt*> FindAttempt(const v1::Job& job, int64_t epoch) {
  std::vector<int64_t> known;
  for (const v1::Attempt& attempt : job.attempts()) {
    if (attempt.epoch() == epoch) return &attempt;
    known.push_back(attempt.epoch());
  }
  const std::string expected =
      known.empty() ? "0, for the job has not been started yet"
                    : absl::StrCat("0 or an attempt of the job (", absl::StrJoin(known, ", "), ")");
  return MakeViolations(v1::INVALID_REQUEST,
                        {Violation("epoch", absl::StrCat("expected ", expected, ", got ", epoch))});
}

// Behind `last_epoch`; the newest one when that is 0. Null when there is none.
const v1::Attempt* NextAttempt(const v1::Job& job, int64_t last_epoch) {
  if (job.attempts().empty()) return nullptr;
  if (last_epoch == 0) return &*job.attempts().rbegin();
  for (const v1::Attempt& attempt : job.attempts()) {
    if (attempt.epoch() > last_epoch) return &attempt;
  }
  return nullptr;
}

int RanksOf(const v1::Job& job, const v1::Attempt* attempt) {
  if (attempt == nullptr) return std::max(1, job.spec().parallel().ranks());
  int ranks = 1;
  for (const v1::Placement& placement : attempt->placements()) {
    ranks = std::max(ranks, placement.rank() + 1);
  }
  return ranks;
}

}  // namespace

// All members but `response` belong to LogReads, under its lock; `response` belongs to the write in
// flight.
class LogRead final : public grpc::ServerWriteReactor<v1::ReadJobLogsResponse>,
                      public std::enable_shared_from_this<LogRead> {
 public:
  LogRead(LogReads* owner, const v1::ReadJobLogsRequest& wanted) : request(wanted), owner_(owner) {}

  enum class Phase {
    kNew,        // the attempt to read has to be found
    kResolving,  // the loop was asked
    kReading,
    kWaiting,  // for the next attempt, or the end of the job
    kOver,
  };

  bool follows_job() const { return request.follow() && request.epoch() == 0; }

  const v1::ReadJobLogsRequest request;
  std::string job_id;
  Phase phase = Phase::kNew;
  absl::Status status;  // of the end
  int64_t epoch = 0;    // that is or was read
  LogMerge merge;
  std::vector<LogReads::Assignment> stops;  // for workers that need not read on
  std::vector<std::string> notices;
  bool writing = false;
  bool finished = false;
  bool gone = false;
  v1::ReadJobLogsResponse response;

 private:
  void OnWriteDone(bool ok) override { owner_->Written(this, ok); }
  void OnCancel() override { owner_->Gone(this); }
  void OnDone() override { owner_->Ended(this); }

  LogReads* const owner_;
};

LogReads::LogReads(Loop* loop, Send send, const LogReadOptions& options)
    : loop_(loop), send_(std::move(send)), options_(options) {}

LogReads::~LogReads() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void LogReads::Start() {
  thread_ = std::thread([this] { Run(); });
}

void LogReads::CloseAll(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  closed_ = status;
  dirty_ = true;
}

grpc::ServerWriteReactor<v1::ReadJobLogsResponse>* LogReads::Read(
    const v1::ReadJobLogsRequest& request) {
  auto read = std::make_shared<LogRead>(this, request);
  absl::Status status = CheckLogRequest(request);
  const absl::StatusOr<std::string> id = ParseJobName(request.name());
  if (id.ok()) read->job_id = *id;
  if (!id.ok()) status = id.status();
  absl::MutexLock lock(&mutex_);
  const auto live = std::count_if(reads_.begin(), reads_.end(), [](const auto& other) {
    return other->phase != LogRead::Phase::kOver;
  });
  if (status.ok() && live >= static_cast<int64_t>(options_.max_reads)) {
    status = MakeRetryableError(
        absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
        absl::StrCat("at most ", options_.max_reads, " readers of logs at once"), 5000);
  }
  if (!status.ok()) {
    read->phase = LogRead::Phase::kOver;
    read->status = status;
  }
  reads_.insert(read);
  dirty_ = true;
  return read.get();
}

void LogReads::JobChanged(const v1::Job& job) {
  absl::MutexLock lock(&mutex_);
  for (const auto& read : reads_) {
    if (read->phase != LogRead::Phase::kWaiting || read->job_id != job.id()) continue;
    if (!HasEnded(job.state()) && NextAttempt(job, read->epoch) == nullptr) continue;
    read->phase = LogRead::Phase::kNew;
    dirty_ = true;
  }
}

absl::Status LogReads::Take(worker::v1::LogLines lines, const std::function<bool()>& cancelled) {
  const std::string id = lines.read_id();
  absl::MutexLock lock(&mutex_);
  while (true) {
    const auto found = by_id_.find(id);
    if (found == by_id_.end())
      return absl::NotFoundError(absl::StrCat("nobody reads logs as ", id));
    LogRead& read = *found->second;
    LogSource& source = read.merge.sources().at(id);
    if (!pushes_.contains(id) && pushes_.size() >= options_.max_pushes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("at most ", options_.max_pushes, " workers send logs at once"));
    }
    pushes_.insert(id);
    source.begun = true;
    if (source.bytes < read.merge.SourceLimit()) {
      for (const std::string& notice : lines.notices()) read.notices.push_back(notice);
      read.merge.Add(id, read.epoch, std::move(lines), absl::Now());
      dirty_ = true;
      return absl::OkStatus();
    }
    if (cancelled()) return absl::CancelledError("the worker has gone");
    const auto room = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      const auto now = by_id_.find(id);
      if (now == by_id_.end()) return true;
      LogMerge& merge = now->second->merge;
      return merge.sources().at(id).bytes < merge.SourceLimit();
    };
    mutex_.AwaitWithTimeout(absl::Condition(&room), kPushPoll);
  }
}

void LogReads::End(const std::string& read_id, bool whole) {
  absl::MutexLock lock(&mutex_);
  pushes_.erase(read_id);
  const auto found = by_id_.find(read_id);
  if (found == by_id_.end()) return;
  LogRead& read = *found->second;
  LogSource& source = read.merge.sources().at(read_id);
  by_id_.erase(found);
  source.ended = true;
  dirty_ = true;
  if (whole) return;
  const std::string what = absl::StrCat(
      "worker ", source.worker_id, " broke off while its lines were read (", source.ranks, ")");
  if (read.request.follow() && read.phase == LogRead::Phase::kReading) {
    Close(read, MakeRetryableError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_UNSPECIFIED,
                                   what, 1000));
    return;
  }
  read.notices.push_back(absl::StrCat(what, "; the rest is missing"));
}

void LogReads::Close(LogRead& read, const absl::Status& status) {
  read.phase = LogRead::Phase::kOver;
  read.status = status;
  for (auto& [id, source] : read.merge.sources()) {
    if (!source.ended) read.stops.push_back({source.session, StopMessage(id)});
    source.ended = true;
    by_id_.erase(id);
  }
}

void LogReads::DropSilent(LogRead& read, absl::Time now, absl::Time* wake) {
  for (auto& [id, source] : read.merge.sources()) {
    if (source.ended || !source.lines.empty()) continue;
    if (source.begun && read.request.follow()) continue;
    const absl::Time due =
        source.heard + (source.begun ? options_.silence_limit : options_.answer_limit);
    if (now < due) {
      *wake = std::min(*wake, due);
      continue;
    }
    read.notices.push_back(absl::StrCat("worker ", source.worker_id, " doesn't answer; lines of ",
                                        source.ranks, " are missing"));
    read.stops.push_back({source.session, StopMessage(id)});
    source.ended = true;
    by_id_.erase(id);
  }
}

LogReads::Step LogReads::Advance(const std::shared_ptr<LogRead>& shared, absl::Time now,
                                 absl::Time* wake) {
  using Phase = LogRead::Phase;
  LogRead& read = *shared;
  Step step{.read = shared};
  if (read.finished) return step;
  if (read.phase != Phase::kOver && (read.gone || !closed_.ok())) {
    Close(read, read.gone ? absl::CancelledError("the client has gone") : closed_);
  }
  if (read.phase == Phase::kReading) DropSilent(read, now, wake);
  step.stop = std::exchange(read.stops, {});
  if (!read.writing && !read.gone) {
    read.response.Clear();
    for (std::string& notice : read.notices) read.response.add_notices(std::move(notice));
    read.notices.clear();
    read.merge.Take(now, read.request.follow() ? &options_.merge_delay : nullptr, &read.response,
                    wake);
    read.writing = read.response.lines_size() > 0 || read.response.notices_size() > 0;
    step.write = read.writing;
  }
  if (read.writing) return step;
  if (read.phase == Phase::kReading && read.merge.AllEnded()) {  // and all was written
    read.merge = {};
    read.phase = read.follows_job() ? Phase::kNew : Phase::kOver;
  }
  if (read.phase == Phase::kNew) {
    read.phase = Phase::kResolving;
    step.resolve = true;
  }
  if (read.phase == Phase::kOver) {
    read.finished = true;
    step.finish = true;
    step.status = read.status;
  }
  return step;
}

void LogReads::Do(const Step& step) {
  for (const Assignment& stop : step.stop) send_(stop.session, stop.message);
  if (step.write) step.read->StartWrite(&step.read->response);
  if (step.resolve) Resolve(step.read);
  if (step.finish) step.read->Finish(ToGrpc(step.status));
}

void LogReads::Run() {
  absl::Time wake = absl::InfiniteFuture();
  while (true) {
    std::vector<Step> steps;
    {
      absl::MutexLock lock(&mutex_);
      const auto due = [this]()
                           ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return dirty_ || stopping_; };
      mutex_.AwaitWithDeadline(absl::Condition(&due), wake);
      if (stopping_) return;
      dirty_ = false;
      wake = absl::InfiniteFuture();
      const absl::Time now = absl::Now();
      for (const auto& read : reads_) steps.push_back(Advance(read, now, &wake));
    }
    for (const Step& step : steps) Do(step);
  }
}

void LogReads::Resolve(const std::shared_ptr<LogRead>& read) {
  const absl::Status asked =
      loop_->Query([this, read](const State& state) { Resolved(read, state); });
  if (asked.ok()) return;
  absl::MutexLock lock(&mutex_);
  Close(*read, asked);
  dirty_ = true;
}

void LogReads::Resolved(const std::shared_ptr<LogRead>& read, const State& state) {
  std::vector<Assignment> tell;
  {
    absl::MutexLock lock(&mutex_);
    if (read->phase != LogRead::Phase::kResolving) return;
    dirty_ = true;
    const absl::Status status = [&]() -> absl::Status {
      const auto entry = state.jobs.find(read->job_id);
      if (entry == state.jobs.end()) {
        return MakeError(absl::StatusCode::kNotFound, v1::JOB_NOT_FOUND,
                         absl::StrCat(JobName(read->job_id), " doesn't exist"),
                         JobName(read->job_id));
      }
      const v1::Job& job = entry->second.job();
      const v1::Attempt* attempt = NextAttempt(job, read->epoch);
      if (read->request.epoch() > 0) {
        ASSIGN_OR_RETURN(attempt, FindAttempt(job, read->request.epoch()));
      }
      if (read->epoch == 0) RETURN_IF_ERROR(CheckLogRanks(read->request, RanksOf(job, attempt)));
      if (attempt != nullptr) {
        tell = Assign(read, state, *attempt);
        return absl::OkStatus();
      }
      const bool waits = read->request.follow() && !HasEnded(job.state());
      read->phase = waits ? LogRead::Phase::kWaiting : LogRead::Phase::kOver;
      if (read->epoch == 0 && !waits) {
        read->notices.push_back(
            absl::StrCat(read->job_id, " has not been started: it has no logs"));
      }
      return absl::OkStatus();
    }();
    if (!status.ok()) {
      read->phase = LogRead::Phase::kOver;
      read->status = status;
    }
  }
  for (const Assignment& message : tell) send_(message.session, message.message);
}

std::vector<LogReads::Assignment> LogReads::Assign(const std::shared_ptr<LogRead>& read,
                                                   const State& state, const v1::Attempt& attempt) {
  const bool first = read->epoch == 0;
  const v1::ReadJobLogsRequest& request = read->request;
  read->phase = LogRead::Phase::kReading;
  read->epoch = attempt.epoch();
  std::map<std::string, std::vector<int>> ranks;
  for (const v1::Placement& placement : attempt.placements()) {
    const bool wanted =
        request.ranks().empty() ||
        std::count(request.ranks().begin(), request.ranks().end(), placement.rank()) > 0;
    if (wanted) ranks[placement.worker_id()].push_back(placement.rank());
  }
  std::vector<Assignment> tell;
  for (const auto& [worker_id, of_worker] : ranks) {
    const auto worker = state.workers.find(worker_id);
    if (worker == state.workers.end() || worker->second.lost || worker->second.session == 0) {
      read->notices.push_back(absl::StrCat("worker ", worker_id, " is not connected; lines of ",
                                           RanksText(of_worker), " are missing"));
      continue;
    }
    const std::string id = absl::StrCat("logs-", next_id_++);
    LogSource source;
    source.worker_id = worker_id;
    source.session = worker->second.session;
    source.ranks = RanksText(of_worker);
    source.heard = absl::Now();
    read->merge.sources().emplace(id, std::move(source));
    by_id_[id] = read;
    Assignment& assignment = tell.emplace_back();
    assignment.session = worker->second.session;
    worker::v1::ReadLogs* logs = assignment.message.mutable_read_logs();
    logs->set_read_id(id);
    logs->mutable_group()->set_id(read->job_id);
    logs->mutable_group()->set_epoch(attempt.epoch());
    for (const int rank : of_worker) logs->add_ranks(rank);
    logs->set_grep(request.grep());
    logs->set_follow(request.follow());
    if (!first) continue;  // of later attempts everything
    logs->set_tail_lines(request.tail_lines());
    logs->set_since_ms(request.since().seconds() * 1000 + request.since().nanos() / 1'000'000);
  }
  return tell;
}

void LogReads::Written(LogRead* read, bool ok) {
  absl::MutexLock lock(&mutex_);
  read->writing = false;
  if (!ok) read->gone = true;
  dirty_ = true;
}

void LogReads::Gone(LogRead* read) {
  absl::MutexLock lock(&mutex_);
  read->gone = true;
  dirty_ = true;
}

void LogReads::Ended(LogRead* read) {
  absl::MutexLock lock(&mutex_);
  reads_.erase(read->shared_from_this());
}

}  // namespace diffmoe::server
