// A bidirectional stream that lives as long as its peer: messages in, messages out, one end. What
// waits for the peer is bounded (1,024 messages, 64 MB); a peer that doesn't read is cut off.
//
// A subclass says what a message means. SessionTable finds sessions by number for the loop.
// Thread-safe. Order: make_shared, Begin; it frees itself when the stream is over.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "core/base/log.h"
#include "server/api/grpc_status.h"
#include "server/api/stream_outbox.h"

namespace diffmoe::server {

template <typename In, typename Out>
class SessionTable;

template <typename In, typename Out>
class Session : public grpc::ServerBidiReactor<In, Out>,
                public std::enable_shared_from_this<Session<In, Out>> {
 public:
  // `kind` names the peers in the log. `table` outlives the session.
  Session(const char* kind, SessionTable<In, Out>* table, grpc::CallbackServerContext* context,
          uint64_t number)
      : kind_(kind), table_(table), context_(context), number_(number), outbox_({}) {}

  void Begin() {
    self_ = this->shared_from_this();
    this->StartRead(&incoming_);
  }

  void Send(Out message) {
    OutboxAction action = OutboxAction::kNone;
    if (outbox_.Push(std::move(message), &action)) return Do(action);
    LogWarning(kind_, "a peer doesn't read; its session is closed", {{"session", number_}});
    Cancel();
  }

  // What is queued is dropped. A write in flight ends first, so that the peer learns the status;
  // one that hangs ends with its connection, by keepalive.
  void Close(const absl::Status& status) { Do(outbox_.End(ToGrpc(status), /*drop_queue=*/true)); }

  // For one that doesn't read on by itself.
  void ReadOn() {
    absl::MutexLock lock(&mutex_);
    if (!finished_) this->StartRead(&incoming_);
  }

 protected:
  uint64_t number() const { return number_; }

  // The first message. An error closes the session with it.
  virtual absl::Status Introduce(In message) = 0;
  // A later one. `read_on` false: ReadOn will be called.
  virtual absl::Status Handle(In message, bool* read_on) = 0;
  // Once, after an Introduce that was OK: nothing comes any more.
  virtual void Left() = 0;

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {
      Leave();
      return Do(outbox_.End(grpc::Status::OK, /*drop_queue=*/true));
    }
    bool read_on = true;
    absl::Status status;
    if (introduced_) {
      status = Handle(std::move(incoming_), &read_on);
    } else {
      introduced_ = true;
      status = Introduce(std::move(incoming_));
      present_ = status.ok();
    }
    if (!status.ok()) {
      Leave();
      return Close(status);
    }
    if (read_on) ReadOn();
  }

  void OnWriteDone(bool ok) override { Do(outbox_.WriteDone(ok)); }
  void OnCancel() override { Do(outbox_.End(grpc::Status::CANCELLED, /*drop_queue=*/true)); }

  void OnDone() override {
    Leave();
    table_->Ended(number_);
    {
      absl::MutexLock lock(&mutex_);
      context_ = nullptr;
    }
    self_.reset();
  }

  void Leave() {
    if (present_.exchange(false)) Left();
  }

  void Cancel() {
    absl::MutexLock lock(&mutex_);
    if (context_ != nullptr) context_->TryCancel();
  }

  void Do(OutboxAction action) {
    if (action == OutboxAction::kNone) return;
    if (action == OutboxAction::kWrite) return this->StartWrite(&outbox_.in_flight());
    {
      absl::MutexLock lock(&mutex_);
      finished_ = true;
    }
    if (action == OutboxAction::kFinish) return this->Finish(outbox_.end_status());
    this->StartWriteAndFinish(&outbox_.in_flight(), {}, outbox_.end_status());
  }

  const char* const kind_;
  SessionTable<In, Out>* const table_;
  absl::Mutex mutex_;
  grpc::CallbackServerContext* context_ ABSL_GUARDED_BY(mutex_);  // null when the stream is over
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;                 // no operation may be started
  const uint64_t number_;
  StreamOutbox<Out> outbox_;
  In incoming_;
  bool introduced_ = false;
  std::atomic<bool> present_{false};
  std::shared_ptr<Session> self_;  // until OnDone
};

// Thread-safe. Outlives its sessions.
template <typename In, typename Out>
class SessionTable {
 public:
  grpc::ServerBidiReactor<In, Out>* Open(uint64_t number,
                                         std::shared_ptr<Session<In, Out>> session) {
    absl::Status closed;
    {
      absl::MutexLock lock(&mutex_);
      sessions_[number] = session;
      closed = closed_;
    }
    session->Begin();
    if (!closed.ok()) session->Close(closed);
    return session.get();
  }

  // Null: it has ended.
  std::shared_ptr<Session<In, Out>> Find(uint64_t number) {
    absl::MutexLock lock(&mutex_);
    const auto found = sessions_.find(number);
    return found == sessions_.end() ? nullptr : found->second;
  }

  void Ended(uint64_t number) {
    absl::MutexLock lock(&mutex_);
    sessions_.erase(number);
  }

  // Every session, and every later one.
  void CloseAll(const absl::Status& status) {
    std::vector<std::shared_ptr<Session<In, Out>>> sessions;
    {
      absl::MutexLock lock(&mutex_);
      closed_ = status;
      for (auto& [number, session] : sessions_) sessions.push_back(session);
    }
    for (const auto& session : sessions) session->Close(status);
  }

 private:
  absl::Mutex mutex_;
  std::map<uint64_t, std::shared_ptr<Session<In, Out>>> sessions_ ABSL_GUARDED_BY(mutex_);
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace diffmoe::server
