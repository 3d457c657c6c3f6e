#include "client/interrupt.h"

#include <atomic>

#include "gtest/gtest.h"

namespace diffmoe {
namespace {

TEST(Interrupt, RunsTheActionOnceItIsTriggeredAndAtOnceAfterwards) {
  Interrupt interrupt;
  int calls = 0;
  {
    const InterruptAction action(&interrupt, [&calls] { ++calls; });
    EXPECT_FALSE(interrupt.triggered());
    interrupt.Trigger();
    EXPECT_EQ(calls, 1);
  }
  interrupt.Trigger();
  EXPECT_EQ(calls, 1);  // taken away
  const InterruptAction late(&interrupt, [&calls] { ++calls; });
  EXPECT_EQ(calls, 2);
  EXPECT_TRUE(interrupt.triggered());
}

TEST(Interrupt, EndsASleep) {
  Interrupt interrupt;
  EXPECT_TRUE(interrupt.WaitFor(absl::Milliseconds(1)));
  std::thread trigger([&interrupt] { interrupt.Trigger(); });
  EXPECT_FALSE(interrupt.WaitFor(absl::Hours(1)));
  trigger.join();
}

}  // namespace
}  // namespace diffmoe
