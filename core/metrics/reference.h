// The page docs/metrics.md, made from the catalogue.
#pragma once

#include <string>

namespace diffmoe::metrics {

// Markdown: a table per group of families with name, type, unit, labels, meaning and what a healthy
// value looks like.
std::string Reference();

}  // namespace diffmoe::metrics
