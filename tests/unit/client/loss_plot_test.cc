#include "client/loss_plot.h"

#include <limits>

#include "core/base/exit_code.h"
#include "gtest/gtest.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/client/fake_api.h"

namespace diffmoe {
namespace {

constexpr char kPngSignature[] = "\x89PNG\r\n\x1a\n";

TEST(LossPlot, IsWrittenByTheMetricsCommand) {
  test::TempDir dir;
  FakeServer server;
  for (int step = 1; step <= 50; ++step) {
    v1::StepRecord& record = *server.api.records.add_records();
    record.set_step(step);
    record.set_loss(step == 7 ? std::numeric_limits<float>::quiet_NaN()
                              : 1.0F / static_cast<float>(step));
  }
  const std::string path = dir.Sub("loss.png");
  const CliResult result = server.Cli({"metrics", "a-1", "--plot", path});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(result.err, "wrote " + path + "\n");
  EXPECT_EQ(test::ReadFile(path).substr(0, 8), kPngSignature);
}

TEST(LossPlot, NeedsRecordsAndADirectory) {
  test::TempDir dir;
  FakeServer server;
  const CliResult empty = server.Cli({"metrics", "a-1", "--plot", dir.Sub("loss.png")});
  EXPECT_EQ(empty.exit_code, kExitConflict);
  EXPECT_EQ(empty.err, "diffmoe: no plot of a-1: expected recorded steps, got none yet\n");
  server.api.records.add_records()->set_loss(1);
  EXPECT_EQ(server.Cli({"metrics", "a-1", "--plot", dir.Sub("none/loss.png")}).exit_code,
            kExitNotFound);
}

}  // namespace
}  // namespace diffmoe
