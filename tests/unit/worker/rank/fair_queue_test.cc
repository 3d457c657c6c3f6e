#include "worker/rank/fair_queue.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace diffmoe {
namespace {

std::vector<std::string> Order(const FairQueue& queue) {
  std::vector<std::string> order;
  queue.Visit([&](const std::string& id) {
    order.push_back(id);
    return true;
  });
  return order;
}

using Ids = std::vector<std::string>;

TEST(FairQueueTest, SmallOnesComeFirstAndEqualOnesInOrderOfArrival) {
  FairQueue queue;
  queue.Add("large", 1000);
  queue.Add("first", 10);
  queue.Add("second", 10);
  queue.Add("small", 5);
  EXPECT_EQ(Order(queue), (Ids{"small", "first", "second", "large"}));
}

TEST(FairQueueTest, WorkThatWasSharedCounts) {
  FairQueue queue;
  queue.Add("old", 100);
  queue.Serve(60);  // alone: 60 of its 100 rows are done in the shared system as well
  queue.Add("new", 50);
  EXPECT_EQ(Order(queue), (Ids{"old", "new"}));
  queue.Add("newer", 30);
  EXPECT_EQ(Order(queue), (Ids{"newer", "old", "new"}));
}

TEST(FairQueueTest, VirtualTimePassesSlowerWhenMoreShare) {
  FairQueue queue;
  queue.Add("a", 10);
  queue.Add("b", 20);
  queue.Serve(10);
  EXPECT_DOUBLE_EQ(queue.virtual_time(), 5);
  queue.Serve(10);  // a is done in the shared system
  EXPECT_DOUBLE_EQ(queue.virtual_time(), 10);
  queue.Serve(4);
  EXPECT_DOUBLE_EQ(queue.virtual_time(), 14);
}

TEST(FairQueueTest, ARequestThatEndedEarlyStillSharesVirtually) {
  FairQueue queue;
  queue.Add("large", 100);
  queue.Add("small", 10);
  queue.Serve(10);
  queue.Finish("small");
  EXPECT_DOUBLE_EQ(queue.virtual_time(), 5);
  queue.Serve(10);
  EXPECT_DOUBLE_EQ(queue.virtual_time(), 10);
  queue.Serve(10);
  EXPECT_DOUBLE_EQ(queue.virtual_time(), 20);
}

TEST(FairQueueTest, ACancelledOneSharesNoMore) {
  FairQueue queue;
  queue.Add("large", 100);
  queue.Add("small", 10);
  queue.Cancel("small");
  queue.Cancel("small");
  queue.Cancel("unknown");
  queue.Serve(8);
  EXPECT_DOUBLE_EQ(queue.virtual_time(), 8);
  queue.Cancel("large");
  EXPECT_TRUE(queue.empty());
  EXPECT_DOUBLE_EQ(queue.virtual_time(), 0);
}

TEST(FairQueueTest, AnEstimateThatRisesMovesTheRequestBack) {
  FairQueue queue;
  queue.Add("adaptive", 10);
  queue.Add("fixed", 20);
  queue.Raise("adaptive", 5);
  EXPECT_EQ(Order(queue), (Ids{"adaptive", "fixed"}));
  queue.Raise("adaptive", 40);
  EXPECT_EQ(Order(queue), (Ids{"fixed", "adaptive"}));
}

// A machine that serves one row at a time, and an equally shared one, over random arrivals.
class FairQueueProperty : public testing::TestWithParam<int> {};

TEST_P(FairQueueProperty, NobodyEndsLaterThanWithEqualShares) {
  SCOPED_TRACE(absl::StrCat("seed ", GetParam()));
  std::mt19937 random(static_cast<uint32_t>(GetParam()));
  struct Job {
    int64_t arrival = 0, rows = 0, left = 0;
    double shared_left = 0, shared_end = -1;
    int64_t end = -1;
  };
  std::vector<Job> jobs(60);
  int64_t when = 0;
  for (Job& job : jobs) {
    when += std::uniform_int_distribution<int64_t>(0, 30)(random);
    job.arrival = when;
    job.rows = random() % 5 == 0 ? 200 : std::uniform_int_distribution<int64_t>(1, 30)(random);
    job.left = job.rows;
    job.shared_left = static_cast<double>(job.rows);
  }
  FairQueue queue;
  size_t next = 0, ended = 0;
  for (int64_t now = 0; ended < jobs.size(); ++now) {
    for (; next < jobs.size() && jobs[next].arrival <= now; ++next) {
      queue.Add(absl::StrCat(next), jobs[next].rows);
    }
    // The shared system over [now, now + 1].
    double time = static_cast<double>(now);
    while (time < static_cast<double>(now + 1)) {
      int64_t active = 0;
      double least = 1e18;
      for (size_t i = 0; i < next; ++i) {
        if (jobs[i].shared_end >= 0) continue;
        ++active;
        least = std::min(least, jobs[i].shared_left);
      }
      if (active == 0) break;
      const double sharing = static_cast<double>(active);
      const double span = std::min(least * sharing, static_cast<double>(now + 1) - time);
      time += span;
      for (size_t i = 0; i < next; ++i) {
        if (jobs[i].shared_end >= 0) continue;
        jobs[i].shared_left -= span / sharing;
        if (jobs[i].shared_left < 1e-9) jobs[i].shared_end = time;
      }
    }
    const std::vector<std::string> order = Order(queue);
    if (order.empty()) continue;
    Job& served = jobs[static_cast<size_t>(std::stoi(order[0]))];
    queue.Serve(1);
    if (--served.left > 0) continue;
    served.end = now + 1;
    queue.Finish(order[0]);
    ++ended;
  }
  for (size_t i = 0; i < jobs.size(); ++i) {
    EXPECT_LE(static_cast<double>(jobs[i].end), jobs[i].shared_end + 1 + 1e-6) << "job " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, FairQueueProperty, testing::Range(0, 20));

}  // namespace
}  // namespace diffmoe
