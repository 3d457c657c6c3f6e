#include "client/names.h"

#include "client/api_status.h"
#include "core/base/exit_code.h"
#include "gtest/gtest.h"

namespace diffmoe {
namespace {

TEST(JobName, TakesIdOrName) {
  EXPECT_EQ(*JobName("fashion-1"), "jobs/fashion-1");
  EXPECT_EQ(*JobName("jobs/fashion-1"), "jobs/fashion-1");
  for (const char* bad : {"", "a/b", "../x", "A", "a b", "a\nb", "jobs/", "jobs/a/checkpoints/1"}) {
    EXPECT_EQ(ExitCodeForError(JobName(bad).status()), kExitNotFound) << bad;
  }
}

TEST(CheckpointNameFromReference, TakesStepOrLatest) {
  EXPECT_EQ(*CheckpointNameFromReference("a-1"), "jobs/a-1");
  EXPECT_EQ(*CheckpointNameFromReference("a-1@latest"), "jobs/a-1");
  EXPECT_EQ(*CheckpointNameFromReference("a-1@step=200"), "jobs/a-1/checkpoints/200");
  for (const char* bad : {"a@", "a@200", "a@step=", "a@step=-1", "a@step=x", "a@step=latest",
                          "a@step=99999999999999999999"}) {
    EXPECT_EQ(ExitCodeForError(CheckpointNameFromReference(bad).status()), kExitUsage) << bad;
  }
  EXPECT_EQ(CheckpointNameFromReference("a@200").status().message(),
            "expected JOB, JOB@latest or JOB@step=NUMBER, got \"a@200\"");
}

TEST(CheckpointName, TakesStepOrLatest) {
  EXPECT_EQ(*CheckpointName("a", "latest"), "jobs/a/checkpoints/latest");
  EXPECT_EQ(*CheckpointName("a", "7"), "jobs/a/checkpoints/7");
  EXPECT_EQ(CheckpointName("a", "x").status().message(),
            "expected a step number or latest, got \"x\"");
}

TEST(ParseClasses, TakesLists) {
  EXPECT_EQ(*ParseClasses("3"), (std::vector<int32_t>{3}));
  EXPECT_EQ(*ParseClasses("0,1,2"), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(*ParseClasses("-1"), (std::vector<int32_t>{-1}));  // the coordinator knows the range
  for (const char* bad : {"", "a", "1,", "1;2", "1.5", "99999999999"}) {
    EXPECT_EQ(ExitCodeForError(ParseClasses(bad).status()), kExitUsage) << bad;
  }
  EXPECT_EQ(RepeatClasses({4, 5}, 2), (std::vector<int32_t>{4, 4, 5, 5}));
}

}  // namespace
}  // namespace diffmoe
