// The time series of one metric family. Values may be set from any thread; a series can be removed
// while others are set. Hides prometheus-cpp behind plain calls, so that no reference to a series
// outlives it.
#pragma once

#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "core/metrics/catalogue.h"

namespace prometheus {
class Registry;
template <typename T>
class Family;
class Gauge;
class Counter;
class Histogram;
}  // namespace prometheus

namespace diffmoe::metrics {

// Values of the family's labels, in the order of the catalogue.
using LabelValues = std::initializer_list<std::string_view>;

template <typename Metric>
class Series {
 public:
  // `definition` must be of the matching kind. The registry must outlive the object. What counts
  // and has no labels begins at 0, so that a scraper sees its first event as an increase.
  Series(prometheus::Registry& registry, const Definition& definition);
  Series(const Series&) = delete;
  Series& operator=(const Series&) = delete;

  // Removes every series whose first label has this value.
  void RemoveFirst(std::string_view value);

 protected:
  // Call with mutex_ held.
  Metric& At(LabelValues values);
  std::mutex mutex_;

 private:
  const Definition& definition_;
  prometheus::Family<Metric>& family_;
  std::map<std::vector<std::string>, Metric*> series_;
};

class GaugeSeries : public Series<prometheus::Gauge> {
 public:
  using Series::Series;
  void Set(LabelValues values, double value);
  void Set(double value) { Set({}, value); }
};

class CounterSeries : public Series<prometheus::Counter> {
 public:
  using Series::Series;
  void Add(LabelValues values, double amount = 1);
  void Add(double amount) { Add({}, amount); }
};

class HistogramSeries : public Series<prometheus::Histogram> {
 public:
  using Series::Series;
  void Observe(LabelValues values, double value);
  void Observe(double value) { Observe({}, value); }
};

}  // namespace diffmoe::metrics
