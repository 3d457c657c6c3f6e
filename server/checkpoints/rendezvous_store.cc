#include "server/checkpoints/rendezvous_store.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "diffmoe/v1/error.pb.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

using worker::v1::GroupId;
using worker::v1::KeyValueRequest;
using worker::v1::KeyValueResponse;

constexpr size_t kMaxKey = size_t{1} << 10;
constexpr size_t kMaxValue = size_t{1} << 20;
constexpr size_t kMaxKeys = 65'536;
constexpr size_t kMaxBytes = size_t{64} << 20;
constexpr size_t kMaxNamespaces = 1024;
constexpr int kMaxKeysPerCall = 4096;
constexpr absl::Duration kPoll = absl::Milliseconds(200);

absl::Status CheckKey(const std::string& key) {
  if (!key.empty() && key.size() <= kMaxKey) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a key has 1 to ", kMaxKey, " bytes, got ", key.size()));
}

template <typename Keys>
absl::Status CheckKeyList(const Keys& keys) {
  if (keys.size() > kMaxKeysPerCall) {
    return absl::InvalidArgumentError(
        absl::StrCat(keys.size(), " keys in one call, at most ", kMaxKeysPerCall));
  }
  for (const std::string& key : keys) RETURN_IF_ERROR(CheckKey(key));
  return absl::OkStatus();
}

KeyValueResponse Number(int64_t number) {
  KeyValueResponse response;
  response.set_number(number);
  return response;
}

}  // namespace

struct RendezvousStore::Namespace {
  absl::StatusOr<KeyValueResponse> Set(const std::string& key, const std::string& value);
  absl::StatusOr<KeyValueResponse> Add(const std::string& key, int64_t amount);
  absl::StatusOr<KeyValueResponse> Delete(const std::string& key);
  // Waits until all keys are there.
  absl::Status Wait(const std::vector<std::string>& keys, absl::Duration timeout,
                    absl::FunctionRef<bool()> cancelled) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  bool HasAll(const std::vector<std::string>& keys) const ABSL_SHARED_LOCKS_REQUIRED(mutex) {
    for (const std::string& key : keys) {
      if (!values.contains(key)) return false;
    }
    return true;
  }
  void End(const absl::Status& why) {
    absl::MutexLock lock(&mutex);
    ended = why;
    changed.SignalAll();
  }

  absl::Mutex mutex;
  absl::CondVar changed;
  std::map<std::string, std::string> values ABSL_GUARDED_BY(mutex);
  size_t bytes ABSL_GUARDED_BY(mutex) = 0;
  absl::Status ended ABSL_GUARDED_BY(mutex);

 private:
  absl::Status Store(const std::string& key, const std::string& value)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
};

absl::Status RendezvousStore::Namespace::Store(const std::string& key, const std::string& value) {
  RETURN_IF_ERROR(ended);
  const auto found = values.find(key);
  const size_t before = found == values.end() ? 0 : key.size() + found->second.size();
  const size_t after = bytes - before + key.size() + value.size();
  if (after > kMaxBytes || (found == values.end() && values.size() >= kMaxKeys)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the rendezvous store of a group holds at most ", kMaxKeys, " keys and ",
                     kMaxBytes, " bytes"));
  }
  bytes = after;
  values.insert_or_assign(key, value);
  changed.SignalAll();
  return absl::OkStatus();
}

absl::StatusOr<KeyValueResponse> RendezvousStore::Namespace::Set(const std::string& key,
                                                                 const std::string& value) {
  RETURN_IF_ERROR(CheckKey(key));
  if (value.size() > kMaxValue) {
    return absl::InvalidArgumentError(
        absl::StrCat("a value has at most ", kMaxValue, " bytes, got ", value.size()));
  }
  absl::MutexLock lock(&mutex);
  RETURN_IF_ERROR(Store(key, value));
  return KeyValueResponse();
}

// The number is kept as decimal text, as c10d's stores do.
absl::StatusOr<KeyValueResponse> RendezvousStore::Namespace::Add(const std::string& key,
                                                                 int64_t amount) {
  RETURN_IF_ERROR(CheckKey(key));
  absl::MutexLock lock(&mutex);
  int64_t number = 0;
  const auto found = values.find(key);
  if (found != values.end() && !absl::SimpleAtoi(found->second, &number)) {
    return absl::InvalidArgumentError(
        absl::StrCat("key \"", EscapeForLog(key), "\" doesn't hold a number"));
  }
  if (__builtin_add_overflow(number, amount, &number)) {
    return absl::InvalidArgumentError(
        absl::StrCat("key \"", EscapeForLog(key), "\" would overflow"));
  }
  RETURN_IF_ERROR(Store(key, absl::StrCat(number)));
  return Number(number);
}

