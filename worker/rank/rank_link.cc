#include "worker/rank/rank_link.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "diffmoe/worker/v1/bulk_plane.grpc.pb.h"
#include "diffmoe/worker/v1/rank_plane.grpc.pb.h"
#include "worker/grpc_status.h"
#include "worker/rank/rank_link_convert.h"
#include "worker/rank/sampler_session.h"
#include "worker/rank/shard_stream.h"

namespace diffmoe {
namespace {

namespace pb = worker::v1;

constexpr absl::Duration kAssignmentTimeout = absl::Seconds(20);
constexpr absl::Duration kLastWordsTimeout = absl::Seconds(5);
constexpr absl::Duration kCloseTimeout = absl::Seconds(2);
constexpr std::chrono::milliseconds kHeartbeatInterval{500};
constexpr absl::Duration kCallTimeout = absl::Seconds(30);
constexpr size_t kMaxStepRecords = 100'000;
constexpr size_t kRecordsPerMessage = 4096;
constexpr size_t kMaxCommands = 1024;
constexpr size_t kMaxImageBytes = 1 << 20;  // of one message
constexpr int kMaxManifestBytes = 64 << 20;

class RankLinkImpl final : public RankLink {
 public:
  RankLinkImpl(const std::string& socket_path, const std::string& group_id, int64_t epoch,
               int rank);
  ~RankLinkImpl() override;

  // Starts the threads. RESOURCE_EXHAUSTED when the system gives none.
  absl::Status Start();
  absl::Status WaitForAssignment();
  // A sampler's session with the coordinator.
  absl::Status OpenSampler();

  const RankAssignment& assignment() const override { return assignment_; }
  Activity& activity() override { return activity_; }
  void Report(ProgressReport progress, std::vector<StepReportRecord> records) override;
  absl::Status PutShard(int64_t step, absl::Span<const TensorRun> runs,
                        const std::optional<CheckpointSummaryData>& summary) override;
  absl::StatusOr<CheckpointManifest> GetManifest(const std::string& job_id, int64_t step) override;
  absl::Status ReadExtents(const std::string& job_id, int64_t step,
                           absl::Span<const ReadTarget> targets) override;
  void SayFailure(const absl::Status& status, int64_t step) override;
  void SayDone(int64_t step) override;
  std::optional<RankCommandData> NextCommand(absl::Duration timeout) override;
  bool stop_requested() const override { return stop_requested_; }
  bool save_requested() const override { return save_requested_; }
  absl::Status PushSampleUpdate(const std::string& request_id, SampleUpdateData update) override;
  void FlushSampleUpdates() override;
  absl::Status KeySet(const std::string& key, const std::string& value) override;
  absl::StatusOr<std::string> KeyGet(const std::string& key, absl::Duration timeout) override;
  absl::StatusOr<int64_t> KeyAdd(const std::string& key, int64_t amount) override;
  absl::Status KeyWait(const std::vector<std::string>& keys, absl::Duration timeout) override;
  absl::StatusOr<bool> KeyCheck(const std::vector<std::string>& keys) override;
  absl::StatusOr<bool> KeyDelete(const std::string& key) override;
  absl::StatusOr<int64_t> KeyCount() override;

 private:
  void ReadSession();
  void WriteSession();
  // Makes heartbeats due, by a clock that nobody sets.
  void Pulse();
  void HandleCommand(const pb::RankCommand& command);
  void HandleSampling(const pb::SamplerCommand& command);
  void AddCommand(RankCommandData command);
  void PushCommand(RankCommandData command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The next message of the session; false when the session is at its end.
  bool NextMessage(pb::RankMessage* message);
  bool HasReport() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return progress_.has_value() || !records_.empty();
  }
  void TakeReport(pb::RankReport* report) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SayLastWords(pb::RankMessage words);
  absl::StatusOr<pb::KeyValueResponse> CallKeyValue(pb::KeyValueRequest request,
                                                    const std::string& what,
                                                    absl::Duration timeout);

  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<pb::RankPlane::Stub> rank_plane_;
  const std::unique_ptr<pb::BulkPlane::Stub> bulk_plane_;
  Activity activity_;
  RankAssignment assignment_;                // constant after WaitForAssignment
  std::unique_ptr<SamplerSession> sampler_;  // null: it trains
  grpc::ClientContext session_context_;
  std::unique_ptr<grpc::ClientReaderWriter<pb::RankMessage, pb::RankCommand>> session_;
  std::atomic<bool> stop_requested_{false}, save_requested_{false};

