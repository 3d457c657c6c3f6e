#include "core/http/http_server.h"

#include <civetweb.h>

#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "core/base/status_macros.h"
#include "core/http/address.h"
#include "core/http/request_rules.h"

namespace diffmoe::http {
namespace {

constexpr size_t kPieceBytes = 16 << 10;
constexpr char kSafety[] =
    "Content-Security-Policy: default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n";

Request RequestOf(const mg_request_info& info) {
  Request request;
  request.method = info.request_method != nullptr ? info.request_method : "";
  request.path = info.local_uri != nullptr ? info.local_uri : "";
  request.query = info.query_string != nullptr ? info.query_string : "";
  for (int i = 0; i < info.num_headers; ++i) {
    request.headers.emplace_back(info.http_headers[i].name, info.http_headers[i].value);
  }
  return request;
}

std::string HeadOf(const mg_connection* connection, const Reply& reply, bool chunked) {
  std::string head =
      absl::StrCat("HTTP/1.1 ", reply.code, " ", mg_get_response_code_text(connection, reply.code),
                   "\r\nContent-Type: ", reply.content_type, "\r\n", kSafety);
  for (const auto& [name, value] : reply.headers) absl::StrAppend(&head, name, ": ", value, "\r\n");
  if (reply.stream == nullptr) {
    absl::StrAppend(&head, "Content-Length: ", reply.body.size(), "\r\n");
  } else if (chunked) {
    absl::StrAppend(&head, "Transfer-Encoding: chunked\r\n");
  }
  absl::StrAppend(&head, "Connection: close\r\n\r\n");
  return head;
}

// False when the client is gone, or hasn't taken all of it by `deadline`.
bool Send(mg_connection* connection, std::string_view bytes, absl::Time deadline) {
  while (!bytes.empty()) {
    const std::string_view piece = bytes.substr(0, kPieceBytes);
    if (mg_write(connection, piece.data(), piece.size()) != static_cast<int>(piece.size()))
      return false;
    bytes.remove_prefix(piece.size());
    if (!bytes.empty() && absl::Now() > deadline) return false;
  }
  return true;
}

class ClientStream final : public Stream {
 public:
  ClientStream(mg_connection* connection, bool chunked, const std::atomic<bool>* stopping,
               absl::Duration limit)
      : connection_(connection), chunked_(chunked), stopping_(*stopping), limit_(limit) {}

  bool Write(std::string_view bytes) override {
    if (broken_ || stopping_) return false;
    if (bytes.empty()) return true;
    const absl::Time deadline = absl::Now() + limit_;
    broken_ = chunked_ ? !Send(connection_,
                               absl::StrCat(absl::Hex(bytes.size()), "\r\n",
                                            absl::string_view(bytes.data(), bytes.size()), "\r\n"),
                               deadline)
                       : !Send(connection_, bytes, deadline);
    return !broken_;
  }
  bool stopping() const override { return stopping_; }
  // A stream that was cut short has no last chunk, so that its reader knows.
  void Finish() {
    if (chunked_ && !broken_ && !stopping_)
      Send(connection_, "0\r\n\r\n", absl::Now() + absl::Seconds(1));
  }

 private:
  mg_connection* connection_;
  const bool chunked_;
  const std::atomic<bool>& stopping_;
  const absl::Duration limit_;
  bool broken_ = false;
};

class CivetServer final : public HttpServer {
 public:
  explicit CivetServer(const HttpServerOptions& options)
      : options_(options), names_(OwnNames(options.address)) {}
  ~CivetServer() override {
    stopping_ = true;
    if (context_ != nullptr) Close();
  }

  absl::Status Listen();
  void Add(Route route) override {
    const absl::MutexLock lock(&mutex_);
    std::string path = route.path;
    routes_[std::move(path)] = std::make_shared<const Route>(std::move(route));
  }
  const std::string& address() const override { return address_; }

 private:
  static CivetServer* Of(mg_connection* connection) {
    return static_cast<CivetServer*>(mg_get_user_data(mg_get_context(connection)));
  }
  void Close();
  void Serve(mg_connection* connection);
  Reply Answer(mg_connection* connection, Request* request);
  void SendReply(mg_connection* connection, const Reply& reply, bool head_only);
  std::shared_ptr<const Route> Find(const std::string& path);
  absl::StatusOr<std::string> ReadBody(mg_connection* connection);

