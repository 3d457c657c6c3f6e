// The engine under load, on a virtual clock: who waits how long, and what is left over.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/unit/worker/rank/engine_fixture.h"

namespace diffmoe {
namespace {

struct Arrival {
  std::string id;
  double seconds = 0;  // after the start
  int images = 1;
  int steps = 1;
  double rows() const { return 2.0 * images * steps; }
};

// Feeds arrivals between steps; returns when each request ended, in seconds after the start.
std::map<std::string, double> Serve(EngineRun& run, const std::vector<Arrival>& arrivals,
                                    absl::Duration patience = absl::InfiniteDuration()) {
  const absl::Time start = run.executor.now;
  std::map<std::string, double> ends;
  size_t next = 0;
  std::vector<std::string> open;
  while (next < arrivals.size() || run.engine.busy()) {
    const auto due = [&] { return start + absl::Seconds(arrivals[next].seconds); };
    if (!run.engine.busy() && next < arrivals.size()) {
      run.executor.now = std::max(run.executor.now, due());
    }
    for (; next < arrivals.size() && due() <= run.executor.now; ++next) {
      SampleWork work = FakeWork(arrivals[next].id, arrivals[next].images, arrivals[next].steps);
      if (patience < absl::InfiniteDuration()) work.deadline = due() + patience;
      run.engine.Add(work);
      open.push_back(arrivals[next].id);
    }
    run.engine.Step();
    std::erase_if(open, [&](const std::string& id) {
      const auto& updates = run.link.updates[id];
      if (updates.empty()) return false;
      const bool ended = std::holds_alternative<SampleFinished>(updates.back()) ||
                         std::holds_alternative<absl::Status>(updates.back());
      if (ended) ends[id] = absl::ToDoubleSeconds(run.executor.now - start);
      return ended;
    });
  }
  return ends;
}

std::vector<Arrival> Poisson(uint32_t seed, int requests, double rows_per_second,
                             const std::function<Arrival(std::mt19937&)>& draw) {
  std::mt19937 random(seed);
  std::vector<Arrival> arrivals;
  double rows = 0;
  for (int i = 0; i < requests; ++i) {
    arrivals.push_back(draw(random));
    rows += arrivals.back().rows();
  }
  const double interval = rows / requests / rows_per_second;
  std::exponential_distribution<double> gap(1 / interval);
  double now = 0;
  for (size_t i = 0; i < arrivals.size(); ++i) {
    now += gap(random);
    arrivals[i].seconds = now;
    arrivals[i].id = absl::StrCat("r", i);
  }
  return arrivals;
}

// Equal shares of a machine of one row at a time, `rows_per_second` of them.
std::map<std::string, double> EqualShares(const std::vector<Arrival>& arrivals,
                                          double rows_per_second) {
  std::map<std::string, double> ends;
  std::vector<std::pair<size_t, double>> active;  // index, rows left
  size_t next = 0;
  double now = 0;
  while (next < arrivals.size() || !active.empty()) {
    if (active.empty()) now = std::max(now, arrivals[next].seconds);
    for (; next < arrivals.size() && arrivals[next].seconds <= now; ++next) {
      active.emplace_back(next, arrivals[next].rows());
    }
    double least = 1e18;
    for (const auto& [index, rows] : active) least = std::min(least, rows);
    const double sharing = static_cast<double>(active.size());
    double span = least * sharing / rows_per_second;
    if (next < arrivals.size()) span = std::min(span, arrivals[next].seconds - now);
    now += span;
    for (auto& [index, rows] : active) rows -= span * rows_per_second / sharing;
    std::erase_if(active, [&](const auto& entry) {
      if (entry.second > 1e-7) return false;
      ends[arrivals[entry.first].id] = now;
      return true;
    });
  }
  return ends;
}

TEST(SampleEngineLoad, ASmallRequestDoesNotWaitForALargeOne) {
  EngineRun run(0.05, 0.01, EngineRun::Width(16));
  run.engine.Add(FakeWork("large", 1024, 50));
  for (int i = 0; i < 100; ++i) run.engine.Step();
  const absl::Time arrival = run.executor.now;
  run.engine.Add(FakeWork("small", 1, 50));
  for (int i = 0; i < 50; ++i) run.engine.Step();
  EXPECT_TRUE(run.Finished("small"));
  EXPECT_LE(run.executor.now - arrival, 50 * run.executor.CallTime(16));
  // The rest of each call still goes to the large one.
  for (const auto& call : run.executor.calls) EXPECT_EQ(call.size(), 8u);
}

class SampleEngineFairness : public testing::TestWithParam<uint32_t> {};

TEST_P(SampleEngineFairness, NobodyEndsLaterThanWithEqualSharesAndOneStep) {
  SCOPED_TRACE(absl::StrCat("seed ", GetParam()));
  const double step = 0.1;
  const std::vector<Arrival> arrivals =
      Poisson(GetParam(), 150, 0.9 * 2 / step, [](std::mt19937& random) {
        const bool large = random() % 8 == 0;
        return Arrival{"", 0, large ? 20 : 1, 5 + static_cast<int>(random() % 40)};
      });
  EngineRun run(step, 0, EngineRun::Width(2));
  const auto ends = Serve(run, arrivals);
  const auto shared = EqualShares(arrivals, 2 / step);
  for (const Arrival& arrival : arrivals) {
    ASSERT_TRUE(ends.contains(arrival.id));
    // One step for the arrival in the middle of a call, and one for the call that a row waits for.
    EXPECT_LE(ends.at(arrival.id), shared.at(arrival.id) + 2 * step + 1e-6) << arrival.id;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SampleEngineFairness, testing::Range(1u, 11u));

// Takes waiting requests, makes all their images together, and only then looks for others.
double BatchToCompletion(const std::vector<Arrival>& arrivals, int width, double base, double row) {
  double now = 0, waited = 0;
  size_t next = 0;
  while (next < arrivals.size()) {
    now = std::max(now, arrivals[next].seconds);
    const size_t first = next;
    int images = 0, steps = 0;
    for (; next < arrivals.size() && arrivals[next].seconds <= now; ++next) {
      if (next > first && 2 * (images + arrivals[next].images) > width) break;
      images += arrivals[next].images;
    }
    for (size_t i = first; i < next; ++i) steps = std::max(steps, arrivals[i].steps);
    for (int step = 0; step < steps; ++step) {
      int rows = 0;
      for (size_t i = first; i < next; ++i) {
        if (arrivals[i].steps > step) rows += 2 * arrivals[i].images;
      }
      now += base + row * rows;
    }
    for (size_t i = first; i < next; ++i) waited += now - arrivals[i].seconds;
  }
  return waited / static_cast<double>(arrivals.size());
}

// Mean over seeds of latency with the engine and with batches to completion, on the same arrivals.
std::pair<double, double> LatencyAtFourFifths(double base, double row) {
  const int width = 16, requests = 2000;
  const std::vector<uint32_t> seeds = {1, 2, 3};
  double latency = 0, batched = 0;
  for (const uint32_t seed : seeds) {
    // Of what calls of full width can do.
    const double capacity = width / (base + row * width);
    const std::vector<Arrival> arrivals =
        Poisson(seed, requests, 0.8 * capacity, [](std::mt19937& random) {
          const bool large = random() % 10 == 0;
          return Arrival{"", 0, large ? 8 : 1, 10 + static_cast<int>(random() % 41)};
        });
    EngineRun run(base, row, EngineRun::Width(width));
    for (const auto& [id, end] : Serve(run, arrivals)) {
      const double wait = end - arrivals[static_cast<size_t>(std::stoi(id.substr(1)))].seconds;
      latency += wait / static_cast<double>(requests);
    }
    batched += BatchToCompletion(arrivals, width, base, row);
  }
  const double count = static_cast<double>(seeds.size());
  return {latency / count, batched / count};
}

class SampleEngineLatency : public testing::TestWithParam<double> {};

TEST_P(SampleEngineLatency, AtFourFifthsLoadItIsHalfOfBatchToCompletion) {
  const double row = 0.005;
  const auto [latency, batched] = LatencyAtFourFifths(GetParam() * row, row);
  RecordProperty("ratio", std::to_string(latency / batched));
  EXPECT_LE(latency, 0.5 * batched);
}

// The base of a call in rows: little on a CPU, much on a GPU.
INSTANTIATE_TEST_SUITE_P(Machines, SampleEngineLatency, testing::Values(0.2, 0.5, 1.0, 4.0));

TEST(SampleEngineLoad, OverloadWastesFewStepsAndNothingSucceedsLate) {
  const double base = 0.005, row = 0.005, patience = 6;
  const int width = 16;
  const double capacity = width / (base + row * width);
  const std::vector<Arrival> arrivals = Poisson(7, 2000, 1.5 * capacity, [](std::mt19937& random) {
    return Arrival{"", 0, 1 + static_cast<int>(random() % 2), 10 + static_cast<int>(random() % 21)};
  });
  EngineRun run(base, row, EngineRun::Width(width));
  const auto ends = Serve(run, arrivals, absl::Seconds(patience));
  double good_rows = 0;
  for (const Arrival& arrival : arrivals) {
    ASSERT_TRUE(ends.contains(arrival.id));
    if (!run.Finished(arrival.id)) {
      EXPECT_TRUE(absl::IsDeadlineExceeded(run.Error(arrival.id)));
      continue;
    }
    EXPECT_LE(ends.at(arrival.id), arrival.seconds + patience + 1e-6);
    good_rows += arrival.rows();
  }
  const SampleEngineStats stats = run.engine.stats();
  EXPECT_LE(static_cast<double>(stats.rows_wasted), 0.02 * static_cast<double>(stats.rows))
      << stats.rows_wasted << " of " << stats.rows;
  // What it takes on it does at nearly full speed.
  EXPECT_GE(good_rows / (capacity * arrivals.back().seconds), 0.9);
}

TEST(SampleEngineLoad, TenThousandCancelsLeaveNothingBehind) {
  const uint32_t seed = 11;
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  EngineRun run(0.01, 0.001);
  std::vector<std::string> ids;
  int cancels = 0;
  for (int i = 0; cancels < 10000; ++i) {
    if (random() % 2 == 0) {
      ids.push_back(absl::StrCat("r", i));
      run.engine.Add(FakeWork(ids.back(), 1 + static_cast<int>(random() % 8),
                              1 + static_cast<int>(random() % 12)));
    }
    if (!ids.empty() && random() % 2 == 0) {
      const size_t which = random() % ids.size();
      run.engine.Cancel(ids[which]);
      if (random() % 4 != 0) ids.erase(ids.begin() + static_cast<int64_t>(which));
      ++cancels;
    }
    if (random() % 3 == 0) run.engine.Step();
    if (i % 64 == 0) run.Forget();
  }
  for (const std::string& id : ids) run.engine.Cancel(id);
  EXPECT_FALSE(run.engine.busy());
  EXPECT_EQ(run.executor.images_alive, 0);
  EXPECT_EQ(run.engine.stats().images_held, 0);
  run.engine.Step();
  EXPECT_EQ(run.Updates<SamplerLoadUpdate>("").back().requests, 0);
  run.engine.Add(FakeWork("after", 1, 1));
  run.engine.Step();
  EXPECT_TRUE(run.Finished("after"));
}

TEST(SampleEngineLoad, TheWidthFollowsTheMeasuredCurve) {
  EngineRun narrow(0.0001, 0.01), wide(0.05, 0.001);
  for (EngineRun* run : {&narrow, &wide}) {
    run->engine.Add(FakeWork("r", 200, 20));
    for (int i = 0; i < 200; ++i) run->engine.Step();
  }
  EXPECT_LE(narrow.engine.width(), 4);
  EXPECT_EQ(wide.engine.width(), 64);
}

}  // namespace
}  // namespace diffmoe
