#include "server/api/histories.h"

#include <gtest/gtest.h>

#include <memory>

#include "server/errors.h"
#include "server/state/records.h"
#include "tests/support/temp_dir.h"

namespace diffmoe::server {
namespace {

class HistoriesTest : public testing::Test {
 protected:
  HistoriesTest() : records_(std::move(RecordStore::Open(dir_.Sub("records")).value())) {
    internal::v1::JobRecord job;
    job.mutable_job()->set_id("a-1");
    Write(JobKey("a-1"), job.SerializeAsString());
  }
  void Write(const std::string& key, const std::string& value) {
    const RecordWrite write{key, value};
    ASSERT_TRUE(records_->Commit({&write, 1}).ok());
  }
  // Steps first..last of one attempt, all with the same loss.
  void WriteSteps(int64_t first, int64_t last, int64_t epoch, float loss) {
    internal::v1::StepRecords batch;
    for (int64_t step = first; step <= last; ++step) {
      batch.add_records()->set_step(step);
      batch.mutable_records()->rbegin()->set_loss(loss);
    }
    Write(StepsKey("a-1", first, epoch), batch.SerializeAsString());
  }

  test::TempDir dir_;
  std::unique_ptr<RecordStore> records_;
};

TEST_F(HistoriesTest, LaterAttemptWinsWhereStepsOverlap) {
  WriteSteps(1, 10, 1, 1.0f);
  WriteSteps(11, 20, 1, 1.0f);
  WriteSteps(6, 12, 2, 2.0f);
  v1::ListStepRecordsRequest request;
  request.set_name("jobs/a-1");
  v1::ListStepRecordsResponse response;
  ASSERT_TRUE(ReadStepRecords(*records_, request, &response).ok());
  ASSERT_EQ(response.records_size(), 20);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(response.records(i).step(), i + 1);
    EXPECT_EQ(response.records(i).loss(), i + 1 >= 6 && i + 1 <= 12 ? 2.0f : 1.0f) << i + 1;
  }
}

TEST_F(HistoriesTest, ThinnedEvenlyWithBothEnds) {
  WriteSteps(1, 1000, 1, 1.0f);
  v1::ListStepRecordsRequest request;
  request.set_name("jobs/a-1");
  request.set_max_points(5);
  v1::ListStepRecordsResponse response;
  ASSERT_TRUE(ReadStepRecords(*records_, request, &response).ok());
  std::vector<int64_t> steps;
  for (const auto& record : response.records()) steps.push_back(record.step());
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 250, 500, 750, 1000}));
}

TEST_F(HistoriesTest, EventsComeInOrderAfterASequence) {
  for (int64_t sequence = 1; sequence <= 30; ++sequence) {
    v1::JobEvent event;
    event.set_sequence(sequence);
    Write(EventKey("a-1", sequence), event.SerializeAsString());
  }
  v1::ListJobEventsRequest request;
  request.set_name("jobs/a-1");
  request.set_after_sequence(10);
  request.set_page_size(5);
  v1::ListJobEventsResponse response;
  ASSERT_TRUE(ReadJobEvents(*records_, request, &response).ok());
  ASSERT_EQ(response.events_size(), 5);
  EXPECT_EQ(response.events(0).sequence(), 11);
  EXPECT_EQ(response.events(4).sequence(), 15);
}

TEST_F(HistoriesTest, ThresholdsAscendInStep) {
  for (int64_t step : {30, 10, 200}) {
    v1::ThresholdPoint point;
    point.set_step(step);
    point.add_layers()->add_thresholds(static_cast<float>(step));
    Write(ThresholdsKey("a-1", step), point.SerializeAsString());
  }
  v1::ListThresholdsRequest request;
  request.set_parent("jobs/a-1");
  v1::ListThresholdsResponse response;
  ASSERT_TRUE(ReadThresholds(*records_, request, &response).ok());
  ASSERT_EQ(response.points_size(), 3);
  EXPECT_EQ(response.points(0).step(), 10);
  EXPECT_EQ(response.points(2).step(), 200);
}

TEST_F(HistoriesTest, UnknownJobsAndDamage) {
  v1::ListStepRecordsRequest request;
  request.set_name("jobs/b-2");
  v1::ListStepRecordsResponse response;
  const absl::Status unknown = ReadStepRecords(*records_, request, &response);
  EXPECT_EQ(DetailsOf(unknown).reason(), v1::JOB_NOT_FOUND);
  Write(StepsKey("a-1", 1, 1), "\xff\xff\xff");
  request.set_name("jobs/a-1");
  EXPECT_EQ(ReadStepRecords(*records_, request, &response).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace diffmoe::server
