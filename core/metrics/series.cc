#include "core/metrics/series.h"

#include <cassert>

#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace diffmoe::metrics {
namespace {

template <typename Metric>
struct Traits;

template <>
struct Traits<prometheus::Gauge> {
  static constexpr Kind kKind = Kind::kGauge;
  static auto Build() { return prometheus::BuildGauge(); }
  static prometheus::Gauge& Add(prometheus::Family<prometheus::Gauge>& family,
                                const prometheus::Labels& labels, const Definition&) {
    return family.Add(labels);
  }
};

template <>
struct Traits<prometheus::Counter> {
  static constexpr Kind kKind = Kind::kCounter;
  static auto Build() { return prometheus::BuildCounter(); }
  static prometheus::Counter& Add(prometheus::Family<prometheus::Counter>& family,
                                  const prometheus::Labels& labels, const Definition&) {
    return family.Add(labels);
  }
};

template <>
struct Traits<prometheus::Histogram> {
  static constexpr Kind kKind = Kind::kHistogram;
  static auto Build() { return prometheus::BuildHistogram(); }
  static prometheus::Histogram& Add(prometheus::Family<prometheus::Histogram>& family,
                                    const prometheus::Labels& labels,
                                    const Definition& definition) {
    prometheus::Histogram::BucketBoundaries bounds;
    for (const double bound : definition.buckets) {
      if (bound > 0) bounds.push_back(bound);
    }
    return family.Add(labels, bounds);
  }
};

template <typename Metric>
prometheus::Family<Metric>& Register(prometheus::Registry& registry, const Definition& definition) {
  assert(definition.kind == Traits<Metric>::kKind);
  return Traits<Metric>::Build().Name(definition.name).Help(definition.help).Register(registry);
}

}  // namespace

template <typename Metric>
Series<Metric>::Series(prometheus::Registry& registry, const Definition& definition)
    : definition_(definition), family_(Register<Metric>(registry, definition)) {
  if (definition.kind != Kind::kGauge && definition.labels[0] == nullptr) At({});
}

template <typename Metric>
Metric& Series<Metric>::At(LabelValues values) {
  std::vector<std::string> key(values.begin(), values.end());
  const auto found = series_.find(key);
  if (found != series_.end()) return *found->second;
  prometheus::Labels labels;
  assert(key.size() <= kMaxLabels);
  for (size_t i = 0; i < key.size(); ++i) {
    assert(definition_.labels[i] != nullptr);
    labels.emplace(definition_.labels[i], key[i]);
  }
  Metric& metric = Traits<Metric>::Add(family_, labels, definition_);
  series_.emplace(std::move(key), &metric);
  return metric;
}

template <typename Metric>
void Series<Metric>::RemoveFirst(std::string_view value) {
  std::lock_guard lock(mutex_);
  std::erase_if(series_, [&](const auto& entry) {
    if (entry.first.empty() || entry.first.front() != value) return false;
    family_.Remove(entry.second);
    return true;
  });
}

template class Series<prometheus::Gauge>;
template class Series<prometheus::Counter>;
template class Series<prometheus::Histogram>;

void GaugeSeries::Set(LabelValues values, double value) {
  std::lock_guard lock(mutex_);
  At(values).Set(value);
}

void CounterSeries::Add(LabelValues values, double amount) {
  std::lock_guard lock(mutex_);
  At(values).Increment(amount);
}

void HistogramSeries::Observe(LabelValues values, double value) {
  std::lock_guard lock(mutex_);
  At(values).Observe(value);
}

}  // namespace diffmoe::metrics
