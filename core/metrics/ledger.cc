#include "core/metrics/ledger.h"

#include <cassert>
#include <mutex>
#include <utility>

#include "prometheus/client_metric.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace diffmoe::metrics {
namespace {

prometheus::ClientMetric MetricOf(const Ledger::Entry& entry) {
  prometheus::ClientMetric metric;
  assert(entry.labels.size() <= kMaxLabels);
  for (size_t i = 0; i < entry.labels.size(); ++i) {
    metric.label.push_back({entry.definition->labels[i], entry.labels[i]});
  }
  (entry.definition->kind == Kind::kCounter ? metric.counter.value : metric.gauge.value) =
      entry.value;
  return metric;
}

}  // namespace

class Ledger::Families final : public prometheus::Collectable {
 public:
  void Publish(std::vector<Entry> entries) {
    std::lock_guard lock(mutex_);
    entries_ = std::move(entries);
  }

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families;
    std::lock_guard lock(mutex_);
    const Definition* last = nullptr;
    for (const Entry& entry : entries_) {
      assert(entry.definition->kind != Kind::kHistogram);
      if (entry.definition != last) {
        last = entry.definition;
        families.push_back({last->name,
                            last->help,
                            last->kind == Kind::kCounter ? prometheus::MetricType::Counter
                                                         : prometheus::MetricType::Gauge,
                            {}});
      }
      families.back().metric.push_back(MetricOf(entry));
    }
    return families;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<Entry> entries_;
};

Ledger::Ledger(Registry& registry) : families_(std::make_shared<Families>()) {
  registry.Add(families_);
}

void Ledger::Publish(std::vector<Entry> entries) { families_->Publish(std::move(entries)); }

}  // namespace diffmoe::metrics
