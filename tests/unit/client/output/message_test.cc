#include "client/output/message.h"

#include <limits>

#include "diffmoe/v1/training_job.pb.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace diffmoe {
namespace {

TEST(MessageText, IsProtobufJsonInFieldOrder) {
  v1::StepRecord record;
  record.set_step(7);
  record.set_loss(0.5);
  record.set_grad_norm(std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(*MessageText(record, OutputFormat::kJson),
            "{\n"
            "  \"step\": \"7\",\n"
            "  \"loss\": 0.5,\n"
            "  \"predictor_loss\": 0,\n"
            "  \"grad_norm\": \"NaN\",\n"
            "  \"learning_rate\": 0\n"
            "}\n");
}

TEST(MessageText, YamlHoldsTheSameAndQuotesTexts) {
  v1::ListJobEventsResponse events;
  v1::JobEvent& event = *events.add_events();
  event.set_sequence(1);
  event.set_state(v1::RUNNING);
  event.set_message("yes: \"no\"\n# not a comment");
  EXPECT_EQ(*MessageText(events, OutputFormat::kYaml),
            "events:\n"
            "  - sequence: \"1\"\n"
            "    state: \"RUNNING\"\n"
            "    epoch: \"0\"\n"
            "    message: \"yes: \\\"no\\\"\\n# not a comment\"\n"
            "    reason_code: \"REASON_UNSPECIFIED\"\n");
}

TEST(JsonText, HandlesEveryKindOfValue) {
  const nlohmann::ordered_json value = {
      {"b", true}, {"n", nullptr}, {"list", {1, 2.5}}, {"empty", nlohmann::ordered_json::array()}};
  EXPECT_EQ(JsonText(value, OutputFormat::kYaml),
            "b: true\nn: ~\nlist:\n  - 1\n  - 2.5\nempty:\n  []\n");
}

}  // namespace
}  // namespace diffmoe
