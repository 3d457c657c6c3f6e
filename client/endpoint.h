// Where the coordinator is.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace diffmoe {

struct EndpointOptions {
  std::string server;            // --server; empty: not given
  std::string data_dir;          // --data-dir; empty: the default one
  std::string traceparent = {};  // --traceparent, of every call; empty: none
};

struct Endpoint {
  std::string address;  // HOST:PORT
  std::string source;   // where that was said, in words
};

// --data-dir if given, else $XDG_DATA_HOME/diffmoe, else ~/.local/share/diffmoe.
std::string DataDir(const EndpointOptions& options);

// The first of: --server, $DIFFMOE_SERVER, the address in DATA_DIR/coordinator/coordinator.json,
// 127.0.0.1:7070.
Endpoint FindEndpoint(const EndpointOptions& options);

}  // namespace diffmoe
