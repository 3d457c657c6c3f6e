#include "worker/rank/fair_queue.h"

#include <algorithm>

namespace diffmoe {

void FairQueue::Add(const std::string& id, int64_t rows) {
  if (waiting_.contains(id)) return;
  Entry entry;
  entry.rows = std::max<int64_t>(rows, 1);
  entry.arrival = virtual_time_;
  entry.tag = {virtual_time_ + static_cast<double>(entry.rows), arrivals_++};
  order_.emplace(entry.tag, id);
  active_.insert(entry.tag);
  waiting_.emplace(id, entry);
}

void FairQueue::Raise(const std::string& id, int64_t rows) {
  const auto found = waiting_.find(id);
  if (found == waiting_.end() || rows <= found->second.rows) return;
  Entry& entry = found->second;
  order_.erase(entry.tag);
  active_.erase(entry.tag);
  entry.rows = rows;
  entry.tag.first = entry.arrival + static_cast<double>(rows);
  order_.emplace(entry.tag, id);
  if (entry.tag.first > virtual_time_) active_.insert(entry.tag);
}

void FairQueue::Serve(int64_t rows) {
  double left = static_cast<double>(rows);
  while (left > 0 && !active_.empty()) {
    const double sharing = static_cast<double>(active_.size());
    const double next = active_.begin()->first;
    const double until_next = (next - virtual_time_) * sharing;
    if (left < until_next) {
      virtual_time_ += left / sharing;
      return;
    }
    left -= until_next;
    virtual_time_ = next;
    while (!active_.empty() && active_.begin()->first <= virtual_time_) {
      active_.erase(active_.begin());
    }
  }
}

void FairQueue::Finish(const std::string& id) { Remove(id, /*keep_virtual_work=*/true); }

void FairQueue::Cancel(const std::string& id) { Remove(id, /*keep_virtual_work=*/false); }

void FairQueue::Remove(const std::string& id, bool keep_virtual_work) {
  const auto found = waiting_.find(id);
  if (found == waiting_.end()) return;
  order_.erase(found->second.tag);
  if (!keep_virtual_work) active_.erase(found->second.tag);
  waiting_.erase(found);
  if (!waiting_.empty()) return;
  // An idle machine starts anew.
  active_.clear();
  virtual_time_ = 0;
}

void FairQueue::Visit(const std::function<bool(const std::string& id)>& visit) const {
  for (const auto& [tag, id] : order_) {
    if (!visit(id)) return;
  }
}

}  // namespace diffmoe
