// Walks the parts of parameters that lie in a range of the dense buffer.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/model/parameters.h"

namespace diffmoe {

// Calls visit(place, begin, count) for the part of every parameter that lies in [begin, end) of the
// dense buffer.
template <typename Visit>
void ForEachRun(const ParameterLayout& layout, int64_t begin, int64_t end, const Visit& visit) {
  for (const ParameterPlace& place : layout.dense()) {
    const int64_t from = std::max(place.offset, begin);
    const int64_t to = std::min(place.offset + place.info->elements(), end);
    if (from < to) visit(place, from, to - from);
  }
}

}  // namespace diffmoe
