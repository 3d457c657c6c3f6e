// Keeps a session with the coordinator: says Hello, sends heartbeats and what waits in the outbox,
// hands over what comes in. When the session is lost it tries again for ever, with growing delays,
// and logs every attempt.
//
// Start order: construct, Start; stop: Stop (sends what waits, for up to 2 s), destroy.
// Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "core/metrics/metrics.h"
#include "diffmoe/worker/v1/worker_plane.grpc.pb.h"
#include "worker/agent/bulk_proxy.h"
#include "worker/agent/outbox.h"
#include "worker/backoff.h"

namespace diffmoe {

// "HOST:PORT" as it is, or for "file:PATH" the grpc_address in that file. Errors: UNAVAILABLE
// naming the file.
absl::StatusOr<std::string> ResolveCoordinator(const std::string& coordinator);

class CoordinatorLink {
 public:
  struct Callbacks {
    std::function<worker::v1::Hello()> hello;
    // May block: the session is read no further until it returns.
    std::function<void(worker::v1::CoordinatorMessage)> received;
    // The coordinator speaks another version; no further attempt is made.
    std::function<void(absl::Status)> refused;
  };

  // The pointers outlive the link.
  CoordinatorLink(std::string coordinator, Callbacks callbacks, Backoff backoff, Outbox* outbox,
                  BulkProxy* bulk, metrics::WorkerMetrics* metrics);
  ~CoordinatorLink();
  void Start();
  void Stop();

 private:
  using Stream =
      grpc::ClientReaderWriterInterface<worker::v1::WorkerMessage, worker::v1::CoordinatorMessage>;
  void Run();
  // One session from connect to end; the status says why it ended.
  absl::Status RunSession(const std::string& address);
  // Hello, Welcome, and messages until the session is lost or the link stops.
  void Converse(Stream* stream, grpc::ClientContext* context, const std::string& address);
  void ReadSession(Stream* stream, const std::string& address);
  bool SendUntilLost(Stream* stream);
  bool stopping() const;

  const std::string coordinator_;
  const Callbacks callbacks_;
  Backoff backoff_;
  Outbox* const outbox_;
  BulkProxy* const bulk_;
  metrics::WorkerMetrics* const metrics_;

  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool welcomed_ ABSL_GUARDED_BY(mutex_) = false;
  bool read_ended_ ABSL_GUARDED_BY(mutex_) = false;
  worker::v1::Welcome welcome_ ABSL_GUARDED_BY(mutex_);
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int64_t sessions_ = 0;  // of the link's thread
  std::thread thread_;
};

}  // namespace diffmoe
