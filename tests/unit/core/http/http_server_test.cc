#include "core/http/http_server.h"

#include <memory>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/http.h"
#include "tests/support/wait.h"

namespace diffmoe::http {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class HttpServerTest : public ::testing::Test {
 protected:
  void Start(HttpServerOptions options = {}) {
    options.address = "127.0.0.1:0";
    auto server = HttpServer::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->Add({.path = "/hello", .handler = [](const Request& request) {
                    return Reply{.body = absl::StrCat("hello ", request.query)};
                  }});
    server_->Add({.path = "/echo", .post = true, .handler = [](const Request& request) {
                    return Reply{.body = absl::StrCat(request.method, " ", request.body)};
                  }});
  }
  std::string Ask(const std::string& text) {
    test::RawConnection connection(server_->address());
    connection.Send(text);
    return connection.ReadAll();
  }
  std::string Post(const std::string& headers, const std::string& body) {
    return Ask(absl::StrCat("POST /echo HTTP/1.1\r\nHost: localhost\r\n", headers, "\r\n", body));
  }

  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, RoutesAnswer) {
  Start();
  server_->Add({.path = "/a/", .handler = [](const Request& request) {
                  return Reply{.body = "prefix " + request.path};
                }});
  server_->Add({.path = "/a/b", .handler = [](const Request&) { return Reply{.body = "b"}; }});
  EXPECT_EQ(test::HttpGet(server_->address(), "/hello?x=1")->body, "hello x=1");
  EXPECT_EQ(test::HttpGet(server_->address(), "/a/b")->body, "b");
  EXPECT_EQ(test::HttpGet(server_->address(), "/a/bc")->body, "prefix /a/bc");
  EXPECT_EQ(test::HttpGet(server_->address(), "/a/../hello")->body, "hello ");
  for (const char* path : {"/", "/b", "/hello/", "/hell", "/etc/passwd", "/../../etc/passwd"})
    EXPECT_EQ(test::HttpGet(server_->address(), path)->code, 404) << path;
}

TEST_F(HttpServerTest, RepliesTellBrowsersToStayHere) {
  Start();
  const std::string reply = Ask("GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_THAT(reply, HasSubstr("Content-Security-Policy: default-src 'self'"));
  EXPECT_THAT(reply, HasSubstr("X-Content-Type-Options: nosniff"));
  EXPECT_THAT(reply, Not(HasSubstr("Access-Control-Allow-Origin")));
}

TEST_F(HttpServerTest, HeadHasNoBody) {
  Start();
  const std::string reply = Ask("HEAD /hello HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_THAT(reply, HasSubstr("Content-Length: 6\r\n"));
  EXPECT_THAT(reply, EndsWith("\r\n\r\n"));
}

TEST_F(HttpServerTest, AStrangeHostAndBrokenRequestsAreRefused) {
  Start();
  EXPECT_THAT(Ask("GET /hello HTTP/1.1\r\nHost: evil.example\r\n\r\n"), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(Ask("DELETE /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Ask("nonsense\r\n\r\n"), StartsWith("HTTP/1.1 400"));
  EXPECT_EQ(test::HttpGet(server_->address(), "/hello")->code, 200);
}

TEST_F(HttpServerTest, BodiesAreReadUpToTheLimit) {
  HttpServerOptions options;
  options.max_body_bytes = 10;
  Start(options);
  const std::string json = "Content-Type: application/json\r\n";
  EXPECT_THAT(Post(json + "Content-Length: 3\r\n", "abc"), EndsWith("POST abc"));
  EXPECT_THAT(Post(json + "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
              EndsWith("POST abcde"));
  EXPECT_THAT(Post(json + "Content-Length: 11\r\n", "abcdefghijk"), StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(Post(json + "Transfer-Encoding: chunked\r\n", "b\r\nabcdefghijk\r\n0\r\n\r\n"),
              StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(Post("Content-Length: 3\r\n", "abc"), StartsWith("HTTP/1.1 415"));
}

TEST_F(HttpServerTest, SilentClientsAndSlowReadersDoNotBlockOthers) {
  HttpServerOptions options;
  options.threads = 4;
  options.request_limit = absl::Milliseconds(500);
  Start(options);
  const std::string large(32 << 20, 'x');  // more than both kernel buffers hold
  server_->Add(
      {.path = "/large", .handler = [&large](const Request&) { return Reply{.body = large}; }});
  // More of them than threads.
  std::vector<std::unique_ptr<test::RawConnection>> slow;
  for (int i = 0; i < 6; ++i) {
    slow.push_back(std::make_unique<test::RawConnection>(server_->address(), 4096));
    if (i % 3 == 0) slow.back()->Send("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n");
    if (i % 3 == 1) slow.back()->Send("GET /hello HTTP/1.1\r\nHo");
  }
  const auto reply = test::HttpGet(server_->address(), "/hello", absl::Seconds(20));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->body, "hello ");
}

TEST_F(HttpServerTest, ABodyThatNeverComesEnds) {
  HttpServerOptions options;
  options.request_limit = absl::Milliseconds(300);
  Start(options);
  EXPECT_THAT(Post("Content-Type: application/json\r\nContent-Length: 3\r\n", "a"),
              StartsWith("HTTP/1.1 400"));
}

TEST_F(HttpServerTest, StreamsArriveWhileTheyAreMade) {
  Start();
  absl::Notification read;
  server_->Add({.path = "/stream", .handler = [&read](const Request&) {
                  return Reply{.stream = [&read](Stream& stream) {
                    stream.Write("first");
                    read.WaitForNotification();
                    stream.Write("second");
                  }};
                }});
  test::RawConnection connection(server_->address());
  connection.Send("GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_THAT(connection.ReadUntil("first"), HasSubstr("Transfer-Encoding: chunked"));
  read.Notify();
  EXPECT_THAT(connection.ReadAll(), EndsWith("6\r\nsecond\r\n0\r\n\r\n"));
}

TEST_F(HttpServerTest, AStreamEndsWithItsClientAndWithTheServer) {
  Start();
  absl::Notification client_gone, server_stops;
  server_->Add({.path = "/until/gone", .handler = [&](const Request&) {
                  return Reply{.stream = [&](Stream& stream) {
                    while (stream.Write("x")) std::this_thread::yield();
                    client_gone.Notify();
                  }};
                }});
  server_->Add({.path = "/until/stop", .handler = [&](const Request&) {
                  return Reply{.stream = [&](Stream& stream) {
                    stream.Write("begun");
                    while (!stream.stopping()) std::this_thread::yield();
                    EXPECT_FALSE(stream.Write("more"));
                    server_stops.Notify();
                  }};
                }});
  {
    test::RawConnection connection(server_->address());
    connection.Send("GET /until/gone HTTP/1.0\r\n\r\n");
    connection.ReadUntil("x");
  }
  EXPECT_TRUE(client_gone.WaitForNotificationWithTimeout(absl::Seconds(20)));
  test::RawConnection connection(server_->address());
  connection.Send("GET /until/stop HTTP/1.0\r\n\r\n");
  connection.ReadUntil("begun");
  server_.reset();
  EXPECT_TRUE(server_stops.HasBeenNotified());
}

TEST_F(HttpServerTest, ATakenPortIsNamed) {
  const test::HeldPort held;
  const absl::Status status = HttpServer::Start({.address = held.address()}).status();
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), held.address())) << status;
}

}  // namespace
}  // namespace diffmoe::http
