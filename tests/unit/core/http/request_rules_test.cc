#include "core/http/request_rules.h"

#include "gtest/gtest.h"

namespace diffmoe::http {
namespace {

const std::vector<std::string> kNames = {"127.0.0.1", "trainer.example", "trainer"};

Request Make(const std::string& method, Pairs headers) {
  Request request;
  request.method = method;
  request.headers = std::move(headers);
  return request;
}

int Code(const Route& route, const Request& request) {
  const std::optional<Reply> reply = Refuse(route, request, kNames);
  return reply.has_value() ? reply->code : 0;
}

TEST(RequestRulesTest, OnlyAddressesAndOwnNamesAreHosts) {
  for (const char* host : {"", "127.0.0.1", "127.0.0.1:7071", "10.1.2.3:80", "localhost",
                           "LocalHost:7071", "[::1]:7071", "[::1]", "trainer", "Trainer.example:1"})
    EXPECT_TRUE(KnownHost(host, kNames)) << host;
  for (const char* host : {"evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7071",
                           "[::1].evil", "trainer.evil", "127.1", "[evil]", "["})
    EXPECT_FALSE(KnownHost(host, kNames)) << host;
}

TEST(RequestRulesTest, AStrangeHostIsRefusedWhereItMatters) {
  const Request request = Make("GET", {{"Host", "evil.example:7071"}});
  EXPECT_EQ(Code({.path = "/"}, request), 403);
  EXPECT_EQ(Code({.path = "/", .any_host = true}, request), 0);
}

TEST(RequestRulesTest, MethodsAreLimited) {
  const Pairs json = {{"Host", "localhost"}, {"Content-Type", "application/json; charset=utf-8"}};
  EXPECT_EQ(Code({.path = "/"}, Make("HEAD", json)), 0);
  EXPECT_EQ(Code({.path = "/"}, Make("POST", json)), 405);
  EXPECT_EQ(Code({.path = "/", .post = true}, Make("POST", json)), 0);
  for (const char* method : {"PUT", "DELETE", "OPTIONS", "TRACE", "get"})
    EXPECT_EQ(Code({.path = "/", .post = true}, Make(method, json)), 405) << method;
}

TEST(RequestRulesTest, APostComesFromTheOwnPages) {
  const Route route{.path = "/", .post = true};
  const auto post = [](const char* origin) {
    return Make(
        "POST",
        {{"Host", "localhost:7071"}, {"Content-Type", "application/json"}, {"Origin", origin}});
  };
  EXPECT_EQ(Code(route, post("http://localhost:7071")), 0);
  for (const char* origin : {"http://evil.example", "http://localhost:7072", "null",
                             "https://localhost:7071", "http://localhost:7071.evil.example"})
    EXPECT_EQ(Code(route, post(origin)), 403) << origin;
  EXPECT_EQ(Code(route, Make("POST", {{"Host", "localhost"}, {"Content-Type", "text/plain"}})),
            415);
  EXPECT_EQ(Code(route, Make("POST", {{"Host", "localhost"}})), 415);
}

}  // namespace
}  // namespace diffmoe::http
