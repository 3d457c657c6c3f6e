#include "server/sampling/user_queue.h"

#include <gtest/gtest.h>

#include <random>

namespace diffmoe::server {
namespace {

using Calls = std::vector<uint64_t>;

TEST(UserQueueTest, UsersTakeTurns) {
  UserQueue queue;
  for (const uint64_t call : {1, 2, 3}) queue.Add("a", call);
  queue.Add("b", 4);
  queue.Add("c", 5);
  queue.Add("c", 6);
  EXPECT_EQ(queue.Order(), (Calls{1, 4, 5, 2, 6, 3}));
  EXPECT_EQ(queue.SizeOf("a"), 3u);
  queue.Pop();
  EXPECT_EQ(queue.Front(), 4u);
  queue.Add("a", 7);
  EXPECT_EQ(queue.Order(), (Calls{4, 5, 2, 6, 3, 7}));
}

TEST(UserQueueTest, OneThatComesBackGoesByItsAge) {
  UserQueue queue;
  queue.Add("a", 5);
  queue.Add("a", 2);
  EXPECT_EQ(queue.Front(), 2u);
}

TEST(UserQueueTest, RemovedOnesAreGone) {
  UserQueue queue;
  queue.Add("a", 1);
  queue.Add("b", 2);
  queue.Remove("a", 1);
  queue.Remove("a", 1);
  queue.Remove("b", 9);
  queue.Remove("nobody", 2);
  EXPECT_EQ(queue.Order(), Calls{2});
  queue.Pop();
  EXPECT_TRUE(queue.empty());
  EXPECT_FALSE(queue.Front().has_value());
  queue.Pop();
  EXPECT_EQ(queue.size(), 0u);
}

TEST(UserQueueTest, OrderIsTheOrderOfPops) {
  std::mt19937 random(7);
  UserQueue queue;
  for (uint64_t call = 1; call <= 200; ++call) {
    queue.Add(std::string(1, static_cast<char>('a' + random() % 5)), call);
    if (random() % 4 == 0) queue.Pop();
  }
  const Calls order = queue.Order();
  ASSERT_EQ(order.size(), queue.size());
  for (const uint64_t call : order) {
    EXPECT_EQ(queue.Front(), call);
    queue.Pop();
  }
  EXPECT_TRUE(queue.empty());
}

}  // namespace
}  // namespace diffmoe::server