  const HttpServerOptions options_;
  const std::vector<std::string> names_;
  std::string address_;
  std::atomic<bool> stopping_{false};
  absl::Mutex mutex_;
  std::map<std::string, std::shared_ptr<const Route>> routes_ ABSL_GUARDED_BY(mutex_);
  mg_context* context_ = nullptr;
};

absl::Status CivetServer::Listen() {
  static std::once_flag once;
  std::call_once(once, [] { mg_init_library(MG_FEATURES_DEFAULT); });
  ASSIGN_OR_RETURN(const Address at, ParseAddress(options_.address));
  const std::string ports = absl::StrCat(at.host, ":", at.port);
  const std::string threads = absl::StrCat(options_.threads);
  const std::string limit = absl::StrCat(absl::ToInt64Milliseconds(options_.request_limit));
  std::array<const char*, 15> settings = {"listening_ports",
                                          ports.c_str(),
                                          "num_threads",
                                          threads.c_str(),
                                          "request_timeout_ms",
                                          limit.c_str(),
                                          "listen_backlog",
                                          "128",
                                          "connection_queue",
                                          "64",
                                          "enable_keep_alive",
                                          "no",
                                          "tcp_nodelay",
                                          "1",
                                          nullptr};
  mg_callbacks callbacks{};
  callbacks.begin_request = [](mg_connection* connection) {
    Of(connection)->Serve(connection);
    return 1;
  };
  callbacks.http_error = [](mg_connection* connection, int status, const char* message) {
    Of(connection)->SendReply(connection, ErrorReply(status, "INVALID_ARGUMENT", message), false);
    return 0;
  };
  // What clients do wrong isn't news.
  callbacks.log_message = [](const mg_connection*, const char*) { return 1; };
  context_ = mg_start(&callbacks, this, settings.data());
  if (context_ == nullptr) return WhyNotListening(at, options_.address);
  mg_server_port port{};
  if (mg_get_server_ports(context_, 1, &port) != 1)
    return absl::InternalError(absl::StrCat("no port is open on ", options_.address));
  address_ = absl::StrCat(at.host, ":", port.port);
  return absl::OkStatus();
}

// The library sees that it shall stop at the next connection, or after two seconds.
void CivetServer::Close() {
  absl::Notification closed;
  std::thread knocker([this, &closed] {
    do {
      Knock(address_);
    } while (!closed.WaitForNotificationWithTimeout(absl::Milliseconds(20)));
  });
  mg_stop(context_);
  closed.Notify();
  knocker.join();
}

std::shared_ptr<const Route> CivetServer::Find(const std::string& path) {
  const absl::MutexLock lock(&mutex_);
  std::shared_ptr<const Route> found;
  for (const auto& [key, route] : routes_) {
    const bool folder = key.size() > 1 && key.ends_with('/');
    const bool fits = key == path || (folder && path.starts_with(key));
    if (fits && (found == nullptr || key.size() > found->path.size())) found = route;
  }
  return found;
}

absl::StatusOr<std::string> CivetServer::ReadBody(mg_connection* connection) {
  const std::string too_large = absl::StrCat("body: at most ", options_.max_body_bytes, " bytes");
  const long long announced = mg_get_request_info(connection)->content_length;
  if (announced > static_cast<long long>(options_.max_body_bytes))
    return absl::OutOfRangeError(absl::StrCat(too_large, ", got ", announced));
  const absl::Time deadline = absl::Now() + options_.request_limit;
  std::string body;
  std::array<char, kPieceBytes> piece{};
  for (;;) {
    const int bytes = mg_read(connection, piece.data(), piece.size());
    if (bytes < 0) return absl::InvalidArgumentError("body: it ended early or came too slowly");
    if (bytes == 0) break;
    body.append(piece.data(), static_cast<size_t>(bytes));
    if (body.size() > options_.max_body_bytes) return absl::OutOfRangeError(too_large);
    if (absl::Now() > deadline) return absl::InvalidArgumentError("body: it came too slowly");
  }
  if (announced > 0 && body.size() < static_cast<size_t>(announced))
    return absl::InvalidArgumentError("body: it ended early or came too slowly");
  return body;
}

Reply CivetServer::Answer(mg_connection* connection, Request* request) {
  const std::shared_ptr<const Route> route = Find(request->path);
  if (route == nullptr) return ErrorReply(404, "NOT_FOUND", "there is nothing at this path");
  if (std::optional<Reply> refusal = Refuse(*route, *request, names_)) return *std::move(refusal);
  if (request->method == "POST") {
    absl::StatusOr<std::string> body = ReadBody(connection);
    if (!body.ok()) {
      const bool large = absl::IsOutOfRange(body.status());
      return ErrorReply(large ? 413 : 400, "INVALID_ARGUMENT", body.status().message());
    }
    request->body = *std::move(body);
  } else {
    request->method = "GET";
  }
  return route->handler(*request);
}

void CivetServer::Serve(mg_connection* connection) {
  Request request = RequestOf(*mg_get_request_info(connection));
  const bool head_only = request.method == "HEAD";
  SendReply(connection, Answer(connection, &request), head_only);
}

void CivetServer::SendReply(mg_connection* connection, const Reply& reply, bool head_only) {
  mg_disable_keep_alive(connection);
  const char* version = mg_get_request_info(connection)->http_version;
  const bool chunked = version != nullptr && std::string_view(version) == "1.1";
  const absl::Time deadline = absl::Now() + options_.reply_limit;
  if (!Send(connection, HeadOf(connection, reply, chunked), deadline) || head_only) return;
  if (reply.stream == nullptr) {
    Send(connection, reply.body, deadline);
    return;
  }
  ClientStream stream(connection, chunked, &stopping_, options_.request_limit);
  reply.stream(stream);
  stream.Finish();
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options) {
  auto server = std::make_unique<CivetServer>(options);
  RETURN_IF_ERROR(server->Listen());
  return server;
}

}  // namespace diffmoe::http
