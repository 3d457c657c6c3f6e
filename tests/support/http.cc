#include "tests/support/http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/status_macros.h"

namespace diffmoe::test {
namespace {

absl::Status SocketError(const std::string& address, const char* call) {
  const std::string text = absl::StrCat(call, " ", address, ": ", strerror(errno));
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINPROGRESS)
    return absl::DeadlineExceededError(text);
  return absl::UnavailableError(text);
}

absl::StatusOr<sockaddr_in> Parse(const std::string& address) {
  const std::pair<std::string, std::string> parts =
      absl::StrSplit(address, absl::MaxSplits(':', 1));
  sockaddr_in result{};
  result.sin_family = AF_INET;
  int port = 0;
  if (!absl::SimpleAtoi(parts.second, &port) ||
      inet_pton(AF_INET, parts.first.c_str(), &result.sin_addr) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected an address like 127.0.0.1:80, got '", address, "'"));
  }
  result.sin_port = htons(static_cast<uint16_t>(port));
  return result;
}

absl::StatusOr<std::string> Exchange(const std::string& address, const std::string& request,
                                     absl::Duration limit) {
  ASSIGN_OR_RETURN(const sockaddr_in target, Parse(address));
  const int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connection < 0) return SocketError(address, "socket");
  const absl::Cleanup close_connection = [connection] { close(connection); };
  const timeval timeout = absl::ToTimeval(limit);
  setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
  if (connect(connection, reinterpret_cast<const sockaddr*>(&target), sizeof(target)) != 0)
    return SocketError(address, "connect");
  if (send(connection, request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size()))
    return SocketError(address, "send");
  std::string reply;
  char buffer[16384];
  for (;;) {
    const ssize_t count = recv(connection, buffer, sizeof(buffer), 0);
    if (count < 0) return SocketError(address, "recv");
    if (count == 0) return reply;
    reply.append(buffer, static_cast<size_t>(count));
  }
}

absl::StatusOr<HttpReply> Ask(const std::string& address, const std::string& request,
                              absl::Duration limit) {
  ASSIGN_OR_RETURN(const std::string text, Exchange(address, request, limit));
  const size_t end_of_head = text.find("\r\n\r\n");
  const std::vector<std::string> first_line =
      absl::StrSplit(text.substr(0, text.find("\r\n")), ' ');
  HttpReply reply;
  if (end_of_head == std::string::npos || first_line.size() < 2 ||
      !absl::SimpleAtoi(first_line[1], &reply.code)) {
    return absl::InternalError(
        absl::StrCat("reply of ", address, " isn't HTTP: ", text.substr(0, 80)));
  }
  reply.body = text.substr(end_of_head + 4);
  return reply;
}

}  // namespace

absl::StatusOr<HttpReply> HttpGet(const std::string& address, const std::string& path,
                                  absl::Duration limit) {
  return Ask(address, absl::StrCat("GET ", path, " HTTP/1.0\r\nHost: ", address, "\r\n\r\n"),
             limit);
}

absl::StatusOr<HttpReply> HttpPost(const std::string& address, const std::string& path,
                                   const std::string& json, const std::string& headers,
                                   absl::Duration limit) {
  return Ask(address,
             absl::StrCat("POST ", path, " HTTP/1.0\r\nHost: ", address,
                          "\r\nContent-Type: application/json\r\nContent-Length: ", json.size(),
                          "\r\n", headers, "\r\n", json),
             limit);
}

RawConnection::RawConnection(const std::string& address, int receive_bytes)
    : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  if (receive_bytes > 0)
    setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
  const timeval limit{20, 0};
  setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  const absl::StatusOr<sockaddr_in> to = Parse(address);
  if (!to.ok() ||
      connect(socket_, reinterpret_cast<const sockaddr*>(&*to), sizeof(sockaddr_in)) != 0) {
    perror("test support: can't connect");
    std::abort();
  }
}

RawConnection::~RawConnection() { close(socket_); }

bool RawConnection::Send(const std::string& text) {
  return send(socket_, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
}

std::string RawConnection::ReadUntil(const std::string& end) {
  std::string text;
  char buffer[16384];
  while (end.empty() || text.find(end) == std::string::npos) {
    const ssize_t count = recv(socket_, buffer, sizeof(buffer), 0);
    if (count <= 0) break;
    text.append(buffer, static_cast<size_t>(count));
  }
  return text;
}

std::string UrlEscape(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || strchr("-_.~", c) != nullptr)
      result.push_back(c);
    else
      absl::StrAppend(&result, "%", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
  }
  return result;
}

HeldPort::HeldPort() : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (socket_ < 0 ||
      bind(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(socket_, 1) != 0 ||
      getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    perror("test support: no free port");
    std::abort();
  }
  address_ = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
}

HeldPort::~HeldPort() { close(socket_); }

}  // namespace diffmoe::test
