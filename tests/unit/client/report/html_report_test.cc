#include "client/report/html_report.h"

#include <limits>
#include <regex>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace diffmoe {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kBad[] = "<script>alert(\"x\")</script>";

HtmlReport Small() {
  HtmlReport html;
  v1::Job& job = html.report.job;
  job.set_id("fashion-1");
  job.set_state(v1::SUCCEEDED);
  job.set_reason("all steps are done");
  job.mutable_spec()->mutable_model()->set_capacity(1);
  v1::Progress& progress = *job.mutable_progress();
  progress.set_step(20);
  progress.set_total_steps(20);
  for (const int block : {1, 3}) {
    v1::LayerStats& layer = *progress.add_layers();
    layer.set_block(block);
    layer.set_capacity(0.9 + 0.05 * block);
    for (const float load : {0.0F, 1.5F}) layer.add_expert_load(load);
  }
  for (int step = 1; step <= 20; ++step) {
    v1::StepRecord& record = *html.report.records.add_records();
    record.set_step(step);
    record.set_loss(1.0F / static_cast<float>(step));
    record.set_predictor_loss(0.5F);
    record.set_grad_norm(2);
    record.set_learning_rate(0.001F);
  }
  v1::Receipt& receipt = html.report.receipt;
  receipt.set_checkpoint("jobs/fashion-1/checkpoints/20");
  for (const double capacity : {1.01, 0.98}) receipt.add_capacity(capacity);
  for (int call = 0; call < 4; ++call) {
    v1::StepCapacity& used = *receipt.add_step_capacity();
    for (const float capacity : {1.2F, 0.8F}) used.add_layers(capacity);
  }
  html.classes.push_back({3, receipt});
  for (const int step : {10, 20}) {
    v1::ThresholdPoint& point = *html.thresholds.add_points();
    point.set_step(step);
    v1::LayerThresholds& layer = *point.add_layers();
    layer.set_block(1);
    for (const float threshold : {0.25F, 0.5F, 0.75F}) layer.add_thresholds(threshold);
    html.samples.push_back({step, "png of a step"});
  }
  html.samples_png = "png of all";
  v1::JobEvent& event = *html.events.add_events();
  event.set_sequence(1);
  event.set_message("submitted");
  v1::Checkpoint& checkpoint = *html.checkpoints.add_checkpoints();
  checkpoint.set_step(20);
  checkpoint.set_pinned(true);
  html.spec = "name: fashion\n";
  return html;
}

TEST(HtmlReportTest, HoldsEveryPart) {
  HtmlReport html = Small();
  v1::CalibratedTarget& target = *html.calibration.emplace().add_targets();
  target.set_measured(1);
  target.set_loss(0.2);
  const std::string page = HtmlReportText(html);
  for (const char* part :
       {"<figcaption>Loss</figcaption>", "Gradient norm before clipping", "Learning rate",
        "Loss of the capacity predictor", "Capacity per layer", "Capacity against t",
        "Capacity of each class, mean", "Capacity of each class against t", "Thresholds per layer",
        "Expert load at the last report", "Held-out loss against capacity", "block 3, expert 0: 0",
        "data:image/png;base64,cG5nIG9mIGFsbA==", "step 10</td>", "submitted", "pinned",
        "name: fashion", "20 of 20"}) {
    EXPECT_THAT(page, HasSubstr(part));
  }
}

TEST(HtmlReportTest, NeedsNoNetworkAndNoScript) {
  const std::string page = HtmlReportText(Small());
  EXPECT_THAT(page, Not(HasSubstr("http:")));
  EXPECT_THAT(page, Not(HasSubstr("https:")));
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("<link")));
  EXPECT_THAT(page, Not(HasSubstr("@import")));
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
  // What an attribute loads is a picture inside the page.
  const std::regex loads("(src|href)=\"([^\"]{0,12})");
  for (std::sregex_iterator it(page.begin(), page.end(), loads), end; it != end; ++it) {
    EXPECT_EQ((*it)[2].str(), "data:image/p");
  }
}

TEST(HtmlReportTest, TextFromOutsideIsText) {
  HtmlReport html = Small();
  html.report.job.set_id(kBad);
  html.report.job.set_reason(kBad);
  html.report.job.set_forked_from(kBad);
  html.report.checkpoint.set_name(kBad);
  html.report.receipt.set_checkpoint(kBad);
  html.report.receipt.set_sampler(kBad);
  html.events.mutable_events(0)->set_message(kBad);
  html.calibration.emplace().set_checkpoint(kBad);
  html.calibration->add_targets()->set_loss(1);
  html.spec = kBad;
  const std::string page = HtmlReportText(html);
  EXPECT_THAT(page, AllOf(Not(HasSubstr("<script")), Not(HasSubstr("alert(\""))));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;"));
}

TEST(HtmlReportTest, NumbersThatAreNoneAndMissingPartsAreFine) {
  HtmlReport html = Small();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  html.report.records.mutable_records(4)->set_loss(nan);
  html.report.records.mutable_records(5)->set_grad_norm(std::numeric_limits<float>::infinity());
  html.report.job.mutable_progress()->mutable_layers(0)->set_capacity(nan);
  html.report.job.mutable_progress()->mutable_layers(0)->set_expert_load(1, nan);
  html.report.receipt.mutable_step_capacity(0)->clear_layers();
  html.thresholds.mutable_points(0)->mutable_layers(0)->clear_thresholds();
  html.classes[0].receipt.clear_capacity();
  const std::string page = HtmlReportText(html);
  // No coordinate is made of them.
  EXPECT_FALSE(std::regex_search(page, std::regex("(d|x|y|cx|cy|width)=\"[^\"]*(nan|inf)")));

  HtmlReport dense;
  dense.report.job.set_id("dense-1");
  EXPECT_THAT(HtmlReportText(dense),
              AllOf(HasSubstr("Nothing was recorded"), Not(HasSubstr("<h2>Experts</h2>"))));
}

}  // namespace
}  // namespace diffmoe