  absl::Mutex mutex_;
  bool assigned_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  bool read_ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool write_ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool session_over_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status session_status_ ABSL_GUARDED_BY(mutex_);
  std::optional<pb::RankMessage> last_words_ ABSL_GUARDED_BY(mutex_);
  bool last_words_said_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<ProgressReport> progress_ ABSL_GUARDED_BY(mutex_);
  std::deque<StepReportRecord> records_ ABSL_GUARDED_BY(mutex_);
  std::deque<RankCommandData> commands_ ABSL_GUARDED_BY(mutex_);

  bool heartbeat_due_ ABSL_GUARDED_BY(mutex_) = false;

  std::mutex pulse_mutex_;
  std::condition_variable pulse_end_;
  bool pulse_ends_ = false;  // under pulse_mutex_
  std::thread reader_;
  std::thread writer_;
  std::thread pulse_;
};

std::shared_ptr<grpc::Channel> ConnectTo(const std::string& socket_path) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxManifestBytes);
  return grpc::CreateCustomChannel(absl::StrCat("unix:", socket_path),
                                   grpc::InsecureChannelCredentials(), arguments);
}

RankLinkImpl::RankLinkImpl(const std::string& socket_path, const std::string& group_id,
                           int64_t epoch, int rank)
    : channel_(ConnectTo(socket_path)),
      rank_plane_(pb::RankPlane::NewStub(channel_)),
      bulk_plane_(pb::BulkPlane::NewStub(channel_)) {
  assignment_.group_id = group_id;
  assignment_.epoch = epoch;
  assignment_.rank = rank;
  session_ = rank_plane_->Session(&session_context_);
}

absl::Status RankLinkImpl::Start() {
  try {
    reader_ = std::thread([this] { ReadSession(); });
    writer_ = std::thread([this] { WriteSession(); });
    pulse_ = std::thread([this] { Pulse(); });
  } catch (const std::system_error& error) {
    session_context_.TryCancel();
    absl::MutexLock lock(&mutex_);
    // Nobody will end what has no thread.
    if (!writer_.joinable()) write_ended_ = true;
    if (!reader_.joinable()) session_over_ = true;
    return absl::ResourceExhaustedError(
        absl::StrCat("no thread for the session with the worker: ", error.what()));
  }
  return absl::OkStatus();
}

RankLinkImpl::~RankLinkImpl() {
  sampler_.reset();
  {
    const std::lock_guard lock(pulse_mutex_);
    pulse_ends_ = true;
  }
  pulse_end_.notify_all();
  if (pulse_.joinable()) pulse_.join();
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
    auto flushed = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return session_over_ || !HasReport();
    };
    mutex_.AwaitWithTimeout(absl::Condition(&flushed), kCloseTimeout);
    if (!mutex_.AwaitWithTimeout(absl::Condition(&session_over_), kCloseTimeout)) {
      session_context_.TryCancel();
    }
  }
  if (writer_.joinable()) writer_.join();
  if (reader_.joinable()) reader_.join();
}

absl::Status RankLinkImpl::WaitForAssignment() {
  absl::MutexLock lock(&mutex_);
  auto known = [this]()
                   ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return assigned_ || session_over_; };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&known), kAssignmentTimeout)) {
    return absl::DeadlineExceededError(absl::StrCat("the worker gave no assignment within ",
                                                    absl::FormatDuration(kAssignmentTimeout)));
  }
  if (!assigned_) return session_status_;
  return absl::OkStatus();
}

absl::Status RankLinkImpl::OpenSampler() {
  if (assignment_.role != RankRole::kSample) return absl::OkStatus();
  sampler_ = std::make_unique<SamplerSession>(
      assignment_.coordinator_address, GroupIdOf(assignment_),
      SamplerSession::Events{
          [this](const pb::SamplerCommand& command) { HandleSampling(command); },
          [this] { AddCommand(ForgetSamplesCommand{}); },
          [this](const absl::Status& status) {
            AddCommand(StopCommand{absl::StrCat("the coordinator: ", status.message())});
          }});
  return sampler_->Start();
}

