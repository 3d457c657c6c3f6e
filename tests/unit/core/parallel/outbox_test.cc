#include "core/parallel/outbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <string>
#include <system_error>

namespace diffmoe {
namespace {

using ::testing::HasSubstr;

// What an expression throws.
template <typename Body>
std::string SystemError(const Body& body) {
  try {
    body();
  } catch (const std::system_error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Outbox, AReaderSeesWhatWasPublished) {
  Outbox outbox("diffmoe-test", 8192);
  PeerOutbox reader(getpid(), outbox.file(), "diffmoe-test", 8192);
  EXPECT_FALSE(reader.Has(1));
  std::memcpy(outbox.data(), "tokens", 7);
  outbox.header().bytes_to[1] = 7;
  outbox.Publish(1);
  EXPECT_TRUE(reader.Has(1));
  EXPECT_EQ(reader.header().bytes_to[1], 7u);
  EXPECT_STREQ(reinterpret_cast<const char*>(reader.data()), "tokens");
  EXPECT_FALSE(reader.left());
  outbox.Leave();
  EXPECT_TRUE(reader.left());
}

TEST(Outbox, AReaderOutlivesTheOwner) {
  auto outbox = std::make_unique<Outbox>("diffmoe-test", 100);
  PeerOutbox reader(getpid(), outbox->file(), "diffmoe-test", 100);
  outbox->data()[99] = std::byte{5};
  outbox.reset();
  EXPECT_TRUE(reader.left());
  EXPECT_EQ(reader.data()[99], std::byte{5});
}

TEST(Outbox, ItsSizeIsSealed) {
  Outbox outbox("diffmoe-test", 8192);
  EXPECT_NE(ftruncate(outbox.file(), 0), 0);
  EXPECT_NE(ftruncate(outbox.file(), 1 << 20), 0);
}

TEST(Outbox, ASizeThatCannotBeAllocatedIsNamed) {
  const size_t bytes = size_t{1} << 62;
  EXPECT_THAT(SystemError([&] { Outbox("diffmoe-huge", bytes); }),
              HasSubstr("allocating 4611686018427392000 bytes of shared memory for outbox "
                        "diffmoe-huge"));
}

TEST(Outbox, AnotherFileIsNotTakenForTheOutbox) {
  Outbox outbox("diffmoe-one", 100);
  EXPECT_THAT(SystemError([&] { PeerOutbox(getpid(), outbox.file(), "diffmoe-two", 100); }),
              HasSubstr("which is /memfd:diffmoe-one"));
  EXPECT_THAT(SystemError([] { PeerOutbox(getpid(), 1 << 20, "diffmoe-two", 100); }),
              HasSubstr("looking for outbox diffmoe-two"));
}

TEST(ProcessWatch, NoticesTheEnd) {
  const pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  ProcessWatch watch(child);
  EXPECT_FALSE(watch.ended());
  kill(child, SIGKILL);
  siginfo_t info;
  waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT);
  EXPECT_TRUE(watch.ended());  // before it is reaped
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(watch.ended());
}

}  // namespace
}  // namespace diffmoe
