#include "client/output/table.h"

#include "gtest/gtest.h"

namespace diffmoe {
namespace {

TEST(Table, AlignsColumns) {
  Table table({"JOB", ">STEP", "REASON"});
  table.AddRow({"fashion-1", "7", ""});
  table.AddRow({"b", "12345", "waits"});
  EXPECT_EQ(table.ToString(),
            "JOB         STEP  REASON\n"
            "fashion-1      7\n"
            "b          12345  waits\n");
}

TEST(Table, EscapesControlCharactersAndCountsCharactersNotBytes) {
  Table table({"A", "B"});
  table.AddRow({"x\n\x1b[31mred", "1"});
  table.AddRow({"\xc3\xa4\xc3\xb6", "2"});
  EXPECT_EQ(table.ToString(),
            "A               B\n"
            "x\\n\\x1b[31mred  1\n"
            "\xc3\xa4\xc3\xb6              2\n");
}

TEST(KeyValueText, LeavesOutEmptyValues) {
  EXPECT_EQ(KeyValueText({{"job", "a"}, {"a longer key that is absent", ""}, {"state", "x\ry"}}),
            "job    a\n"
            "state  x\\x0dy\n");
}

}  // namespace
}  // namespace diffmoe
