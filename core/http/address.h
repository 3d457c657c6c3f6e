// "HOST:PORT" that an HTTP server listens on.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace diffmoe::http {

struct Address {
  std::string host;  // IPv4
  int port = 0;
};

// `text`: IPV4:PORT or localhost:PORT. Errors: INVALID_ARGUMENT.
absl::StatusOr<Address> ParseAddress(const std::string& text);

// Why a server can't listen there; `text` is the address as it was given. ALREADY_EXISTS naming the
// port when it is taken; PERMISSION_DENIED; INVALID_ARGUMENT for an address of another machine.
absl::Status WhyNotListening(const Address& address, const std::string& text);

// Connects to a server of this machine ("HOST:PORT") and hangs up.
void Knock(const std::string& address);

}  // namespace diffmoe::http
