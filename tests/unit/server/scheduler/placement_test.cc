#include "server/scheduler/placement.h"

#include <gtest/gtest.h>

namespace diffmoe::server {
namespace {

std::vector<CandidateSlot> Worker(const std::string& id, int slots, int used = 0,
                                  const std::string& device = "cpu") {
  std::vector<CandidateSlot> out;
  for (int i = 0; i < slots; ++i) out.push_back({id, i, device, i >= used});
  return out;
}

std::vector<CandidateSlot> operator+(std::vector<CandidateSlot> a,
                                     const std::vector<CandidateSlot>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

std::string Text(const PlacementResult& result) {
  std::string text;
  for (const PlacedRank& rank : result.ranks) {
    text += rank.worker_id + ":" + std::to_string(rank.slot) + " ";
  }
  return text;
}

TEST(PlacementTest, AllOrNone) {
  const PlacementResult result = PlaceGang(4, "cpu", Worker("a", 2) + Worker("b", 1));
  EXPECT_TRUE(result.ranks.empty());
  EXPECT_EQ(result.reason, "needs 4 cpu slots, 3 are free of 3 in the cluster");
  EXPECT_EQ(result.missing, 1);
  EXPECT_FALSE(result.ever);
}

TEST(PlacementTest, SaysWhenItWouldFitLater) {
  const PlacementResult result = PlaceGang(2, "cpu", Worker("a", 2, 1));
  EXPECT_EQ(result.reason, "needs 2 cpu slots, 1 is free of 2 in the cluster");
  EXPECT_TRUE(result.ever);
}

TEST(PlacementTest, TightestWorkerThatHoldsAll) {
  EXPECT_EQ(Text(PlaceGang(2, "cpu", Worker("a", 8) + Worker("b", 3) + Worker("c", 2))),
            "c:0 c:1 ");
}

TEST(PlacementTest, FewestWorkersWhenNoneHoldsAll) {
  EXPECT_EQ(Text(PlaceGang(5, "cpu", Worker("a", 1) + Worker("b", 4) + Worker("c", 2))),
            "b:0 b:1 b:2 b:3 c:0 ");
}

TEST(PlacementTest, TiesByName) {
  EXPECT_EQ(Text(PlaceGang(1, "cpu", Worker("b", 2) + Worker("a", 2))), "a:0 ");
}

TEST(PlacementTest, OnlySlotsOfTheKind) {
  const auto slots = Worker("a", 2) + Worker("g", 2, 0, "cuda:0");
  EXPECT_EQ(Text(PlaceGang(2, "cuda", slots)), "g:0 g:1 ");
  EXPECT_EQ(PlaceGang(3, "cuda", slots).reason,
            "needs 3 cuda slots, 2 are free of 2 in the cluster");
}

TEST(PlacementTest, EmptyCluster) {
  EXPECT_EQ(PlaceGang(1, "cpu", {}).reason, "needs 1 cpu slot, 0 are free of 0 in the cluster");
}

}  // namespace
}  // namespace diffmoe::server
