// Faults that can be planted into the code under test: each must turn a checker red.
#pragma once

#include <span>

#include "core/base/planted_faults.h"

namespace diffmoe::simulation {

struct Canary {
  const char* name;
  Fault fault;
  const char* what;
};

std::span<const Canary> Canaries();

}  // namespace diffmoe::simulation