void RankLinkImpl::ReadSession() {
  pb::RankCommand command;
  while (session_->Read(&command)) HandleCommand(command);
  {
    absl::MutexLock lock(&mutex_);
    read_ended_ = true;
    mutex_.Await(absl::Condition(&write_ended_));
  }
  const absl::Status status = FromGrpc(session_->Finish(), "session with the worker");
  absl::MutexLock lock(&mutex_);
  session_over_ = true;
  session_status_ =
      status.ok() ? absl::UnavailableError("session with the worker: it was closed") : status;
  if (closing_ || last_words_said_) return;
  PushCommand(StopCommand{absl::StrCat("the worker is gone: ", session_status_.message())});
}

void RankLinkImpl::PushCommand(RankCommandData command) {
  if (const auto* stop = std::get_if<StopCommand>(&command)) {
    (stop->save ? save_requested_ : stop_requested_) = true;
  }
  commands_.push_back(std::move(command));
}

void RankLinkImpl::AddCommand(RankCommandData command) {
  absl::MutexLock lock(&mutex_);
  PushCommand(std::move(command));
}

// While many commands wait, the session is read no further and the coordinator feels it.
void RankLinkImpl::HandleSampling(const pb::SamplerCommand& command) {
  absl::MutexLock lock(&mutex_);
  auto room = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return closing_ || stop_requested_ || commands_.size() < kMaxCommands;
  };
  mutex_.Await(absl::Condition(&room));
  switch (command.command_case()) {
    case pb::SamplerCommand::kSampleTask:
      return PushCommand(ToSampleWork(command.sample_task(), absl::Now()));
    case pb::SamplerCommand::kCalibrateTask:
      return PushCommand(ToCalibrateWork(command.calibrate_task()));
    case pb::SamplerCommand::kCancelSample:
      return PushCommand(CancelSampleCommand{command.cancel_sample().request_id()});
    case pb::SamplerCommand::COMMAND_NOT_SET:
      return;
  }
}

void RankLinkImpl::HandleCommand(const pb::RankCommand& command) {
  absl::MutexLock lock(&mutex_);
  switch (command.command_case()) {
    case pb::RankCommand::kStart:
      if (assigned_) break;
      assignment_ = ToAssignment(command.start());
      assigned_ = true;
      break;
    case pb::RankCommand::kStop:
      // A sampler has nothing to save.
      PushCommand(StopCommand{command.stop().reason(),
                              command.stop().save() && assignment_.role == RankRole::kTrain});
      break;
    case pb::RankCommand::COMMAND_NOT_SET:
      break;
  }
}

void RankLinkImpl::WriteSession() {
  pb::RankMessage message;
  pb::RankHello* hello = message.mutable_hello();
  *hello->mutable_group() = GroupIdOf(assignment_);
  hello->set_rank(assignment_.rank);
  hello->set_pid(getpid());
  bool open = session_->Write(message);
  while (open && NextMessage(&message)) open = session_->Write(message);
  if (open) session_->WritesDone();
  absl::MutexLock lock(&mutex_);
  write_ended_ = true;
}

void RankLinkImpl::Pulse() {
  std::unique_lock pulse_lock(pulse_mutex_);
  while (!pulse_end_.wait_for(pulse_lock, kHeartbeatInterval, [this] { return pulse_ends_; })) {
    absl::MutexLock lock(&mutex_);
    heartbeat_due_ = true;
  }
}

bool RankLinkImpl::NextMessage(pb::RankMessage* message) {
  message->Clear();
  absl::MutexLock lock(&mutex_);
  auto work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return read_ended_ || closing_ || heartbeat_due_ || HasReport() || last_words_.has_value();
  };
  mutex_.Await(absl::Condition(&work));
  if (read_ended_ || last_words_said_) return false;
  if (std::exchange(heartbeat_due_, false)) {
    FillHeartbeat(activity_.Read(), message->mutable_heartbeat());
    return true;
  }
  if (HasReport()) {
    TakeReport(message->mutable_report());
    return true;
  }
  if (last_words_.has_value()) {
    *message = *std::move(last_words_);
    last_words_said_ = true;
    return true;
  }
  return false;
}

