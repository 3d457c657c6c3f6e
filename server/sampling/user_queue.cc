#include "server/sampling/user_queue.h"

#include <utility>

namespace diffmoe::server {

void UserQueue::Add(const std::string& user, uint64_t call) {
  std::set<uint64_t>& line = lines_[user];
  if (line.empty()) turns_.push_back(user);
  if (line.insert(call).second) ++size_;
}

void UserQueue::Remove(const std::string& user, uint64_t call) {
  const auto line = lines_.find(user);
  if (line == lines_.end() || line->second.erase(call) == 0) return;
  --size_;
  if (!line->second.empty()) return;
  lines_.erase(line);
  std::erase(turns_, user);
}

std::optional<uint64_t> UserQueue::Front() const {
  if (turns_.empty()) return std::nullopt;
  return *lines_.at(turns_.front()).begin();
}

void UserQueue::Pop() {
  if (turns_.empty()) return;
  std::string user = std::move(turns_.front());
  turns_.pop_front();
  const auto line = lines_.find(user);
  line->second.erase(line->second.begin());
  --size_;
  if (line->second.empty()) {
    lines_.erase(line);
  } else {
    turns_.push_back(std::move(user));
  }
}

size_t UserQueue::SizeOf(const std::string& user) const {
  const auto line = lines_.find(user);
  return line == lines_.end() ? 0 : line->second.size();
}

std::vector<uint64_t> UserQueue::Order() const {
  using Place = std::set<uint64_t>::const_iterator;
  std::deque<std::pair<Place, Place>> lines;
  for (const std::string& user : turns_) {
    lines.emplace_back(lines_.at(user).begin(), lines_.at(user).end());
  }
  std::vector<uint64_t> order;
  order.reserve(size_);
  while (!lines.empty()) {
    auto [next, end] = lines.front();
    lines.pop_front();
    order.push_back(*next);
    if (++next != end) lines.emplace_back(next, end);
  }
  return order;
}

}  // namespace diffmoe::server
