#include "client/completion.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/exit_code.h"
#include "gtest/gtest.h"
#include "tests/support/process.h"
#include "tests/unit/client/fake_api.h"

namespace diffmoe {
namespace {

std::string Script(const std::string& shell) {
  const CliResult result = FakeServer::RunCli({"completion", shell});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  return result.out;
}

// What bash offers for the words of `line`, the last of them under the cursor.
std::string Offers(const std::string& words, int cursor) {
  test::ProcessOptions options;
  options.argv = {"/bin/bash", "-c",
                  absl::StrCat(Script("bash"), "COMP_WORDS=(", words, ")\nCOMP_CWORD=", cursor,
                               "\n_diffmoe\necho \" ${COMPREPLY[*]} \"")};
  const auto result = test::RunProcess(options, absl::Seconds(20));
  EXPECT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->err, "");
  return result->out;
}

TEST(Completion, OffersCommandsThenTheirSubcommandsAndOptions) {
  const std::string commands = Offers("diffmoe ''", 1);
  for (const char* command : {" submit ", " sample ", " jobs ", " completion "}) {
    EXPECT_TRUE(absl::StrContains(commands, command)) << commands;
  }
  EXPECT_EQ(Offers("diffmoe sub", 1), " submit \n");
  const std::string job = Offers("diffmoe job ''", 2);
  EXPECT_TRUE(absl::StrContains(job, " cancel ")) << job;
  EXPECT_FALSE(absl::StrContains(job, " submit ")) << job;
  EXPECT_EQ(Offers("diffmoe sample --guidance-i", 2), " --guidance-interval \n");
}

TEST(Completion, PassesOverValues) {
  EXPECT_EQ(Offers("diffmoe --server host:1 job wh", 4), " why \n");
  EXPECT_EQ(Offers("diffmoe sample --job a-1 --see", 4), " --seed \n");
}

TEST(Completion, KnowsThreeShells) {
  EXPECT_TRUE(absl::StartsWith(Script("zsh"), "#compdef diffmoe\n"));
  EXPECT_TRUE(absl::StrContains(Script("fish"), "complete -c diffmoe "));
  EXPECT_EQ(FakeServer::RunCli({"completion", "tcsh"}).exit_code, kExitUsage);
  EXPECT_FALSE(CompletionScript("tcsh", {}).ok());
}

}  // namespace
}  // namespace diffmoe
