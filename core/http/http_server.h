// The HTTP server of a process: metrics, health, and on the coordinator API and console.
//
// Thread-safe. A fixed pool of threads serves one request each; connections that wait for a thread
// are queued by the kernel, at most 128. A request must arrive whole within request_limit, and a
// client that takes nothing for as long is dropped, so a slow client holds one thread for a bounded
// time. Nothing is read from disk. Every reply tells browsers to load nothing from elsewhere.
//
// Start order: server, then routes, in any order; requests for a path without a route get 404. Stop
// order: end what handlers wait for, then destroy the server, which waits for handlers.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/http/http_message.h"

namespace diffmoe::http {

struct HttpServerOptions {
  std::string address =
      {};            // "HOST:PORT", HOST an IPv4 address or localhost; port 0 takes a free one
  int threads = 16;  // requests at a time
  absl::Duration request_limit = absl::Seconds(5);
  // Whole of a reply that isn't a stream.
  absl::Duration reply_limit = absl::Seconds(30);
  size_t max_body_bytes = size_t{1} << 20;
};

struct Route {
  // Whole path, or with a '/' at its end all paths that begin with it ("/" is itself only). The
  // longest match wins.
  std::string path = {};
  bool post = false;  // POST too, else GET and HEAD only
  // Answers whatever name the client knows the server by. Elsewhere the Host header must be an IP
  // address, localhost or this machine's name, so that a page of another site can't reach a server
  // on loopback through a name of its own (DNS rebinding).
  bool any_host = false;
  std::function<Reply(const Request&)> handler = nullptr;
};

class HttpServer {
 public:
  // Errors: INVALID_ARGUMENT for an address; ALREADY_EXISTS naming the port when it is taken;
  // PERMISSION_DENIED.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options);
  virtual ~HttpServer() = default;

  // A route with the same path is replaced. A POST from a browser must come from the server's own
  // pages and hold JSON.
  virtual void Add(Route route) = 0;
  // "HOST:PORT" with the port that was taken.
  virtual const std::string& address() const = 0;
};

}  // namespace diffmoe::http
