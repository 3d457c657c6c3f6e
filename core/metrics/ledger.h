// Series whose values belong together: a scrape sees all of one moment, so that sums over them hold
// in every scrape. Gauges and counters only. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/metrics/catalogue.h"
#include "core/metrics/metrics_server.h"

namespace diffmoe::metrics {

class Ledger {
 public:
  struct Entry {
    const Definition* definition = nullptr;
    std::vector<std::string> labels;  // values, in the order of the catalogue
    double value = 0;
  };

  // The registry serves it for its own life.
  explicit Ledger(Registry& registry);
  // Replaces all series. Those of one family stand side by side.
  void Publish(std::vector<Entry> entries);

 private:
  class Families;
  std::shared_ptr<Families> families_;
};

}  // namespace diffmoe::metrics
