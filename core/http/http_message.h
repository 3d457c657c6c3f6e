// Requests and replies of HttpServer.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace diffmoe::http {

using Pairs = std::vector<std::pair<std::string, std::string>>;

struct Request {
  std::string method;  // GET or POST; a HEAD request is GET to its handler
  std::string path;    // decoded, without "." and ".."
  std::string query;   // as sent, what follows '?'
  std::string body;
  Pairs headers;

  // Value of a header, its name in any case; empty when absent.
  std::string_view Header(std::string_view name) const;
};

// A body that is sent while it is made. Use from the handler's thread.
class Stream {
 public:
  virtual ~Stream() = default;
  // False when the client is gone or doesn't read, or the server stops: end then.
  virtual bool Write(std::string_view bytes) = 0;
  // Whether the server stops.
  virtual bool stopping() const = 0;
};

struct Reply {
  int code = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body = {};
  Pairs headers = {};
  // Makes the body instead of `body`. Not called for a HEAD request.
  std::function<void(Stream&)> stream = nullptr;
};

// {"error": {"code": `code`, "status": `status`, "message": `message`}}.
Reply ErrorReply(int code, std::string_view status, absl::string_view message);

// HTTP's code for a canonical one: 404 for NOT_FOUND.
int HttpCodeOf(absl::StatusCode code);

// Name and value of each parameter of a query, decoded. Errors: INVALID_ARGUMENT for an escape that
// isn't one.
absl::StatusOr<Pairs> ParseQuery(std::string_view query);

}  // namespace diffmoe::http
