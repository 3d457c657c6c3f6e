#include "core/http/request_rules.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace diffmoe::http {
namespace {

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

std::string_view WithoutPort(std::string_view host) {
  if (host.starts_with('[')) {
    const size_t end = host.find(']');
    const bool port = end != std::string_view::npos && host.substr(end + 1).starts_with(':');
    return port ? host.substr(0, end + 1) : host;
  }
  return host.substr(0, host.find(':'));
}

bool IsAddress(std::string_view host) {
  in_addr v4;
  in6_addr v6;
  if (host.size() > 2 && host.starts_with('[') && host.ends_with(']'))
    return inet_pton(AF_INET6, std::string(host.substr(1, host.size() - 2)).c_str(), &v6) == 1;
  return inet_pton(AF_INET, std::string(host).c_str(), &v4) == 1;
}

// A page of another site may send a POST without asking, but it can't choose its Origin, nor send
// this type of content without asking.
std::optional<Reply> RefusePost(const Request& request) {
  const std::string_view origin = request.Header("Origin");
  const std::string own = absl::StrCat("http://", View(request.Header("Host")));
  if (!origin.empty() && !absl::EqualsIgnoreCase(View(origin), own)) {
    return ErrorReply(403, "PERMISSION_DENIED",
                      absl::StrCat("header Origin: expected ", own, ", got ", View(origin)));
  }
  const std::string_view type = request.Header("Content-Type");
  if (!absl::EqualsIgnoreCase(View(type.substr(0, type.find(';'))), "application/json")) {
    return ErrorReply(
        415, "INVALID_ARGUMENT",
        absl::StrCat("header Content-Type: expected application/json, got \"", View(type), "\""));
  }
  return std::nullopt;
}

}  // namespace

std::vector<std::string> OwnNames(const std::string& address) {
  std::vector<std::string> names = {address.substr(0, address.rfind(':'))};
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) == 0) {
    const std::string full = name.data();
    names.push_back(full);
    names.push_back(full.substr(0, full.find('.')));
  }
  return names;
}

bool KnownHost(std::string_view host, const std::vector<std::string>& names) {
  const std::string_view name = WithoutPort(host);
  return name.empty() || IsAddress(name) || absl::EqualsIgnoreCase(View(name), "localhost") ||
         std::any_of(names.begin(), names.end(), [name](const std::string& own) {
           return absl::EqualsIgnoreCase(View(name), own);
         });
}

std::optional<Reply> Refuse(const Route& route, const Request& request,
                            const std::vector<std::string>& names) {
  const std::string_view host = request.Header("Host");
  if (!route.any_host && !KnownHost(host, names)) {
    return ErrorReply(403, "PERMISSION_DENIED",
                      absl::StrCat("header Host: expected an IP address, localhost or this "
                                   "machine's name, got \"",
                                   View(host), "\""));
  }
  const bool read = request.method == "GET" || request.method == "HEAD";
  if (read) return std::nullopt;
  if (request.method != "POST" || !route.post) {
    Reply reply = ErrorReply(405, "INVALID_ARGUMENT",
                             absl::StrCat("method: expected GET", route.post ? " or POST" : "",
                                          ", got ", request.method));
    reply.headers = {{"Allow", route.post ? "GET, HEAD, POST" : "GET, HEAD"}};
    return reply;
  }
  return RefusePost(request);
}

}  // namespace diffmoe::http
