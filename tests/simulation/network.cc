#include "tests/simulation/network.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace diffmoe::simulation {

int64_t Network::DelayMs() {
  if (weather_ > 0 && world_->random.Chance(0.1 * weather_))
    return world_->random.Between(5, static_cast<int64_t>(5 + 600 * weather_));
  return world_->random.Between(0, 2);
}

int64_t Network::ArrivalMs(const std::string& host) {
  const int64_t arrival_ms = std::max(world_->time.now_ms() + DelayMs(), held_until_ms_);
  const auto cut = cut_off_until_ms_.find(host);
  return cut == cut_off_until_ms_.end() ? arrival_ms : std::max(arrival_ms, cut->second);
}

bool Network::IsCutOff(const std::string& host) const {
  const auto cut = cut_off_until_ms_.find(host);
  return cut != cut_off_until_ms_.end() && cut->second > world_->time.now_ms();
}

void Network::CutOff(const std::string& host, int64_t duration_ms) {
  int64_t& until_ms = cut_off_until_ms_[host];
  until_ms = std::max(until_ms, world_->time.now_ms() + duration_ms);
}

void Network::Heal() {
  weather_ = 0;
  cut_off_until_ms_.clear();
}

void Network::Call(const std::string& host, int64_t timeout_ms, std::function<void(Answer)> serve,
                   Answer receive) {
  const auto waiting = std::make_shared<Answer>(std::move(receive));
  const auto finish = [waiting](const server::Reply& reply) {
    if (*waiting == nullptr) return;
    const Answer once = std::exchange(*waiting, nullptr);
    once(reply);
  };
  world_->time.After(timeout_ms, [finish] {
    finish(server::Reply{0, absl::DeadlineExceededError("no answer in time"), {}, false});
  });
  if (Loses()) return;
  world_->time.At(ArrivalMs(host), [this, host, finish, serve = std::move(serve)] {
    serve([this, host, finish](const server::Reply& reply) {
      if (Loses()) return;
      world_->time.At(ArrivalMs(host), [finish, reply] { finish(reply); });
    });
  });
}

}  // namespace diffmoe::simulation
