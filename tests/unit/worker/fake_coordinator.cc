#include "tests/unit/worker/fake_coordinator.h"

#include <xxhash.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace diffmoe::test {

namespace pb = worker::v1;

void FakeCoordinator::Start(const std::string& address) {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = false;
  }
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(static_cast<pb::WorkerPlane::Service*>(this));
  builder.RegisterService(static_cast<pb::SamplerPlane::Service*>(this));
  builder.RegisterService(static_cast<pb::BulkPlane::Service*>(this));
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) std::abort();
  address_ = absl::StrCat("127.0.0.1:", port);
}

void FakeCoordinator::Stop() {
  if (server_ == nullptr) return;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_ = nullptr;
}

void FakeCoordinator::RefuseSessions(grpc::Status status) {
  absl::MutexLock lock(&mutex_);
  refusal_ = std::move(status);
}

void FakeCoordinator::FailNextShard(grpc::Status status) {
  absl::MutexLock lock(&mutex_);
  shard_error_ = std::move(status);
}

void FakeCoordinator::HoldCommits(bool hold) {
  absl::MutexLock lock(&mutex_);
  hold_commits_ = hold;
}

std::vector<int64_t> FakeCoordinator::Commits() const {
  absl::MutexLock lock(&mutex_);
  std::vector<int64_t> steps;
  for (const auto& [step, epoch] : commits_) steps.push_back(step);
  return steps;
}

std::map<std::string, std::string> FakeCoordinator::Tensors(int64_t step) const {
  absl::MutexLock lock(&mutex_);
  std::map<std::string, std::string> tensors;
  for (const auto& [rank, shard] : shards_.at(step)) {
    for (const pb::TensorSlice& slice : shard.header.slices()) {
      size_t bytes = sizeof(float);
      for (const int64_t size : slice.global_shape()) bytes *= static_cast<size_t>(size);
      std::string& whole = tensors[slice.tensor()];
      whole.resize(bytes);
      whole.replace(static_cast<size_t>(slice.first_element()) * sizeof(float),
                    static_cast<size_t>(slice.elements()) * sizeof(float), shard.bytes,
                    static_cast<size_t>(slice.shard_offset()),
                    static_cast<size_t>(slice.elements()) * sizeof(float));
    }
    for (const float threshold : shard.header.summary().thresholds()) {
      tensors["thresholds"].append(reinterpret_cast<const char*>(&threshold), sizeof(threshold));
    }
  }
  return tensors;
}

bool FakeCoordinator::Send(const pb::CoordinatorMessage& message) {
  absl::MutexLock lock(&mutex_);
  return stream_ != nullptr && stream_->Write(message);
}

bool FakeCoordinator::WaitForSession(int number, absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  auto open = [this, number]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return sessions_ >= number && stream_ != nullptr;
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&open), limit);
}

std::vector<pb::WorkerMessage> FakeCoordinator::Messages() const {
  absl::MutexLock lock(&mutex_);
  return messages_;
}

bool FakeCoordinator::WaitFor(const std::function<bool(const pb::WorkerMessage&)>& accept,
                              pb::WorkerMessage* out, absl::Duration limit) const {
  absl::MutexLock lock(&mutex_);
  auto heard = [this, &accept, out]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    auto found = std::find_if(messages_.rbegin(), messages_.rend(), accept);
    if (found == messages_.rend()) return false;
    if (out != nullptr) *out = *found;
    return true;
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&heard), limit);
}

std::vector<pb::SampleUpdate> FakeCoordinator::Samples() const {
  absl::MutexLock lock(&mutex_);
  return samples_;
}

