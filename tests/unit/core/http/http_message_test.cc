#include "core/http/http_message.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace diffmoe::http {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

TEST(HttpMessageTest, AQueryIsDecoded) {
  EXPECT_THAT(*ParseQuery("a=1&b=x%20y+z&c&=d&&a=%C3%A9"),
              ElementsAre(Pair("a", "1"), Pair("b", "x y z"), Pair("c", ""), Pair("", "d"),
                          Pair("a", "\xc3\xa9")));
  EXPECT_THAT(*ParseQuery(""), IsEmpty());
}

TEST(HttpMessageTest, ABrokenEscapeIsRefused) {
  for (const char* query : {"a=%", "a=%2", "a=%zz", "%=1"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseQuery(query).status())) << query;
  }
}

TEST(HttpMessageTest, ErrorsAreJsonWhateverTheyQuote) {
  EXPECT_EQ(ErrorReply(404, "NOT_FOUND", "no \"job\"\n").body,
            "{\"error\":{\"code\":404,\"status\":\"NOT_FOUND\",\"message\":\"no "
            "\\\"job\\\"\\n\"}}\n");
  EXPECT_EQ(ErrorReply(400, "INVALID_ARGUMENT", "\xff").body,
            "{\"error\":{\"code\":400,\"status\":\"INVALID_ARGUMENT\",\"message\":\"\xef\xbf\xbd\""
            "}}\n");
}

TEST(HttpMessageTest, HeadersAreFoundInAnyCase) {
  Request request;
  request.headers = {{"hOST", "a"}, {"Host", "b"}};
  EXPECT_EQ(request.Header("Host"), "a");
  EXPECT_EQ(request.Header("Origin"), "");
}

}  // namespace
}  // namespace diffmoe::http
