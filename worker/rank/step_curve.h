// What a network call of n rows costs, learned from the calls that were made: base + n * row
// seconds; and how many rows a call should have.
//
// The newest 16 calls of each number of rows are kept; their median is one point of a weighted
// least-squares fit in which points that were not seen for long fade. A single slow call (another
// process, a page fault) therefore moves nothing. Not thread safe.
#pragma once

#include <cstdint>
#include <deque>
#include <map>

namespace diffmoe {

struct StepCurveOptions {
  int least_rows = 2;        // both halves of a guided image
  int most_rows = 64;        // bounds the memory of a call
  double share = 0.95;       // of the throughput at infinitely many rows that the width reaches
  double least_gain = 1.05;  // throughput that twice the width must bring while it is explored
};

class StepCurve {
 public:
  explicit StepCurve(const StepCurveOptions& options = {}) : options_(options) {}

  void Observe(int rows, double seconds);

  bool measured() const { return observations_ >= 3; }
  // Calls of different numbers of rows were seen; one number can't tell base and row apart.
  bool has_slope() const { return points_.size() > 1; }
  double base_seconds() const { return base_; }
  double row_seconds() const { return row_; }
  // Of a call; 0 while nothing is known.
  double Seconds(double rows) const { return measured() ? base_ + rows * row_ : 0; }
  // Rows that a call should have at most: the smallest number whose throughput reaches `share` of
  // the limit 1 / row_seconds(). While wider calls are unmeasured the width doubles only as long as
  // each doubling pays.
  int width() const;

 private:
  struct Point {
    std::deque<double> seconds;  // newest last
    int64_t last_seen = 0;       // value of observations_
    double median = 0;
  };
  void Fit();
  void Explore();
  // Best measured rows per second of calls with more than `above` and at most `most` rows; 0 when
  // fewer than 3 such calls were seen.
  double Throughput(int above, int most) const;
  // Rows at which the fitted curve reaches `share`.
  int FittedWidth() const;

  const StepCurveOptions options_;
  std::map<int, Point> points_;  // by rows, at most most_rows of them
  int64_t observations_ = 0;
  double base_ = 0, row_ = 0;
  int explored_ = 0;  // calls may be that wide; 0: as least_rows
};

}  // namespace diffmoe