grpc::Status FakeCoordinator::Session(grpc::ServerContext*, Stream* stream) {
  pb::WorkerMessage message;
  if (!stream->Read(&message)) return grpc::Status::OK;
  {
    absl::MutexLock lock(&mutex_);
    if (!refusal_.ok()) return refusal_;
    messages_.push_back(message);
    pb::CoordinatorMessage welcome;
    welcome.mutable_welcome()->set_heartbeat_interval_ms(50);
    welcome.mutable_welcome()->set_silence_limit_ms(1000);
    stream->Write(welcome);
    stream_ = stream;
    ++sessions_;
  }
  while (stream->Read(&message)) {
    absl::MutexLock lock(&mutex_);
    messages_.push_back(message);
  }
  absl::MutexLock lock(&mutex_);
  stream_ = nullptr;
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::PutShard(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<pb::PutShardResponse, pb::PutShardRequest>* stream) {
  Shard shard;
  pb::PutShardRequest request;
  pb::PutShardResponse response;
  bool ended = false;
  while (!ended && stream->Read(&request)) {
    if (request.has_header()) shard.header = request.header();
    ended = request.has_end();
    if (!request.has_data()) continue;
    const std::string& bytes = request.data().bytes();
    {
      absl::MutexLock lock(&mutex_);
      if (!shard_error_.ok()) return std::exchange(shard_error_, grpc::Status::OK);
    }
    if (bytes.size() > (1u << 20) ||
        XXH3_64bits(bytes.data(), bytes.size()) != request.data().xxh3()) {
      return grpc::Status(grpc::StatusCode::DATA_LOSS, "chunk too large or with a wrong checksum");
    }
    shard.bytes += bytes;
    response.set_received_bytes(static_cast<int64_t>(shard.bytes.size()));
    stream->Write(response);
  }
  if (!ended) return grpc::Status(grpc::StatusCode::ABORTED, "no end");
  if (static_cast<int64_t>(shard.bytes.size()) != shard.header.bytes()) {
    return grpc::Status(grpc::StatusCode::DATA_LOSS, "size differs from the header");
  }
  response.set_received_bytes(static_cast<int64_t>(shard.bytes.size()));
  response.set_committed(true);
  const int64_t step = shard.header.step(), epoch = shard.header.group().epoch();
  {
    absl::MutexLock lock(&mutex_);
    Shards& shards = shards_[step];
    const auto attempt = [](const pb::GroupId& group) {
      return std::pair(group.id(), group.epoch());
    };
    if (!shards.empty() &&
        attempt(shards.begin()->second.header.group()) != attempt(shard.header.group())) {
      shards.clear();
    }
    const int32_t rank = shard.header.rank();
    shards[rank] = std::move(shard);
  }
  grpc::Status committed = AwaitCommit(step, epoch, *context);
  if (committed.ok()) stream->Write(response);
  return committed;
}

bool FakeCoordinator::Complete(const Shards& shards) const {
  return !shards.empty() &&
         static_cast<int64_t>(shards.size()) == shards.begin()->second.header.world_size();
}

grpc::Status FakeCoordinator::AwaitCommit(int64_t step, int64_t epoch,
                                          const grpc::ServerContext& context) {
  absl::MutexLock lock(&mutex_);
  auto settled = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || (!hold_commits_ && Complete(shards_[step]));
  };
  while (!mutex_.AwaitWithTimeout(absl::Condition(&settled), absl::Milliseconds(50))) {
    if (context.IsCancelled()) return grpc::Status(grpc::StatusCode::CANCELLED, "the rank is gone");
  }
  if (stopping_) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the coordinator stops");
  const std::pair<int64_t, int64_t> commit{step, epoch};
  if (commits_.empty() || commits_.back() != commit) commits_.push_back(commit);
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::GetManifest(grpc::ServerContext*,
                                          const pb::GetManifestRequest* request,
                                          pb::Manifest* response) {
  absl::MutexLock lock(&mutex_);
  auto found = shards_.find(request->step());
  if (found == shards_.end() || !Complete(found->second)) {
    return grpc::Status(grpc::StatusCode::NOT_FOUND,
                        absl::StrCat("no checkpoint at step ", request->step()), "details");
  }
  response->set_job_id(request->job_id());
  response->set_step(request->step());
  response->set_world_size(found->second.begin()->second.header.world_size());
  for (const auto& [rank, shard] : found->second) {
    for (const pb::TensorSlice& slice : shard.header.slices()) {
      pb::SlicePlace* place = response->add_slices();
      *place->mutable_slice() = slice;
      place->set_shard(rank);
    }
  }
  *response->mutable_summary() = found->second.at(0).header.summary();
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::ReadExtents(grpc::ServerContext*,
                                          const pb::ReadExtentsRequest* request,
                                          grpc::ServerWriter<pb::ReadExtentsResponse>* writer) {
  std::string bytes;
  {
    absl::MutexLock lock(&mutex_);
    auto found = shards_.find(request->step());
    if (found == shards_.end()) return grpc::Status(grpc::StatusCode::NOT_FOUND, "no checkpoint");
    for (const pb::Extent& extent : request->extents()) {
      bytes += found->second.at(extent.shard())
                   .bytes.substr(static_cast<size_t>(extent.offset()),
                                 static_cast<size_t>(extent.bytes()));
    }
  }
  pb::ReadExtentsResponse response;
  for (size_t offset = 0; offset < bytes.size(); offset += 1u << 20) {
    response.set_bytes(bytes.substr(offset, 1u << 20));
    writer->Write(response);
  }
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::Get(const pb::KeyValueRequest& request,
                                  const std::vector<std::string>& keys) {
  auto there = [this, &keys]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || std::all_of(keys.begin(), keys.end(),
                                    [this](const auto& key) { return keys_.count(key) != 0; });
  };
  const bool found =
      mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Milliseconds(request.timeout_ms()));
  if (found && !stopping_) return grpc::Status::OK;
  return grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, absl::StrCat("no key ", keys.front()));
}

