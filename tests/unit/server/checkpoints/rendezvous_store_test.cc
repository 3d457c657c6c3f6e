#include "server/checkpoints/rendezvous_store.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace diffmoe::server {
namespace {

using worker::v1::KeyValueRequest;
using worker::v1::KeyValueResponse;

class RendezvousStoreTest : public ::testing::Test {
 protected:
  static KeyValueRequest Request(int64_t epoch = 1) {
    KeyValueRequest request;
    request.mutable_group()->set_id("job");
    request.mutable_group()->set_epoch(epoch);
    request.set_timeout_ms(10'000);
    return request;
  }
  static worker::v1::GroupId Group(int64_t epoch) { return Request(epoch).group(); }
  absl::StatusOr<KeyValueResponse> Run(const KeyValueRequest& request) {
    return store_.Execute(request, [this] { return cancelled_.load(); });
  }
  absl::Status Set(const std::string& key, const std::string& value, int64_t epoch = 1) {
    KeyValueRequest request = Request(epoch);
    request.mutable_set()->set_key(key);
    request.mutable_set()->set_value(value);
    return Run(request).status();
  }
  absl::StatusOr<std::string> Get(const std::string& key, int64_t timeout_ms, int64_t epoch = 1) {
    KeyValueRequest request = Request(epoch);
    request.mutable_get()->set_key(key);
    request.set_timeout_ms(timeout_ms);
    const auto response = Run(request);
    if (!response.ok()) return response.status();
    return response->value();
  }
  int64_t Add(const std::string& key, int64_t amount) {
    KeyValueRequest request = Request();
    request.mutable_add()->set_key(key);
    request.mutable_add()->set_amount(amount);
    return Run(request).value().number();
  }
  int64_t Check(const std::vector<std::string>& keys) {
    KeyValueRequest request = Request();
    request.mutable_check()->mutable_keys()->Assign(keys.begin(), keys.end());
    return Run(request).value().number();
  }

  RendezvousStore store_;
  std::atomic<bool> cancelled_{false};
};

TEST_F(RendezvousStoreTest, KeepsValuesPerEpoch) {
  ASSERT_TRUE(Set("k", "one").ok());
  ASSERT_TRUE(Set("k", "two", 2).ok());
  EXPECT_EQ(Get("k", 0).value(), "one");
  EXPECT_EQ(Get("k", 0, 2).value(), "two");
  ASSERT_TRUE(Set("k", std::string("\0bin", 4)).ok());
  EXPECT_EQ(Get("k", 0).value(), std::string("\0bin", 4));
}

TEST_F(RendezvousStoreTest, CountsAndDeletes) {
  EXPECT_EQ(Add("n", 5), 5);
  EXPECT_EQ(Add("n", -2), 3);
  EXPECT_EQ(Get("n", 0).value(), "3");
  ASSERT_TRUE(Set("text", "abc").ok());
  KeyValueRequest add = Request();
  add.mutable_add()->set_key("text");
  EXPECT_TRUE(absl::IsInvalidArgument(Run(add).status()));
  KeyValueRequest count = Request();
  count.mutable_count();
  EXPECT_EQ(Run(count)->number(), 2);
  EXPECT_EQ(Check({"n", "text"}), 1);
  KeyValueRequest erase = Request();
  erase.mutable_del()->set_key("n");
  EXPECT_EQ(Run(erase)->number(), 1);
  EXPECT_EQ(Run(erase)->number(), 0);
  EXPECT_EQ(Check({"n", "text"}), 0);
  EXPECT_EQ(Run(count)->number(), 1);
}

TEST_F(RendezvousStoreTest, GetAndWaitAreWokenByTheKey) {
  auto got = std::async(std::launch::async, [&] { return Get("late", 60'000); });
  auto waited = std::async(std::launch::async, [&] {
    KeyValueRequest request = Request();
    request.mutable_wait()->add_keys("late");
    request.mutable_wait()->add_keys("later");
    return Run(request).status();
  });
  ASSERT_TRUE(Set("late", "v").ok());
  EXPECT_EQ(got.get().value(), "v");
  EXPECT_EQ(Add("later", 1), 1);
  EXPECT_TRUE(waited.get().ok());
}

TEST_F(RendezvousStoreTest, AKeyThatDoesNotComeIsNamed) {
  const absl::Status status = Get("missing", 20).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "missing")) << status;
  EXPECT_TRUE(absl::IsDeadlineExceeded(Get("missing", -1).status()));
}

TEST_F(RendezvousStoreTest, TheEndOfTheGroupEndsItsWaiters) {
  auto first = std::async(std::launch::async, [&] { return Get("never", 60'000, 1).status(); });
  auto second = std::async(std::launch::async, [&] { return Get("comes", 60'000, 2).status(); });
  // Both namespaces must be there before the end: a key in each shows it.
  ASSERT_TRUE(Set("here", "x", 1).ok());
  ASSERT_TRUE(Set("here", "x", 2).ok());
  while (!absl::IsAborted(Get("here", 0, 1).status())) {
    store_.EndGroup(Group(1));
    if (first.wait_for(std::chrono::milliseconds(50)) == std::future_status::ready) break;
  }
  EXPECT_TRUE(absl::IsAborted(first.get()));
  ASSERT_TRUE(Set("comes", "x", 2).ok());
  EXPECT_TRUE(second.get().ok());
  EXPECT_EQ(Get("here", 0, 2).value(), "x");
}

TEST_F(RendezvousStoreTest, ACallerThatHasGoneIsNotWaitedFor) {
  auto got = std::async(std::launch::async, [&] { return Get("never", 60'000).status(); });
  cancelled_ = true;
  EXPECT_TRUE(absl::IsCancelled(got.get()));
}

TEST_F(RendezvousStoreTest, ShutdownEndsEverything) {
  auto got = std::async(std::launch::async, [&] { return Get("never", 60'000).status(); });
  store_.Shutdown();
  EXPECT_TRUE(absl::IsUnavailable(got.get()));
  EXPECT_TRUE(absl::IsUnavailable(Set("k", "v")));
}

TEST_F(RendezvousStoreTest, SizesAreBounded) {
  EXPECT_TRUE(absl::IsInvalidArgument(Set("", "v")));
  EXPECT_TRUE(absl::IsInvalidArgument(Set(std::string(1025, 'k'), "v")));
  EXPECT_TRUE(absl::IsInvalidArgument(Set("k", std::string((1 << 20) + 1, 'v'))));
  EXPECT_TRUE(absl::IsInvalidArgument(Run(Request()).status()));
  const std::string value(1 << 20, 'v');
  int stored = 0;
  absl::Status status;
  while ((status = Set(absl::StrCat("key", stored), value)).ok()) ++stored;
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(stored, 63);  // 64 MiB with the keys
  EXPECT_TRUE(Set("key0", "short").ok());
  EXPECT_TRUE(Set("one more", value).ok());
}

TEST_F(RendezvousStoreTest, GroupsAreBounded) {
  absl::Status status;
  int64_t epoch = 1;
  while ((status = Set("k", "v", epoch)).ok()) ++epoch;
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(epoch, 1025);
  store_.EndGroup(Group(1000));
  EXPECT_TRUE(Set("k", "v", 1025).ok());
  EXPECT_EQ(Get("k", 0, 1001).value(), "v");
}

}  // namespace
}  // namespace diffmoe::server
