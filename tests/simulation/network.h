// The network between hosts and the coordinator. Messages of a stream keep their order; a host that
// is cut off gets and sends everything late; calls may lose their request or their answer. Not
// thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "server/state/effect.h"
#include "tests/simulation/world.h"

namespace diffmoe::simulation {

class Network {
 public:
  // What a caller gets, once: the answer, or UNAVAILABLE or DEADLINE_EXCEEDED with an unknown
  // outcome.
  using Answer = std::function<void(const server::Reply&)>;

  explicit Network(World* world) : world_(world) {}

  // When a message that is sent now arrives, on the way from or to `host`.
  int64_t ArrivalMs(const std::string& host);
  // Runs `serve` at the coordinator with a function that answers; the answer comes back to
  // `receive`.
  void Call(const std::string& host, int64_t timeout_ms, std::function<void(Answer)> serve,
            Answer receive);

  void CutOff(const std::string& host, int64_t duration_ms);
  bool IsCutOff(const std::string& host) const;
  // Nothing moves until then: the coordinator doesn't read or write.
  void HoldAll(int64_t until_ms) { held_until_ms_ = until_ms; }
  // From 0, a good network, to 1: how slow it is and how many calls it loses.
  void SetWeather(double weather) { weather_ = weather; }
  void Heal();

 private:
  int64_t DelayMs();
  bool Loses() { return weather_ > 0 && world_->random.Chance(0.1 * weather_); }

  World* world_;
  double weather_ = 0;
  int64_t held_until_ms_ = 0;
  std::map<std::string, int64_t> cut_off_until_ms_;
};

}  // namespace diffmoe::simulation