void RankLinkImpl::TakeReport(pb::RankReport* report) {
  *report->mutable_group() = GroupIdOf(assignment_);
  report->set_rank(assignment_.rank);
  if (progress_.has_value()) FillProgress(*progress_, report->mutable_progress());
  progress_.reset();
  while (!records_.empty() && static_cast<size_t>(report->records_size()) < kRecordsPerMessage) {
    FillStepRecord(records_.front(), report->add_records());
    records_.pop_front();
  }
}

void RankLinkImpl::Report(ProgressReport progress, std::vector<StepReportRecord> records) {
  absl::MutexLock lock(&mutex_);
  progress_ = std::move(progress);
  records_.insert(records_.end(), records.begin(), records.end());
  if (records_.size() > kMaxStepRecords) {
    records_.erase(records_.begin(), records_.end() - static_cast<std::ptrdiff_t>(kMaxStepRecords));
  }
}

void RankLinkImpl::SayLastWords(pb::RankMessage words) {
  absl::MutexLock lock(&mutex_);
  if (last_words_.has_value() || last_words_said_) return;
  last_words_ = std::move(words);
  // The worker ends the session when it has read them.
  mutex_.AwaitWithTimeout(absl::Condition(&session_over_), kLastWordsTimeout);
}

void RankLinkImpl::SayFailure(const absl::Status& status, int64_t step) {
  pb::RankMessage words;
  words.mutable_failure()->set_status_code(static_cast<int>(status.code()));
  words.mutable_failure()->set_message(std::string(status.message()));
  words.mutable_failure()->set_step(step);
  SayLastWords(std::move(words));
}

void RankLinkImpl::SayDone(int64_t step) {
  pb::RankMessage words;
  words.mutable_done()->set_step(step);
  SayLastWords(std::move(words));
}

std::optional<RankCommandData> RankLinkImpl::NextCommand(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  auto some = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !commands_.empty(); };
  // A wait for no time at all costs as much as a short one.
  if (commands_.empty() && timeout <= absl::ZeroDuration()) return std::nullopt;
  if (!mutex_.AwaitWithTimeout(absl::Condition(&some), timeout)) return std::nullopt;
  RankCommandData command = std::move(commands_.front());
  commands_.pop_front();
  return command;
}

absl::Status RankLinkImpl::PutShard(int64_t step, absl::Span<const TensorRun> runs,
                                    const std::optional<CheckpointSummaryData>& summary) {
  ASSIGN_OR_RETURN(pb::ShardHeader header, ToShardHeader(assignment_, step, runs, summary));
  return SendShard(*bulk_plane_, header, runs, [this] { activity_.Advance(); });
}

absl::StatusOr<CheckpointManifest> RankLinkImpl::GetManifest(const std::string& job_id,
                                                             int64_t step) {
  pb::GetManifestRequest request;
  request.set_job_id(job_id);
  request.set_step(step);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallTimeout));
  pb::Manifest manifest;
  RETURN_IF_ERROR(FromGrpc(bulk_plane_->GetManifest(&context, request, &manifest),
                           absl::StrCat("manifest of job ", job_id, " at step ", step)));
  return ToCheckpointManifest(manifest);
}

absl::Status RankLinkImpl::ReadExtents(const std::string& job_id, int64_t step,
                                       absl::Span<const ReadTarget> targets) {
  return ReceiveExtents(*bulk_plane_, job_id, step, targets, [this] { activity_.Advance(); });
}

absl::Status RankLinkImpl::PushSampleUpdate(const std::string& request_id,
                                            SampleUpdateData update) {
  const bool last = std::holds_alternative<SampleFinished>(update) ||
                    std::holds_alternative<CalibrationFinished>(update) ||
                    std::holds_alternative<SamplerLoadUpdate>(update) ||
                    std::holds_alternative<absl::Status>(update);
  if (sampler_ == nullptr) return absl::FailedPreconditionError("this rank trains");
  pb::SampleUpdate message = ToSampleUpdate(request_id, std::move(update));
  if (!message.response().has_image() ||
      message.response().image().pixels().size() <= kMaxImageBytes) {
    return sampler_->Push(std::move(message), last);
  }
  const std::string pixels =
      std::move(*message.mutable_response()->mutable_image()->mutable_pixels());
  for (size_t begin = 0; begin < pixels.size(); begin += kMaxImageBytes) {
    pb::SampleUpdate part = message;
    v1::SampleResponse::Image* image = part.mutable_response()->mutable_image();
    image->set_offset(static_cast<int64_t>(begin));
    image->set_pixels(pixels.substr(begin, kMaxImageBytes));
    RETURN_IF_ERROR(sampler_->Push(std::move(part), false));
  }
  return absl::OkStatus();
}

