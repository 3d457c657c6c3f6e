#include "server/http/console_pages.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/support/http.h"
#include "tests/support/temp_dir.h"

namespace diffmoe::server {
namespace {

TEST(ConsolePagesTest, TheProgramHoldsTheFilesAsTheyAre) {
  ASSERT_GE(ConsoleFiles().size(), 5u);
  for (const ConsoleFile& file : ConsoleFiles()) {
    EXPECT_EQ(file.content,
              test::ReadFile(absl::StrCat(DIFFMOE_SOURCE_DIR "/server/console/", file.name)))
        << file.name;
  }
}

TEST(ConsolePagesTest, PagesAreServedWithTheirTypes) {
  auto server = http::HttpServer::Start({.address = "127.0.0.1:0"});
  ASSERT_TRUE(server.ok()) << server.status();
  AddConsolePages(server->get());
  const std::string& address = (*server)->address();
  EXPECT_EQ(test::HttpGet(address, "/")->body, test::HttpGet(address, "/console/index.html")->body);
  EXPECT_TRUE(absl::StrContains(test::HttpGet(address, "/")->body, "<title>DiffMoE</title>"));
  test::RawConnection connection(address);
  connection.Send("GET /console/app.js HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(
      absl::StrContains(connection.ReadAll(), "Content-Type: text/javascript; charset=utf-8\r\n"));
  EXPECT_EQ(test::HttpGet(address, "/console/")->code, 404);
  EXPECT_EQ(test::HttpGet(address, "/console/../main.cc")->code, 404);
}

}  // namespace
}  // namespace diffmoe::server
