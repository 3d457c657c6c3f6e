// Time and order statistics for benchmarks.
#pragma once

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

namespace diffmoe::bench {

// Seconds of a monotonic clock.
inline double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Seconds that this thread has spent on a core.
inline double ThreadCpuSeconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// The upper median. values: at least one.
inline double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Median seconds of one call by `clock`, after a call that isn't counted.
template <typename Body>
double TimeOf(int repetitions, const Body& body, double (*clock)() = Now) {
  body();
  std::vector<double> seconds;
  for (int i = 0; i < repetitions; ++i) {
    const double begin = clock();
    body();
    seconds.push_back(clock() - begin);
  }
  return Median(seconds);
}

}  // namespace diffmoe::bench
