// Which requests a route takes, before its handler sees them. Pure functions but for OwnNames.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/http/http_server.h"

namespace diffmoe::http {

// Names by which clients may call a server that listens on `address`: its host and this machine's
// name, with and without its domain.
std::vector<std::string> OwnNames(const std::string& address);

// Whether a Host header is an IP address, localhost or one of `names`; the port doesn't count, and
// an absent header is fine (no browser leaves it out).
bool KnownHost(std::string_view host, const std::vector<std::string>& names);

// The reply to a request that the route doesn't take: 403 for a strange host or origin, 405 for a
// method, 415 for a POST that isn't JSON.
std::optional<Reply> Refuse(const Route& route, const Request& request,
                            const std::vector<std::string>& names);

}  // namespace diffmoe::http
