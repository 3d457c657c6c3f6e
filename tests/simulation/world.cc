#include "tests/simulation/world.h"

#include <algorithm>
#include <cstdio>

namespace diffmoe::simulation {

void Trace::Add(std::string line) {
  for (const char c : line) hash_ = (hash_ ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  if (print_) std::printf("%s\n", line.c_str());
  kept_[static_cast<size_t>(lines_++ % kKeptLines)] = std::move(line);
}

std::vector<std::string> Trace::Tail() const {
  std::vector<std::string> tail;
  for (int64_t i = std::max<int64_t>(0, lines_ - kKeptLines); i < lines_; ++i) {
    tail.push_back(kept_[static_cast<size_t>(i % kKeptLines)]);
  }
  return tail;
}

}  // namespace diffmoe::simulation
