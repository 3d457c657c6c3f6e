#include "tests/support/tcp_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <list>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace diffmoe::test {
namespace {

constexpr size_t kReadBytes = 16 << 10;
// What may wait in one direction; beyond it the sender waits.
constexpr size_t kMaxWaitingBytes = 1 << 20;

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

// Closing such a socket sends a reset instead of an orderly end.
void ResetOnClose(int fd) {
  const linger now{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

// Bytes on their way in one direction.
struct Direction {
  struct Piece {
    absl::Time due;
    std::string bytes;
  };
  int from = -1, to = -1;
  std::deque<Piece> pieces;
  size_t waiting = 0;
  bool ended = false;  // the sender has closed its side
};

struct Link {
  std::array<Direction, 2> directions;
  bool broken = false;
};

}  // namespace

// One thread does everything; it looks at its sockets at least every few milliseconds.
class TcpProxy::Impl {
 public:
  Impl(int listener, std::string address, int target_port, const TcpProxyOptions& options)
      : listener_(listener),
        address_(std::move(address)),
        target_port_(target_port),
        options_(options),
        random_(options.seed),
        thread_([this] { Run(); }) {}
  ~Impl() {
    stopping_ = true;
    thread_.join();
    for (Link& link : links_) Close(link);
    close(listener_);
  }

  const std::string& address() const { return address_; }
  void ResetAll() { reset_ = true; }
  void SetDown(bool down) { down_ = down; }
  int64_t connections() const { return connections_; }

 private:
  void Run() {
    while (!stopping_) {
      std::vector<pollfd> waits = {{listener_, POLLIN, 0}};
      for (const Link& link : links_) {
        for (const Direction& direction : link.directions) {
          const bool reads = !direction.ended && direction.waiting < kMaxWaitingBytes;
          waits.push_back({direction.from, static_cast<short>(reads ? POLLIN : 0), 0});
        }
      }
      constexpr int kLookMs = 2;
      poll(waits.data(), waits.size(), kLookMs);
      if (reset_.exchange(false)) {
        for (Link& link : links_) Close(link);
        links_.clear();
        continue;
      }
      if ((waits[0].revents & POLLIN) != 0) Accept();
      for (Link& link : links_) Pass(link);
      links_.remove_if([this](Link& link) {
        if (link.broken) Close(link);
        return link.broken;
      });
    }
  }

  void Accept() {
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) return;
    const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in target = Loopback(target_port_);
    if (connect(server, reinterpret_cast<const sockaddr*>(&target), sizeof(target)) != 0) {
      ResetOnClose(client);
      close(client);
      close(server);
      return;
    }
    ++connections_;
    Link& link = links_.emplace_back();
    link.directions[0].from = link.directions[1].to = client;
    link.directions[1].from = link.directions[0].to = server;
  }

  void Pass(Link& link) {
    for (Direction& direction : link.directions) {
      Read(link, direction);
      Write(link, direction);
    }
    const auto over = [](const Direction& d) { return d.ended && d.pieces.empty(); };
    link.broken = link.broken || over(link.directions[0]) || over(link.directions[1]);
  }

  void Read(Link& link, Direction& direction) {
    if (direction.ended || direction.waiting >= kMaxWaitingBytes) return;
    std::string bytes(kReadBytes, '\0');
    const ssize_t got = recv(direction.from, bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got < 0) {
      link.broken = link.broken || (errno != EAGAIN && errno != EINTR);
      return;
    }
    if (got == 0) {
      direction.ended = true;
      return;
    }
    bytes.resize(static_cast<size_t>(got));
    const double jitter = std::uniform_real_distribution<double>(-1, 1)(random_);
    absl::Time due = absl::Now() + options_.delay + jitter * options_.jitter;
    if (!direction.pieces.empty()) due = std::max(due, direction.pieces.back().due);
    direction.waiting += bytes.size();
    direction.pieces.push_back({due, std::move(bytes)});
  }

  void Write(Link& link, Direction& direction) {
    while (!down_ && !direction.pieces.empty() && direction.pieces.front().due <= absl::Now()) {
      std::string& bytes = direction.pieces.front().bytes;
      const ssize_t sent =
          send(direction.to, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent < 0) {
        link.broken = link.broken || (errno != EAGAIN && errno != EINTR);
        return;
      }
      direction.waiting -= static_cast<size_t>(sent);
      bytes.erase(0, static_cast<size_t>(sent));
      if (bytes.empty()) direction.pieces.pop_front();
    }
  }

  static void Close(Link& link) {
    for (const Direction& direction : link.directions) {
      ResetOnClose(direction.from);
      close(direction.from);
    }
  }

  const int listener_;
  const std::string address_;
  const int target_port_;
  const TcpProxyOptions options_;
  std::mt19937_64 random_;
  std::list<Link> links_;
  std::atomic<bool> stopping_ = false, reset_ = false, down_ = false;
  std::atomic<int64_t> connections_ = 0;
  std::thread thread_;
};

absl::StatusOr<std::unique_ptr<TcpProxy>> TcpProxy::Start(const std::string& target,
                                                          const TcpProxyOptions& options) {
  int target_port = 0;
  if (!absl::SimpleAtoi(target.substr(target.rfind(':') + 1), &target_port)) {
    return absl::InvalidArgumentError(absl::StrCat("expected HOST:PORT, got ", target));
  }
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  if (listener < 0 || bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      listen(listener, SOMAXCONN) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    if (listener >= 0) close(listener);
    return absl::InternalError("no port for a proxy");
  }
  return std::unique_ptr<TcpProxy>(new TcpProxy(std::make_unique<Impl>(
      listener, absl::StrCat("127.0.0.1:", ntohs(address.sin_port)), target_port, options)));
}

TcpProxy::TcpProxy(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TcpProxy::~TcpProxy() = default;
const std::string& TcpProxy::address() const { return impl_->address(); }
void TcpProxy::ResetAll() { impl_->ResetAll(); }
void TcpProxy::SetDown(bool down) { impl_->SetDown(down); }
int64_t TcpProxy::connections() const { return impl_->connections(); }

}  // namespace diffmoe::test