grpc::Status FakeCoordinator::KeyValue(grpc::ServerContext*, const pb::KeyValueRequest* request,
                                       pb::KeyValueResponse* response) {
  // One namespace per (group, epoch).
  const std::string prefix =
      absl::StrCat(request->group().id(), "/", request->group().epoch(), "/");
  absl::MutexLock lock(&mutex_);
  int64_t number = 0;
  switch (request->op_case()) {
    case pb::KeyValueRequest::kSet:
      keys_[prefix + request->set().key()] = request->set().value();
      break;
    case pb::KeyValueRequest::kGet: {
      grpc::Status status = Get(*request, {prefix + request->get().key()});
      if (!status.ok()) return status;
      response->set_value(keys_[prefix + request->get().key()]);
      break;
    }
    case pb::KeyValueRequest::kAdd: {
      std::string& value = keys_[prefix + request->add().key()];
      number = (absl::SimpleAtoi(value, &number) ? number : 0) + request->add().amount();
      value = absl::StrCat(number);
      break;
    }
    case pb::KeyValueRequest::kWait: {
      std::vector<std::string> keys;
      for (const std::string& key : request->wait().keys()) keys.push_back(prefix + key);
      return Get(*request, keys);
    }
    case pb::KeyValueRequest::kCheck:
      number = std::all_of(request->check().keys().begin(), request->check().keys().end(),
                           [&](const auto& key) { return keys_.count(prefix + key) != 0; });
      break;
    case pb::KeyValueRequest::kDel:
      number = static_cast<int64_t>(keys_.erase(prefix + request->del().key()));
      break;
    case pb::KeyValueRequest::kCount:
      number = std::count_if(keys_.begin(), keys_.end(), [&prefix](const auto& entry) {
        return entry.first.rfind(prefix, 0) == 0;
      });
      break;
    case pb::KeyValueRequest::OP_NOT_SET:
      return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no operation");
  }
  response->set_number(number);
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::Session(grpc::ServerContext*, SamplerStream* stream) {
  pb::SamplerMessage message;
  if (!stream->Read(&message) || !message.has_hello()) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no SamplerHello");
  }
  {
    absl::MutexLock lock(&mutex_);
    sampler_ = stream;
    sampler_end_ = grpc::Status::OK;
    ++sampler_sessions_;
  }
  while (stream->Read(&message)) {
    absl::MutexLock lock(&mutex_);
    ++sample_messages_;
    for (const pb::SampleUpdate& update : message.updates().updates()) samples_.push_back(update);
    if (!sampler_end_.ok()) break;
  }
  absl::MutexLock lock(&mutex_);
  sampler_ = nullptr;
  return sampler_end_;
}

bool FakeCoordinator::WaitForSampler(int number, absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  auto open = [this, number]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return sampler_ != nullptr && sampler_sessions_ >= number;
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&open), limit);
}

bool FakeCoordinator::Send(const pb::SamplerCommand& command) {
  absl::MutexLock lock(&mutex_);
  return sampler_ != nullptr && sampler_->Write(command);
}

void FakeCoordinator::EndSampler(const grpc::Status& status) {
  absl::MutexLock lock(&mutex_);
  sampler_end_ = status;
}

int FakeCoordinator::SampleMessages() const {
  absl::MutexLock lock(&mutex_);
  return sample_messages_;
}

grpc::Status FakeCoordinator::PushLogs(grpc::ServerContext* context,
                                       grpc::ServerReader<pb::LogLines>* reader,
                                       pb::PushLogsResponse*) {
  pb::LogLines lines;
  std::string id;
  while (reader->Read(&lines)) {
    id = lines.read_id();
    absl::MutexLock lock(&mutex_);
    for (const v1::LogLine& line : lines.lines()) {
      absl::StrAppend(&logs_[id], line.rank(), " ", line.text(), "|");
    }
    for (const std::string& notice : lines.notices()) absl::StrAppend(&logs_[id], notice, "|");
  }
  absl::MutexLock lock(&mutex_);
  if (!context->IsCancelled()) logs_[id] += "END";
  return grpc::Status::OK;
}

std::string FakeCoordinator::Logs(const std::string& read_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = logs_.find(read_id);
  return found == logs_.end() ? "" : found->second;
}

}  // namespace diffmoe::test
