// The worker: one per host. Offers slots, runs rank processes on them for the coordinator, serves
// their sessions and forwards their bulk data.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/base/log_setup.h"

namespace diffmoe {

struct AgentOptions {
  std::string directory;
  std::string coordinator;                // HOST:PORT, or file:PATH of a coordinator.json
  std::vector<std::string> slot_devices;  // one per slot: "cpu" or "cuda:N"
  std::string metrics_listen = "127.0.0.1:0";
  // Address of this host on which its ranks listen for ranks of other hosts.
  std::string rank_address = "127.0.0.1";
  std::string rank_binary;
  LogFormat log_format = LogFormat::kText;        // of the ranks
  std::string trace_file;                         // of the ranks; empty: none
  absl::Duration stop_grace = absl::Seconds(5);   // of the ranks, when the worker is told to end
  absl::Duration keep_series = absl::Minutes(5);  // of a job after its end
  absl::Duration first_retry = absl::Milliseconds(250);  // of the session with the coordinator
  // Short enough that a coordinator that is back has its workers within 2 s.
  absl::Duration retry_limit = absl::Milliseconds(1'500);
};

// Blocks the signals that RunAgent handles (SIGTERM, SIGINT, SIGHUP, SIGCHLD). Call it before any
// thread is started.
void BlockAgentSignals();

// Runs until SIGTERM, SIGINT or SIGHUP (training ranks save a checkpoint then, if they can within
// most of the grace, and end; a second signal kills them at once)
// or until the coordinator refuses this version. Call it from the main thread. Errors:
// ALREADY_EXISTS, directory or port in use; NOT_FOUND, no rank binary; PERMISSION_DENIED and other
// file errors; FAILED_PRECONDITION, another protocol version.
absl::Status RunAgent(const AgentOptions& options);

}  // namespace diffmoe
