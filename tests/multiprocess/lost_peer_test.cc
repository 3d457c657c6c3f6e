// A rank whose peer is killed or stopped in a collective fails in time and says who and where.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace diffmoe {
namespace {

using test::Process;
using ::testing::HasSubstr;

constexpr absl::Duration kLimit = absl::Seconds(30);

class LostPeer : public ::testing::TestWithParam<const char*> {
 protected:
  // Starts `world_size` ranks and waits until they exchange. Those of `stopping` stop themselves in
  // front of the same gather.
  void Start(int world_size, int timeout_ms, const std::set<int>& stopping = {}) {
    for (int rank = 0; rank < world_size; ++rank) {
      std::vector<std::string> argv{absl::StrCat(DIFFMOE_BIN_DIR, "/lost_peer_rank"),
                                    dir_.Sub("store"),
                                    absl::StrCat(rank),
                                    absl::StrCat(world_size),
                                    absl::StrCat(timeout_ms),
                                    GetParam()};
      if (stopping.contains(rank)) argv.push_back("20");
      auto process =
          Process::Start({.argv = std::move(argv), .environment = {}, .working_dir = ""});
      ASSERT_TRUE(process.ok()) << process.status();
      ranks_.push_back(*std::move(process));
    }
    for (const auto& rank : ranks_) ASSERT_TRUE(rank->WaitForText("running", kLimit));
  }

  // Waits for the end of rank 0; returns how long that took.
  absl::Duration Survive() {
    const absl::Time begin = absl::Now();
    const auto exit = ranks_[0]->Wait(kLimit);
    EXPECT_TRUE(exit.ok()) << exit.status();
    EXPECT_EQ(exit->exit_code, 7) << ranks_[0]->Err();
    EXPECT_THAT(ranks_[0]->Out(), HasSubstr(absl::StrCat("rank 0 of ", ranks_.size(),
                                                         ", all-gather weight gather: ")));
    return absl::Now() - begin;
  }

  bool shared() const { return std::string(GetParam()) == "shared"; }

  test::TempDir dir_;
  std::vector<std::unique_ptr<Process>> ranks_;
};

TEST_P(LostPeer, AKilledPeerIsNoticedAtOnce) {
  Start(2, 20'000);
  ranks_[1]->Signal(SIGKILL);
  EXPECT_LT(Survive(), absl::Seconds(2));
  if (shared()) {
    EXPECT_THAT(ranks_[0]->Out(), HasSubstr("rank 1's process has ended"));
  }
}

TEST_P(LostPeer, AKilledPeerOfFourIsNoticedByAll) {
  Start(4, 20'000);
  ranks_[3]->Signal(SIGKILL);
  const absl::Time begin = absl::Now();
  Survive();
  for (const int rank : {1, 2}) {
    const auto exit = ranks_[static_cast<size_t>(rank)]->Wait(kLimit);
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_EQ(exit->exit_code, 7);
  }
  EXPECT_LT(absl::Now() - begin, absl::Seconds(2));
}

TEST_P(LostPeer, AStoppedPeerIsGivenUpAtTheTimeout) {
  Start(2, 1'000);
  ranks_[1]->Signal(SIGSTOP);
  const absl::Duration took = Survive();
  EXPECT_GT(took, absl::Milliseconds(900));
  EXPECT_LT(took, absl::Seconds(3));
  if (shared()) {
    EXPECT_THAT(ranks_[0]->Out(), HasSubstr("rank 1 did not come within 1000 ms"));
  }
}

TEST_P(LostPeer, EveryPeerThatIsMissingIsNamed) {
  Start(4, 1'000, {1, 3});
  EXPECT_LT(Survive(), absl::Seconds(3));
  if (shared()) {
    EXPECT_THAT(ranks_[0]->Out(), HasSubstr("ranks 1, 3 did not come within 1000 ms"));
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, LostPeer, ::testing::Values("shared", "gloo"),
                         [](const auto& transport) { return std::string(transport.param); });

}  // namespace
}  // namespace diffmoe
