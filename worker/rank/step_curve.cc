#include "worker/rank/step_curve.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace diffmoe {
namespace {

constexpr size_t kNewest = 16;
constexpr size_t kLeastCalls = 3;
// A point that was not seen for so many calls counts half.
constexpr double kHalfLifeCalls = 1000;

double MedianOf(const std::deque<double>& values) {
  std::vector<double> sorted(values.begin(), values.end());
  const auto middle = sorted.begin() + static_cast<int64_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

}  // namespace

void StepCurve::Observe(int rows, double seconds) {
  if (rows <= 0 || !(seconds > 0) || !std::isfinite(seconds)) return;
  ++observations_;
  Point& point = points_[rows];
  point.seconds.push_back(seconds);
  if (point.seconds.size() > kNewest) point.seconds.pop_front();
  point.last_seen = observations_;
  point.median = MedianOf(point.seconds);
  Fit();
  Explore();
}

void StepCurve::Fit() {
  // Errors are relative, so a point's weight falls with the square of its seconds.
  double sum = 0, sum_n = 0, sum_s = 0, sum_nn = 0, sum_ns = 0;
  for (const auto& [rows, point] : points_) {
    const double age = static_cast<double>(observations_ - point.last_seen);
    const double weight = static_cast<double>(point.seconds.size()) *
                          std::exp2(-age / kHalfLifeCalls) / (point.median * point.median);
    const double n = rows;
    sum += weight;
    sum_n += weight * n;
    sum_s += weight * point.median;
    sum_nn += weight * n * n;
    sum_ns += weight * n * point.median;
  }
  const double through_origin = sum_ns / sum_nn;
  const double spread = sum * sum_nn - sum_n * sum_n;
  base_ = 0;
  row_ = through_origin;
  if (spread <= 1e-9 * sum * sum_nn) return;
  const double slope = (sum * sum_ns - sum_n * sum_s) / spread;
  const double base = (sum_s - slope * sum_n) / sum;
  if (base <= 0) return;
  if (slope <= 0) {  // rows cost nothing that could be seen
    base_ = sum_s / sum;
    row_ = 0;
    return;
  }
  base_ = base;
  row_ = slope;
}

double StepCurve::Throughput(int above, int most) const {
  double best = 0;
  size_t calls = 0;
  for (auto it = points_.upper_bound(above); it != points_.end() && it->first <= most; ++it) {
    calls += it->second.seconds.size();
    best = std::max(best, it->first / it->second.median);
  }
  return calls >= kLeastCalls ? best : 0;
}

void StepCurve::Explore() {
  const int width = std::max(explored_, options_.least_rows);
  if (width >= options_.most_rows) return;
  const double here = Throughput(width / 2, width);
  if (here == 0) return;
  const double before = Throughput(0, width / 2);
  // The first doublings, before there is anything to compare with, are free.
  if (width > 2 * options_.least_rows && before == 0) return;
  if (before > 0 && width > options_.least_rows && here < options_.least_gain * before) return;
  explored_ = std::min(2 * width, options_.most_rows);
}

int StepCurve::FittedWidth() const {
  if (row_ <= 0) return base_ > 0 ? options_.most_rows : options_.least_rows;
  const double rows = options_.share / (1 - options_.share) * base_ / row_;
  return static_cast<int>(std::ceil(std::min(rows, static_cast<double>(options_.most_rows))));
}

int StepCurve::width() const {
  const int explored = std::clamp(explored_, options_.least_rows, options_.most_rows);
  // The widest calls allowed so far are still to be measured.
  if (Throughput(explored / 2, explored) == 0) return explored;
  return std::clamp(FittedWidth(), options_.least_rows, explored);
}

}  // namespace diffmoe