absl::StatusOr<KeyValueResponse> RendezvousStore::Namespace::Delete(const std::string& key) {
  RETURN_IF_ERROR(CheckKey(key));
  absl::MutexLock lock(&mutex);
  const auto found = values.find(key);
  if (found == values.end()) return Number(0);
  bytes -= key.size() + found->second.size();
  values.erase(found);
  return Number(1);
}

absl::Status RendezvousStore::Namespace::Wait(const std::vector<std::string>& keys,
                                              absl::Duration timeout,
                                              absl::FunctionRef<bool()> cancelled) {
  const absl::Time deadline = absl::Now() + std::min(timeout, kMaxWait);
  while (ended.ok() && !HasAll(keys)) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) {
      std::vector<std::string> missing;
      for (const std::string& key : keys) {
        if (!values.contains(key) && missing.size() < 8) missing.push_back(EscapeForLog(key));
      }
      return absl::DeadlineExceededError(absl::StrCat("waited ", absl::FormatDuration(timeout),
                                                      " for rendezvous keys ",
                                                      absl::StrJoin(missing, ", ")));
    }
    changed.WaitWithTimeout(&mutex, std::min(left, kPoll));
    if (cancelled()) return absl::CancelledError("the caller has gone");
  }
  return ended;
}

RendezvousStore::RendezvousStore() = default;
RendezvousStore::~RendezvousStore() = default;

absl::StatusOr<std::shared_ptr<RendezvousStore::Namespace>> RendezvousStore::Find(
    const GroupId& group) {
  absl::MutexLock lock(&mutex_);
  if (shut_down_) return absl::UnavailableError("the coordinator is shutting down");
  const auto key = std::make_pair(group.id(), group.epoch());
  const auto found = namespaces_.find(key);
  if (found != namespaces_.end()) return found->second;
  if (namespaces_.size() >= kMaxNamespaces) {
    return absl::ResourceExhaustedError(
        absl::StrCat(kMaxNamespaces, " groups have rendezvous stores already"));
  }
  return namespaces_.emplace(key, std::make_shared<Namespace>()).first->second;
}

absl::StatusOr<KeyValueResponse> RendezvousStore::Execute(const KeyValueRequest& request,
                                                          absl::FunctionRef<bool()> cancelled) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Namespace> keys, Find(request.group()));
  const absl::Duration timeout = absl::Milliseconds(std::max<int64_t>(0, request.timeout_ms()));
  switch (request.op_case()) {
    case KeyValueRequest::kSet:
      return keys->Set(request.set().key(), request.set().value());
    case KeyValueRequest::kAdd:
      return keys->Add(request.add().key(), request.add().amount());
    case KeyValueRequest::kDel:
      return keys->Delete(request.del().key());
    case KeyValueRequest::kGet: {
      const std::string& key = request.get().key();
      RETURN_IF_ERROR(CheckKey(key));
      absl::MutexLock lock(&keys->mutex);
      RETURN_IF_ERROR(keys->Wait({key}, timeout, cancelled));
      KeyValueResponse response;
      response.set_value(keys->values.at(key));
      return response;
    }
    case KeyValueRequest::kWait: {
      RETURN_IF_ERROR(CheckKeyList(request.wait().keys()));
      absl::MutexLock lock(&keys->mutex);
      RETURN_IF_ERROR(keys->Wait({request.wait().keys().begin(), request.wait().keys().end()},
                                 timeout, cancelled));
      return KeyValueResponse();
    }
    case KeyValueRequest::kCheck: {
      RETURN_IF_ERROR(CheckKeyList(request.check().keys()));
      absl::MutexLock lock(&keys->mutex);
      return Number(keys->HasAll({request.check().keys().begin(), request.check().keys().end()}));
    }
    case KeyValueRequest::kCount: {
      absl::MutexLock lock(&keys->mutex);
      return Number(static_cast<int64_t>(keys->values.size()));
    }
    case KeyValueRequest::OP_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("a key-value request must name one operation");
}

void RendezvousStore::EndGroup(const GroupId& group) {
  const absl::Status ended = MakeError(
      absl::StatusCode::kAborted, v1::STALE_EPOCH,
      absl::StrCat("epoch ", group.epoch(), " of ", EscapeForLog(group.id()), " has ended"));
  absl::MutexLock lock(&mutex_);
  auto entry = namespaces_.lower_bound({group.id(), INT64_MIN});
  while (entry != namespaces_.end() && entry->first.first == group.id() &&
         entry->first.second <= group.epoch()) {
    entry->second->End(ended);
    entry = namespaces_.erase(entry);
  }
}

void RendezvousStore::Shutdown() {
  absl::MutexLock lock(&mutex_);
  shut_down_ = true;
  for (const auto& [key, keys] : namespaces_)
    keys->End(absl::UnavailableError("the coordinator is shutting down"));
  namespaces_.clear();
}

}  // namespace diffmoe::server
