// The smallest HTTP client that a test needs.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace diffmoe::test {

struct HttpReply {
  int code = 0;
  std::string body;
};

// GET http://`address``path` over HTTP/1.0. `address`: "127.0.0.1:9090"; IPv4 only.
// Errors: UNAVAILABLE when nothing listens there, DEADLINE_EXCEEDED, INTERNAL for a reply that
// isn't HTTP.
absl::StatusOr<HttpReply> HttpGet(const std::string& address, const std::string& path,
                                  absl::Duration limit = absl::Seconds(10));

// `text` with everything but letters, digits and -_.~ percent-encoded, for a query parameter.
std::string UrlEscape(const std::string& text);

// Holds a TCP port on 127.0.0.1 for its life. Not thread-safe.
class HeldPort {
 public:
  // Listens on a free port; aborts when there is none.
  HeldPort();
  ~HeldPort();
  HeldPort(const HeldPort&) = delete;
  HeldPort& operator=(const HeldPort&) = delete;
  // "127.0.0.1:PORT".
  const std::string& address() const { return address_; }

 private:
  int socket_ = -1;
  std::string address_;
};

}  // namespace diffmoe::test
