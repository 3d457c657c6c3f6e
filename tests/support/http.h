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

// POST of a JSON text, as HttpGet. `headers`: more of them, each ending with "\r\n".
absl::StatusOr<HttpReply> HttpPost(const std::string& address, const std::string& path,
                                   const std::string& json, const std::string& headers = "",
                                   absl::Duration limit = absl::Seconds(10));

// A connection to 127.0.0.1 whose bytes a test sends and reads as it likes. Use from one thread.
class RawConnection {
 public:
  // `receive_bytes`: size of the kernel's buffer, so that little fits into it; 0: the default.
  // Aborts when nothing listens.
  explicit RawConnection(const std::string& address, int receive_bytes = 0);
  ~RawConnection();
  RawConnection(const RawConnection&) = delete;
  RawConnection& operator=(const RawConnection&) = delete;

  // False when the other side has closed.
  bool Send(const std::string& text);
  // What comes until `end` is in it, the server closes, or nothing has come for 20 s.
  std::string ReadUntil(const std::string& end);
  std::string ReadAll() { return ReadUntil(""); }

 private:
  int socket_ = -1;
};

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
