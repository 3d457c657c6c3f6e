#include "client/endpoint.h"

#include <cstdlib>
#include <filesystem>

#include "gtest/gtest.h"
#include "tests/support/temp_dir.h"

namespace diffmoe {
namespace {

class EndpointTest : public testing::Test {
 protected:
  EndpointTest() {
    std::filesystem::create_directories(dir_.Sub("share/diffmoe/coordinator"));
    std::filesystem::create_directories(dir_.Sub("other/coordinator"));
    setenv("XDG_DATA_HOME", dir_.Sub("share").c_str(), 1);
    unsetenv("DIFFMOE_SERVER");
  }
  ~EndpointTest() override {
    unsetenv("XDG_DATA_HOME");
    unsetenv("DIFFMOE_SERVER");
  }

  test::TempDir dir_;
};

TEST_F(EndpointTest, IsTheFirstOfFlagVariableFileAndDefault) {
  EXPECT_EQ(FindEndpoint({}).address, "127.0.0.1:7070");
  const std::string file = dir_.Sub("share/diffmoe/coordinator/coordinator.json");
  test::WriteFile(file, R"({"grpc_address": "127.0.0.1:4001", "pid": 1})");
  EXPECT_EQ(FindEndpoint({}).address, "127.0.0.1:4001");
  EXPECT_EQ(FindEndpoint({}).source, file);
  setenv("DIFFMOE_SERVER", "127.0.0.1:4002", 1);
  EXPECT_EQ(FindEndpoint({}).address, "127.0.0.1:4002");
  test::WriteFile(dir_.Sub("other/coordinator/coordinator.json"),
                  R"({"grpc_address": "127.0.0.1:4003"})");
  EXPECT_EQ(FindEndpoint({.server = "", .data_dir = dir_.Sub("other")}).address, "127.0.0.1:4003");
  EXPECT_EQ(FindEndpoint({.server = "127.0.0.1:4004", .data_dir = dir_.Sub("other")}).address,
            "127.0.0.1:4004");
}

TEST_F(EndpointTest, DamagedFilesAreAsGoodAsNone) {
  const std::string file = dir_.Sub("share/diffmoe/coordinator/coordinator.json");
  for (const char* text : {"", "{", "[]", "{\"grpc_address\": 5}", "\xff\xfe"}) {
    test::WriteFile(file, text);
    EXPECT_EQ(FindEndpoint({}).address, "127.0.0.1:7070") << text;
  }
}

TEST_F(EndpointTest, DataDirectoryFollowsTheBaseDirectoryRules) {
  EXPECT_EQ(DataDir({}), dir_.Sub("share/diffmoe"));
  EXPECT_EQ(DataDir({.server = "", .data_dir = "/x"}), "/x");
  unsetenv("XDG_DATA_HOME");
  EXPECT_EQ(DataDir({}), std::string(std::getenv("HOME")) + "/.local/share/diffmoe");
}

}  // namespace
}  // namespace diffmoe
