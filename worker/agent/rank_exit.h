// Why a rank ended, from what it said, what was asked of it and how its process died. Pure and
// thread-safe.
#pragma once

#include <optional>
#include <string>

#include "diffmoe/worker/v1/rank_plane.pb.h"
#include "diffmoe/worker/v1/worker_plane.pb.h"
#include "worker/agent/process.h"

namespace diffmoe {

struct RankEnd {
  ProcessExit exit = {};
  bool done = false;                                              // the rank said so
  std::optional<worker::v1::RankFailure> failure = std::nullopt;  // the rank said so
  bool stop_requested = false;
  std::string stop_reason = {};
  std::string kill_reason = {};  // why the worker killed it by itself; empty when it didn't
  std::string hang = {};  // why the worker killed it as hung, in a sentence; empty when it didn't
  bool out_of_memory = false;  // the system killed a process of this worker's memory group lately
  std::string log_tail = {};
};

// Fills cause, exit_code, signal, status_code and message.
void FillExit(const RankEnd& end, worker::v1::RankExited* out);

}  // namespace diffmoe
