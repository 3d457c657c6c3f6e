// The trace that a rank's work belongs to.
#pragma once

#include <optional>

#include "core/base/trace.h"

namespace diffmoe {

struct RankTrace {
  Tracer* tracer = nullptr;  // null: nothing is written
  std::optional<TraceContext> parent = std::nullopt;
};

}  // namespace diffmoe
