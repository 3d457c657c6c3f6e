// A bad network between two programs: a TCP proxy on loopback that delays, cuts and stops.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace diffmoe::test {

struct TcpProxyOptions {
  // What arrives is passed on after a time drawn evenly from [delay - jitter, delay + jitter]; the
  // order of bytes is kept.
  absl::Duration delay = absl::ZeroDuration();
  absl::Duration jitter = absl::ZeroDuration();
  uint64_t seed = 1;
};

// Thread-safe. Every connection to address() is passed on to the target. The destructor ends all.
class TcpProxy {
 public:
  // target: "127.0.0.1:PORT". Errors: INTERNAL when no port can be opened.
  static absl::StatusOr<std::unique_ptr<TcpProxy>> Start(const std::string& target,
                                                         const TcpProxyOptions& options = {});
  ~TcpProxy();
  TcpProxy(const TcpProxy&) = delete;
  TcpProxy& operator=(const TcpProxy&) = delete;

  const std::string& address() const;
  // Resets every connection at once, wherever its messages stand.
  void ResetAll();
  // Nothing is passed on any more, as when a cable is pulled; what came meanwhile follows later.
  void SetDown(bool down);
  int64_t connections() const;  // accepted so far

 private:
  class Impl;
  explicit TcpProxy(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace diffmoe::test
