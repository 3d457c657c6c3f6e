// Runs tests of this folder with one fault planted in the code under test, and succeeds when at
// least one of them fails: a proof that can't fail proves nothing.
//
//   mutation_test FAULT     FAULT: a name below, or "none": then all tests must pass
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>

#include "core/base/planted_faults.h"

namespace diffmoe {

Fault planted_fault = Fault::kNone;

namespace {

struct Mutation {
  const char* name;
  Fault fault;
  const char* tests;  // googletest filter
};

constexpr Mutation kMutations[] = {
    {"tie_order_reversed", Fault::kTieOrderReversed, "SelectionOracle.OneRank"},
    {"tokens_of_one_rank_dropped", Fault::kTokensOfOneRankDropped, "TwoRankParity.*"},
    {"expert_gradient_times_ranks", Fault::kExpertGradientTimesRanks,
     "*GradientsUnderLayouts.*Family3Deterministic"},
    {"threshold_from_local_pool", Fault::kThresholdFromLocalPool, "TwoRankParity.*"},
    {"predictor_leaks_into_trunk", Fault::kPredictorLeaksIntoTrunk, "*DiffMoeTraining.*"},
    {"none", Fault::kNone,
     "SelectionOracle.OneRank:TwoRankParity.*:*GradientsUnderLayouts.*Family3Deterministic:"
     "*DiffMoeTraining.*"},
};

int Run(const Mutation& mutation) {
  planted_fault = mutation.fault;
  GTEST_FLAG_SET(filter, mutation.tests);
  const bool green = RUN_ALL_TESTS() == 0;
  if (::testing::UnitTest::GetInstance()->test_to_run_count() == 0) {
    std::fprintf(stderr, "no test ran for %s\n", mutation.name);
    return 1;
  }
  const bool want_green = mutation.fault == Fault::kNone;
  std::printf("fault %s: tests are %s, as they should%s be\n", mutation.name,
              green ? "green" : "red", green == want_green ? "" : " not");
  return green == want_green ? 0 : 1;
}

}  // namespace
}  // namespace diffmoe

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (const diffmoe::Mutation& mutation : diffmoe::kMutations) {
    if (argc == 2 && std::strcmp(argv[1], mutation.name) == 0) return diffmoe::Run(mutation);
  }
  std::fprintf(stderr, "usage: mutation_test FAULT, one of:\n");
  for (const diffmoe::Mutation& mutation : diffmoe::kMutations) {
    std::fprintf(stderr, "  %s\n", mutation.name);
  }
  return 2;
}
