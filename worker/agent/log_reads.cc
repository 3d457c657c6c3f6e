#include "worker/agent/log_reads.h"

#include <grpcpp/grpcpp.h>

#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/base/log.h"
#include "worker/agent/log_reader.h"

namespace diffmoe {
namespace {

namespace pb = worker::v1;

constexpr size_t kMaxReads = 64;
constexpr size_t kBatchBytes = 128 << 10;
constexpr int kBatchLines = 2000;
constexpr absl::Duration kFollowInterval = absl::Milliseconds(100);

void SetTime(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t ms = absl::ToUnixMillis(time);
  out->set_seconds(ms / 1000);
  out->set_nanos(static_cast<int32_t>(ms % 1000) * 1'000'000);
}

// Fills a message; false when nothing is left at present.
bool FillBatch(MergedLogs& logs, const pb::ReadLogs& request, const std::string& worker_id,
               pb::LogLines* batch) {
  batch->Clear();
  batch->set_read_id(request.read_id());
  size_t bytes = 0;
  bool more = true;
  int rank = 0;
  LogEntry entry;
  while (bytes < kBatchBytes && batch->lines_size() < kBatchLines &&
         (more = logs.Next(&rank, &entry))) {
    v1::LogLine* line = batch->add_lines();
    if (entry.time.has_value()) SetTime(*entry.time, line->mutable_time());
    line->set_epoch(request.group().epoch());
    line->set_rank(rank);
    line->set_worker_id(worker_id);
    bytes += entry.text.size() + 64;
    line->set_text(std::move(entry.text));
  }
  for (size_t i = 0; i < logs.size(); ++i) {
    if (!logs.reader(i).TakeGap()) continue;
    batch->add_notices(absl::StrCat("lines of rank ", logs.rank(i), " are left out: worker ",
                                    worker_id, " had to make room before they were read"));
  }
  return more;
}

}  // namespace

struct LogReads::Read {
  grpc::ClientContext context;
  absl::Mutex mutex;
  bool stopped ABSL_GUARDED_BY(mutex) = false;
  bool ended ABSL_GUARDED_BY(mutex) = false;
  std::thread thread;

  void Stop() {
    absl::MutexLock lock(&mutex);
    stopped = true;
    context.TryCancel();
  }
  // False when it was stopped meanwhile.
  bool WaitFor(absl::Duration duration) {
    absl::MutexLock lock(&mutex);
    mutex.AwaitWithTimeout(absl::Condition(&stopped), duration);
    return !stopped;
  }
};

LogReads::LogReads(Parts parts) : parts_(std::move(parts)) {}

LogReads::~LogReads() {
  std::map<std::string, std::unique_ptr<Read>> reads;
  {
    absl::MutexLock lock(&mutex_);
    reads.swap(reads_);
  }
  for (const auto& [id, read] : reads) read->Stop();
  for (const auto& [id, read] : reads) read->thread.join();
}

void LogReads::Reap() {
  std::vector<std::unique_ptr<Read>> ended;
  {
    absl::MutexLock lock(&mutex_);
    for (auto it = reads_.begin(); it != reads_.end();) {
      bool over = false;
      {
        absl::MutexLock read_lock(&it->second->mutex);
        over = it->second->ended;
      }
      if (over) ended.push_back(std::move(it->second));
      it = over ? reads_.erase(it) : std::next(it);
    }
  }
  for (const auto& read : ended) read->thread.join();
}

void LogReads::Start(const pb::ReadLogs& request) {
  Reap();
  absl::MutexLock lock(&mutex_);
  if (reads_.size() >= kMaxReads || reads_.contains(request.read_id())) {
    LogWarning("worker", "logs are not read: too many readers",
               {{"read", request.read_id()}, {"readers", reads_.size()}});
    return;
  }
  auto read = std::make_unique<Read>();
  try {
    read->thread = std::thread([this, read = read.get(), request] {
      Run(read, request);
      {
        absl::MutexLock ended_lock(&read->mutex);
        read->ended = true;
      }
      absl::MutexLock running_lock(&mutex_);
      --running_;
    });
    ++running_;
  } catch (const std::system_error& error) {
    LogWarning("worker", "logs are not read: no thread",
               {{"read", request.read_id()}, {"error", error.what()}});
    return;
  }
  reads_[request.read_id()] = std::move(read);
}

void LogReads::Drain(absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return running_ == 0; };
  mutex_.AwaitWithTimeout(absl::Condition(&idle), limit);
}

void LogReads::Stop(const std::string& read_id) {
  absl::MutexLock lock(&mutex_);
  const auto read = reads_.find(read_id);
  if (read != reads_.end()) read->second->Stop();
}

void LogReads::Run(Read* read, const pb::ReadLogs& request) {
  const std::shared_ptr<pb::BulkPlane::Stub> stub = parts_.coordinator();
  if (stub == nullptr) return;
  pb::PushLogsResponse response;
  const auto stream = stub->PushLogs(&read->context, &response);
  LogFilter filter;
  absl::Status status;
  if (request.since_ms() > 0) filter.since = absl::FromUnixMillis(request.since_ms());
  if (!request.grep().empty()) {
    absl::StatusOr<std::shared_ptr<const RE2>> grep = CompileLogPattern(request.grep());
    if (grep.ok()) filter.grep = *std::move(grep);
    status = grep.status();
  }
  std::vector<int> ranks(request.ranks().begin(), request.ranks().end());
  std::vector<std::string> paths;
  std::vector<std::unique_ptr<LogReader>> readers;
  for (const int rank : ranks) {
    paths.push_back(parts_.path(request.group(), rank));
    readers.push_back(std::make_unique<LogReader>(paths.back(), filter));
    if (status.ok() && request.tail_lines() > 0) readers.back()->SkipToLast(request.tail_lines());
  }
  MergedLogs logs(std::move(ranks), std::move(readers));
  pb::LogLines batch;
  bool first = true;
  while (status.ok()) {
    // Asked before the read: what was written before the end of a rank is read after it.
    bool open = false;
    for (const std::string& path : paths) open = open || parts_.open(path);
    const bool more = FillBatch(logs, request, parts_.worker_id, &batch);
    for (size_t i = 0; first && i < logs.size(); ++i) {
      if (logs.reader(i).found() || parts_.open(paths[i])) continue;
      batch.add_notices(absl::StrCat("worker ", parts_.worker_id, " has no log of rank ",
                                     logs.rank(i), " any more"));
    }
    // The first message says that the read has begun.
    const bool any = first || batch.lines_size() > 0 || batch.notices_size() > 0;
    if (any && !stream->Write(batch)) break;
    first = false;
    if (more) continue;
    if (!request.follow() || !open || !read->WaitFor(kFollowInterval)) break;
  }
  stream->WritesDone();
  const grpc::Status finished = stream->Finish();
  if (!finished.ok() && finished.error_code() != grpc::StatusCode::CANCELLED &&
      finished.error_code() != grpc::StatusCode::NOT_FOUND) {
    LogInfo("worker", "a reader of logs has gone",
            {{"read", request.read_id()}, {"error", finished.error_message()}});
  }
}

}  // namespace diffmoe
