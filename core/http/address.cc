#include "core/http/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace diffmoe::http {
namespace {

sockaddr_in NameOf(const Address& address) {
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_port = htons(static_cast<uint16_t>(address.port));
  inet_pton(AF_INET, address.host.c_str(), &name.sin_addr);
  return name;
}

}  // namespace

absl::StatusOr<Address> ParseAddress(const std::string& text) {
  const size_t colon = text.rfind(':');
  Address parsed;
  if (colon != std::string::npos && absl::SimpleAtoi(text.substr(colon + 1), &parsed.port) &&
      parsed.port >= 0 && parsed.port <= 65535) {
    parsed.host = text.substr(0, colon);
    if (parsed.host == "localhost") parsed.host = "127.0.0.1";
    in_addr ignored;
    if (inet_pton(AF_INET, parsed.host.c_str(), &ignored) == 1) return parsed;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("metrics address must be IPV4:PORT or localhost:PORT, got \"", text, "\""));
}

absl::Status WhyNotListening(const Address& address, const std::string& text) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return absl::InternalError(absl::StrCat("cannot make a socket: ", std::strerror(errno)));
  const sockaddr_in name = NameOf(address);
  const int reuse = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
  int error = 0;
  if (bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof(name)) != 0 || listen(fd, 1) != 0)
    error = errno;
  close(fd);
  const std::string message =
      absl::StrCat("cannot serve metrics on ", text, ": ", std::strerror(error));
  switch (error) {
    case EADDRINUSE:
      return absl::AlreadyExistsError(
          absl::StrCat("cannot serve metrics on ", text, ": port ", address.port, " is in use"));
    case EACCES:
      return absl::PermissionDeniedError(message);
    case EADDRNOTAVAIL:
      return absl::InvalidArgumentError(message);
    default:
      return absl::InternalError(absl::StrCat("cannot serve metrics on ", text));
  }
}

void Knock(const std::string& address) {
  const absl::StatusOr<Address> at = ParseAddress(address);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  if (at.ok()) {
    const sockaddr_in name = NameOf(*at);
    // Whether it succeeds doesn't matter: the caller tries again.
    (void)connect(fd, reinterpret_cast<const sockaddr*>(&name), sizeof(name));
  }
  close(fd);
}

}  // namespace diffmoe::http
