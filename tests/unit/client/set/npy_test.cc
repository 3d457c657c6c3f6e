#include "client/set/npy.h"

#include "gtest/gtest.h"

namespace diffmoe {
namespace {

// numpy.save's own bytes for numpy.zeros((2, 1, 2, 1), "u1") with values 1 to 4.
TEST(Npy, WritesBytesAsNumpyDoes) {
  const std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 2, 1), }";
  const std::string file = NpyBytes({2, 1, 2, 1}, "\x01\x02\x03\x04");
  EXPECT_EQ(file.substr(0, 10), std::string("\x93NUMPY\x01\x00\x76\x00", 10));
  EXPECT_EQ(file.substr(10, header.size()), header);
  ASSERT_EQ(file.size(), 128u + 4);  // the data begin at a multiple of 64
  EXPECT_EQ(file[127], '\n');
  EXPECT_EQ(file.substr(128), "\x01\x02\x03\x04");
}

TEST(Npy, WritesLabelsAsNumpyDoes) {
  const std::string file = NpyInt64({1, -2, 3});
  EXPECT_NE(file.find("{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }"),
            std::string::npos);
  ASSERT_EQ(file.size(), 128u + 24);
  EXPECT_EQ(file.substr(128 + 8, 8), "\xfe\xff\xff\xff\xff\xff\xff\xff");
}

}  // namespace
}  // namespace diffmoe
