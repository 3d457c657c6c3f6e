// A whole coordinator in one object: stores, loop, gRPC server, HTTP server. main.cc runs one;
// tests run several.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/clock.h"
#include "server/api/log_reads.h"
#include "server/loop.h"
#include "server/state/state.h"

namespace diffmoe::server {

struct CoordinatorOptions {
  std::string data_dir;
  std::string listen = "127.0.0.1:7070";          // port 0 takes a free one
  std::string metrics_listen = "127.0.0.1:7071";  // empty: no endpoint
  bool console_writes = false;                    // HTTP API: sampling and changes of jobs too
  bool accept_data_loss = false;                  // open damaged stores and keep what is left
  StateOptions state;
  LoopOptions loop;
  LogReadOptions logs;
  std::string trace_file;  // spans as OTLP JSON; empty: none
};

class Coordinator {
 public:
  // Opens the data directory, goes on where the records end, serves, and writes
  // data_dir/coordinator.json. `on_fatal` is called (from another thread) when records can't be
  // written any more: stop then. Errors: as DirectoryLock::Acquire and RecordStore::Open;
  // ALREADY_EXISTS when a port is in use; INVALID_ARGUMENT for an address.
  static absl::StatusOr<std::unique_ptr<Coordinator>> Start(
      const CoordinatorOptions& options, std::function<void(absl::Status)> on_fatal);

  virtual ~Coordinator() = default;

  virtual const std::string& grpc_address() const = 0;
  virtual const std::string& metrics_address() const = 0;

  // Refuses new work, commits what was accepted, ends all streams. Workers go on with their ranks.
  // Blocks for up to about 5 s. Called by the destructor as well.
  virtual void Stop() = 0;
};

}  // namespace diffmoe::server
