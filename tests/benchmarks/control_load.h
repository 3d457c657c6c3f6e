// Load on a coordinator from many clients and workers of one process.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "diffmoe/v1/training_spec.pb.h"

namespace diffmoe::bench {

// A spec that the coordinator accepts. Its job waits for a slot of kind cpu.
v1::TrainingSpec WaitingSpec();

struct CallTimes {
  double seconds = 0;             // from the first call to the last answer
  std::vector<double> latencies;  // of every call, in seconds
  absl::Status first_error;

  double rate() const { return static_cast<double>(latencies.size()) / seconds; }
  // share in [0, 1], for example 0.99.
  double Percentile(double share) const;
};

// Makes `calls` calls from `clients` threads. Every thread asks `new_client` once for the function
// that makes a call with a given number, so that each may have a connection of its own.
CallTimes RunClients(int clients, int64_t calls,
                     const std::function<std::function<absl::Status(int64_t)>()>& new_client);

// Simulated workers: each keeps a session open and sends a heartbeat every `interval_ms`. All have
// one slot of a kind that no job wants. Destroying it ends the sessions.
class WorkerCrowd {
 public:
  WorkerCrowd(const std::string& address, int workers, int64_t interval_ms);
  ~WorkerCrowd();
  // Sessions that the coordinator has welcomed.
  int welcomed() const;
  int64_t heartbeats() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace diffmoe::bench