void RankLinkImpl::FlushSampleUpdates() {
  if (sampler_ != nullptr) sampler_->Flush();
}

absl::StatusOr<pb::KeyValueResponse> RankLinkImpl::CallKeyValue(pb::KeyValueRequest request,
                                                                const std::string& what,
                                                                absl::Duration timeout) {
  *request.mutable_group() = GroupIdOf(assignment_);
  request.set_timeout_ms(absl::ToInt64Milliseconds(timeout));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout + kCallTimeout));
  pb::KeyValueResponse response;
  RETURN_IF_ERROR(FromGrpc(bulk_plane_->KeyValue(&context, request, &response),
                           absl::StrCat("rendezvous of rank ", assignment_.rank, ", ", what)));
  return response;
}

absl::Status RankLinkImpl::KeySet(const std::string& key, const std::string& value) {
  pb::KeyValueRequest request;
  request.mutable_set()->set_key(key);
  request.mutable_set()->set_value(value);
  return CallKeyValue(std::move(request), absl::StrCat("set ", key), absl::ZeroDuration()).status();
}

absl::StatusOr<std::string> RankLinkImpl::KeyGet(const std::string& key, absl::Duration timeout) {
  pb::KeyValueRequest request;
  request.mutable_get()->set_key(key);
  ASSIGN_OR_RETURN(pb::KeyValueResponse response,
                   CallKeyValue(std::move(request), absl::StrCat("get ", key), timeout));
  return std::move(*response.mutable_value());
}

absl::StatusOr<int64_t> RankLinkImpl::KeyAdd(const std::string& key, int64_t amount) {
  pb::KeyValueRequest request;
  request.mutable_add()->set_key(key);
  request.mutable_add()->set_amount(amount);
  ASSIGN_OR_RETURN(
      pb::KeyValueResponse response,
      CallKeyValue(std::move(request), absl::StrCat("add ", key), absl::ZeroDuration()));
  return response.number();
}

absl::Status RankLinkImpl::KeyWait(const std::vector<std::string>& keys, absl::Duration timeout) {
  pb::KeyValueRequest request;
  for (const std::string& key : keys) request.mutable_wait()->add_keys(key);
  const std::string what = absl::StrCat("wait for ", keys.size(), " keys from ",
                                        keys.empty() ? std::string("none") : keys.front());
  return CallKeyValue(std::move(request), what, timeout).status();
}

absl::StatusOr<bool> RankLinkImpl::KeyCheck(const std::vector<std::string>& keys) {
  pb::KeyValueRequest request;
  request.mutable_check();
  for (const std::string& key : keys) request.mutable_check()->add_keys(key);
  ASSIGN_OR_RETURN(pb::KeyValueResponse response,
                   CallKeyValue(std::move(request), "check", absl::ZeroDuration()));
  return response.number() != 0;
}

absl::StatusOr<bool> RankLinkImpl::KeyDelete(const std::string& key) {
  pb::KeyValueRequest request;
  request.mutable_del()->set_key(key);
  ASSIGN_OR_RETURN(
      pb::KeyValueResponse response,
      CallKeyValue(std::move(request), absl::StrCat("delete ", key), absl::ZeroDuration()));
  return response.number() != 0;
}

absl::StatusOr<int64_t> RankLinkImpl::KeyCount() {
  pb::KeyValueRequest request;
  request.mutable_count();
  ASSIGN_OR_RETURN(pb::KeyValueResponse response,
                   CallKeyValue(std::move(request), "count", absl::ZeroDuration()));
  return response.number();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RankLink>> RankLink::Connect(const std::string& socket_path,
                                                            const std::string& group_id,
                                                            int64_t epoch, int rank) {
  auto link = std::make_unique<RankLinkImpl>(socket_path, group_id, epoch, rank);
  RETURN_IF_ERROR(link->Start());
  RETURN_IF_ERROR(link->WaitForAssignment());
  RETURN_IF_ERROR(link->OpenSampler());
  return link;
}

}  // namespace diffmoe
