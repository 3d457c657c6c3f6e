// Every transport gives the same bytes and the same counts; ranks that don't agree are told so.
#include "core/parallel/collectives.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>

#include "core/parallel/gradient_tree.h"
#include "tests/multiprocess/rank_threads.h"

namespace diffmoe {
namespace {

using ::testing::HasSubstr;

at::TensorOptions Type(at::ScalarType type) { return at::TensorOptions().dtype(type); }

// [source][target] rows of an uneven exchange; some pairs send nothing.
std::vector<std::vector<int64_t>> RandomRows(int world_size, std::mt19937& random) {
  std::vector<std::vector<int64_t>> rows(static_cast<size_t>(world_size));
  for (auto& row : rows) {
    for (int i = 0; i < world_size; ++i) {
      row.push_back(random() % 4 == 0 ? 0 : static_cast<int64_t>(random() % 300));
    }
  }
  return rows;
}

// Results of each rank of a sequence of random collectives, and what it counted.
struct Outcome {
  std::vector<at::Tensor> results;
  CollectiveCounters counters;
  std::map<std::string, CollectiveCount> by_name;
};

Outcome RandomCollectives(Collectives& collectives, uint32_t seed) {
  std::mt19937 shapes(seed);  // the same on every rank
  const int ranks = collectives.world_size();
  const size_t me = static_cast<size_t>(collectives.rank());
  at::Generator values = at::detail::createCPUGenerator(seed * 100 + me);
  Outcome outcome;
  for (int i = 0; i < 12; ++i) {
    const int64_t n = static_cast<int64_t>(shapes() % 3000);
    const at::ScalarType type = shapes() % 2 == 0 ? at::kFloat : at::kDouble;
    at::Tensor in = at::randn({ranks, n}, values, Type(type));
    at::Tensor out = at::empty_like(in);
    collectives.AllToAll(out, in, "even exchange");
    outcome.results.push_back(out);

    at::Tensor gathered = at::empty({ranks, n}, Type(type));
    collectives.AllGather(gathered, in.select(0, 0), "gather");
    outcome.results.push_back(gathered);

    outcome.results.push_back(ReduceScatterTree(collectives, in.view({-1}), "sum").clone());

    const auto rows = RandomRows(ranks, shapes);
    const int64_t width = 1 + static_cast<int64_t>(shapes() % 40);
    std::vector<int64_t> receive;
    for (const auto& source : rows) receive.push_back(source[me]);
    const auto sum = [](const std::vector<int64_t>& counts) {
      return std::accumulate(counts.begin(), counts.end(), int64_t{0});
    };
    at::Tensor tokens = at::randn({sum(rows[me]), width}, values, Type(type));
    at::Tensor received = at::empty({sum(receive), width}, Type(type));
    collectives.AllToAllRows(received, tokens, receive, rows[me], "rows");
    outcome.results.push_back(received);
  }
  outcome.counters = collectives.counters();
  outcome.by_name = collectives.counts_by_name();
  return outcome;
}

using RunGroup = std::function<void(int, const RankBody&)>;

std::vector<Outcome> RunRandom(int world_size, uint32_t seed, const char* transport,
                               const RunGroup& run) {
  std::vector<Outcome> all(static_cast<size_t>(world_size));
  run(world_size, [&](Collectives& collectives) {
    EXPECT_STREQ(collectives.transport(), transport);
    all[static_cast<size_t>(collectives.rank())] = RandomCollectives(collectives, seed);
  });
  return all;
}

class Transports : public ::testing::TestWithParam<std::tuple<int, size_t>> {};

TEST_P(Transports, SharedMemoryEqualsGlooByteForByte) {
  const auto [world_size, outbox_bytes] = GetParam();
  CollectivesOptions options;
  options.outbox_bytes = outbox_bytes;
  for (const uint32_t seed : {1u, 2u}) {
    const auto shared = RunRandom(world_size, seed, "shared memory",
                                  [&](int n, const RankBody& b) { RunRanks(n, b, options); });
    const auto gloo = RunRandom(world_size, seed, "gloo", RunRanksOverGloo);
    for (size_t rank = 0; rank < shared.size(); ++rank) {
      for (size_t i = 0; i < gloo[rank].results.size(); ++i) {
        EXPECT_TRUE(shared[rank].results[i].equal(gloo[rank].results[i]))
            << "seed " << seed << ", rank " << rank << ", collective " << i;
      }
      const CollectiveCounters &a = shared[rank].counters, &b = gloo[rank].counters;
      EXPECT_EQ(a.rows_to_rank, b.rows_to_rank);
      int64_t sum = shared[rank].by_name.at("first meeting").bytes_sent;
      for (const auto& [name, count] : gloo[rank].by_name) {
        EXPECT_EQ(shared[rank].by_name.at(name).bytes_sent, count.bytes_sent) << name;
        EXPECT_EQ(shared[rank].by_name.at(name).calls, count.calls) << name;
        sum += count.bytes_sent;
      }
      EXPECT_EQ(a.bytes_sent, sum);
      EXPECT_EQ(std::accumulate(a.bytes_to_rank.begin(), a.bytes_to_rank.end(), int64_t{0}), sum);
    }
  }
}

// 320 bytes: every message takes many rounds. 1 MiB: one.
INSTANTIATE_TEST_SUITE_P(Sizes, Transports,
                         ::testing::Combine(::testing::Values(2, 4),
                                            ::testing::Values(size_t{320}, size_t{1} << 20)));

TEST(Collectives, OneRankCopies) {
  RunRanks(1, [](Collectives& collectives) {
    EXPECT_STREQ(collectives.transport(), "local");
    const at::Tensor in = at::randn({1, 50});
    at::Tensor out = at::empty_like(in);
    collectives.AllToAll(out, in, "x");
    EXPECT_TRUE(out.equal(in));
    EXPECT_TRUE(ReduceScatterTree(collectives, in.view({-1}), "x").equal(in.view({-1})));
  });
}

TEST(Collectives, CountWhatGoesToOthers) {
  RunRanks(2, [](Collectives& collectives) {
    const int64_t before = collectives.counters().bytes_sent;
    at::Tensor out = at::empty({2, 100}), rows = at::empty({5, 8});
    collectives.AllGather(out, at::zeros({100}), "weights");
    const bool first = collectives.rank() == 0;
    // Rank 0 keeps 2 rows and sends 3; rank 1 sends 3 and keeps 2.
    const std::vector<int64_t> send =
        first ? std::vector<int64_t>{2, 3} : std::vector<int64_t>{3, 2};
    collectives.AllToAllRows(rows, at::zeros({5, 8}), send, send, "dispatch");
    const CollectiveCounters& counters = collectives.counters();
    EXPECT_EQ(counters.bytes_sent - before, 400 + 3 * 32);
    EXPECT_EQ(counters.rows_to_rank,
              (first ? std::vector<int64_t>{0, 3} : std::vector<int64_t>{3, 0}));
    EXPECT_EQ(collectives.counts_by_name().at("weights").bytes_sent, 400);
    EXPECT_EQ(collectives.counts_by_name().at("weights").calls, 1);
    EXPECT_EQ(collectives.counts_by_name().at("dispatch").bytes_sent, 3 * 32);
  });
}

// What each rank's collective said, empty for none.
std::vector<std::string> Complaints(int world_size, const RankBody& body,
                                    const CollectivesOptions& options = {}) {
  std::vector<std::string> all(static_cast<size_t>(world_size));
  RunRanks(
      world_size,
      [&](Collectives& collectives) {
        try {
          body(collectives);
        } catch (const CollectiveError& error) {
          all[static_cast<size_t>(collectives.rank())] = error.what();
        }
      },
      options);
  return all;
}

TEST(Collectives, UnequalCountsAreRefused) {
  const auto said = Complaints(2, [](Collectives& collectives) {
    const bool first = collectives.rank() == 0;
    const std::vector<int64_t> send =
        first ? std::vector<int64_t>{0, 7} : std::vector<int64_t>{4, 0};
    const std::vector<int64_t> receive =
        first ? std::vector<int64_t>{0, 4} : std::vector<int64_t>{6, 0};
    at::Tensor out = at::zeros({first ? 4 : 6, 8});
    collectives.AllToAllRows(out, at::zeros({first ? 7 : 4, 8}), receive, send,
                             "dispatch of block 3");
    // Rank 0's counts agree; it learns of the end in its next collective.
    collectives.AllGather(out, at::zeros({16}), "next");
  });
  EXPECT_EQ(
      said[1],
      "rank 1 of 2, all-to-all dispatch of block 3: expected 192 bytes from rank 0, it sends 224");
  EXPECT_EQ(said[0], "rank 0 of 2, all-gather next: rank 1 has left the group");
}

TEST(Collectives, CountsThatDoNotFitTheBuffersAreRefused) {
  for (const auto& run :
       {RunGroup(RunRanksOverGloo), RunGroup([](int n, const RankBody&b) { RunRanks(n, b); })}) {
    run(2, [](Collectives& collectives) {
      at::Tensor out = at::zeros({3, 8});
      try {
        collectives.AllToAllRows(out, at::zeros({4, 8}), {1, 2}, {1, 2}, "return of block 1");
        FAIL() << "accepted";
      } catch (const CollectiveError& error) {
        EXPECT_THAT(error.what(), HasSubstr("return of block 1: expected to send 3 and receive 3 "
                                            "rows, buffers have 4 and 3"));
      }
    });
  }
}

TEST(Collectives, RanksInDifferentCollectivesAreTold) {
  const auto said = Complaints(2, [](Collectives& collectives) {
    at::Tensor out = at::zeros({2, 4});
    collectives.AllGather(out, at::zeros({4}), collectives.rank() == 0 ? "weights" : "scalars");
  });
  EXPECT_EQ(said[0], "rank 0 of 2, all-gather weights: rank 1 is in another collective: scalars");
  EXPECT_EQ(said[1], "rank 1 of 2, all-gather scalars: rank 0 is in another collective: weights");
}

TEST(Collectives, AFailedGroupStaysFailed) {
  const auto said = Complaints(2, [](Collectives& collectives) {
    if (collectives.rank() == 1) return;
    at::Tensor out = at::zeros({2, 4});
    EXPECT_THROW(collectives.AllGather(out, at::zeros({4}), "weights"), CollectiveError);
    collectives.AllGather(out, at::zeros({4}), "scalars");
  });
  EXPECT_EQ(said[0],
            "rank 0 of 2, all-gather scalars: the group has failed before: weights: rank 1 has "
            "left the group");
}

TEST(Collectives, WhatARankPublishedBeforeItLeftStillArrives) {
  RunRanks(2, [](Collectives& collectives) {
    for (int i = 0; i < 2; ++i) {
      at::Tensor out = at::zeros({2, 4});
      collectives.AllGather(out, at::full({4}, 1.0 + collectives.rank()), "last");
      EXPECT_EQ(out.sum().item<double>(), 12);
    }
  });
}

TEST(Collectives, LackOfSharedMemoryFallsBackToSockets) {
  CollectivesOptions options;
  options.outbox_bytes = size_t{1} << 62;  // more than any machine has
  RunRanks(
      2,
      [](Collectives& collectives) {
        EXPECT_STREQ(collectives.transport(), "gloo");
        at::Tensor out = at::zeros({2, 4});
        collectives.AllGather(out, at::full({4}, 1.0 + collectives.rank()), "x");
        EXPECT_EQ(out.sum().item<double>(), 12);
      },
      options);
}

TEST(Collectives, AnOutboxTooSmallForTheRanksIsRefused) {
  CollectivesOptions options;
  options.outbox_bytes = 64;
  EXPECT_THROW(RunRanks(
                   2, [](Collectives&) {}, options),
               std::invalid_argument);
}

}  // namespace
}  // namespace diffmoe
