#include "tests/simulation/virtual_time.h"

#include <algorithm>
#include <utility>

namespace diffmoe::simulation {

void VirtualTime::At(int64_t time_ms, Task task) {
  heap_.push_back({std::max(time_ms, now_ms_), next_number_++, std::move(task)});
  std::push_heap(heap_.begin(), heap_.end(), Later);
}

bool VirtualTime::RunNext() {
  if (heap_.empty()) return false;
  std::pop_heap(heap_.begin(), heap_.end(), Later);
  const Due due = std::move(heap_.back());
  heap_.pop_back();
  now_ms_ = due.time_ms;
  due.task();
  return true;
}

}  // namespace diffmoe::simulation
