#include "client/output/views.h"

#include "gtest/gtest.h"

namespace diffmoe {
namespace {

constexpr int64_t kNowMs = 1'800'000'000'000;

v1::Job FullJob() {
  v1::Job job;
  job.set_id("fashion-1");
  job.set_state(v1::RUNNING);
  job.mutable_create_time()->set_seconds(1'799'999'748);
  job.mutable_start_time()->set_seconds(1'799'999'750);
  job.set_epoch(2);
  job.set_restarts(1);
  job.set_latest_checkpoint_step(200);
  v1::Attempt& first = *job.add_attempts();
  first.set_epoch(1);
  first.mutable_start_time()->set_seconds(1'799'999'750);
  first.set_last_step(230);
  first.set_end_reason("rank 1 was killed by signal 9");
  v1::Attempt& second = *job.add_attempts();
  second.set_epoch(2);
  second.mutable_start_time()->set_seconds(1'799'999'900);
  second.set_restored_step(200);
  second.set_last_step(812);
  for (int rank = 0; rank < 2; ++rank) {
    v1::Placement& placement = *second.add_placements();
    placement.set_rank(rank);
    placement.set_worker_id("w-1");
    placement.set_slot(rank);
  }
  v1::Progress& progress = *job.mutable_progress();
  progress.set_step(812);
  progress.set_total_steps(1767);
  progress.set_loss(0.1715);
  progress.set_predictor_loss(0.3);
  progress.set_images_per_second(117.62);
  progress.set_learning_rate(0.002);
  progress.set_grad_norm(0.5);
  progress.set_elapsed_seconds(240);
  progress.set_seconds_left(252);
  progress.set_bad_files(2);
  v1::LayerStats& layer = *progress.add_layers();
  layer.set_block(1);
  layer.set_capacity(0.99);
  layer.set_predictor_accuracy(0.931);
  layer.set_zero_expert_tokens(0.25);
  for (float value : {0.5F, 0.25F}) layer.add_thresholds(value);
  for (float value : {0.9F, 1.1F}) layer.add_expert_load(value);
  return job;
}

TEST(JobsTable, Golden) {
  v1::ListJobsResponse jobs;
  *jobs.add_jobs() = FullJob();
  v1::Job& waiting = *jobs.add_jobs();
  waiting.set_id("b-2");
  waiting.set_state(v1::QUEUED);
  waiting.set_reason("needs 4 slots, 2 are free");
  waiting.mutable_create_time()->set_seconds(1'799'999'995);
  EXPECT_EQ(JobsTable(jobs, kNowMs),
            "JOB        STATE        STEP    LOSS  IMAGES/S    AGE  REASON\n"
            "fashion-1  RUNNING  812/1767  0.1715       118  4m12s\n"
            "b-2        QUEUED          -       -         -   5.0s  needs 4 slots, 2 are free\n");
}

TEST(JobText, Golden) {
  EXPECT_EQ(
      JobText(FullJob(), kNowMs),
      "job            fashion-1\n"
      "state          RUNNING\n"
      "created        2027-01-15 07:55:48Z (4m12s ago)\n"
      "started        2027-01-15 07:55:50Z\n"
      "attempts       2, restarts 1\n"
      "checkpoint     step 200\n"
      "step           812/1767\n"
      "loss           0.1715, predictor 0.3\n"
      "speed          117.6 images/s\n"
      "learning rate  0.002\n"
      "gradient norm  0.5\n"
      "time           4m00s trained, 4m12s left\n"
      "broken files   2 skipped\n"
      "\n"
      "BLOCK      C  PREDICTOR ACCURACY  TOKENS WITHOUT EXPERT  LOAD MIN  LOAD MAX  THRESHOLDS\n"
      "    1  0.990               0.931                  0.250      0.90      1.10  0.500 0.250\n"
      "\n"
      "ATTEMPT  STARTED               FROM STEP  LAST STEP  RANKS                                  "
      "   "
      "  ENDED\n"
      "      1  2027-01-15 07:55:50Z          0        230                                         "
      "   "
      "  rank 1 was killed by signal 9\n"
      "      2  2027-01-15 07:58:20Z        200        812  rank 0 on w-1 slot 0, rank 1 on w-1 "
      "slot 1"
      "  running\n");
}

TEST(WhyText, ShowsReasonAndTheNewestEvents) {
  v1::Job job;
  job.set_id("a-1");
  job.set_state(v1::FAILED);
  job.set_reason("the same error twice at step 7");
  v1::ListJobEventsResponse events;
  for (int i = 1; i <= 12; ++i) {
    v1::JobEvent& event = *events.add_events();
    event.set_sequence(i);
    event.set_state(v1::RUNNING);
    event.set_message("event " + std::to_string(i));
  }
  const std::string text = WhyText(job, events);
  EXPECT_EQ(text.substr(0, text.find('\n')), "a-1 is FAILED: the same error twice at step 7");
  EXPECT_EQ(text.find("event 2\n"), std::string::npos);
  EXPECT_NE(text.find("event 3\n"), std::string::npos);
  EXPECT_NE(text.find("event 12\n"), std::string::npos);
}

TEST(StepRecordsTable, ShowsTheLastAndEvenlySpacedOthers) {
  v1::ListStepRecordsResponse records;
  for (int step = 1; step <= 101; ++step) records.add_records()->set_step(step);
  EXPECT_EQ(StepRecordsTable(records, 3),
            "STEP  LOSS  PREDICTOR LOSS  GRADIENT NORM  LEARNING RATE\n"
            "   1     0               0              0              0\n"
            "  51     0               0              0              0\n"
            " 101     0               0              0              0\n");
  EXPECT_EQ(StepRecordsTable(records, 1).substr(57, 4), " 101");
}

TEST(CheckpointViews, Golden) {
  v1::Checkpoint checkpoint;
  checkpoint.set_name("jobs/a-1/checkpoints/200");
  checkpoint.set_job_id("a-1");
  checkpoint.set_step(200);
  checkpoint.set_epoch(1);
  checkpoint.mutable_commit_time()->set_seconds(1'799'999'940);
  checkpoint.set_bytes(21286092);
  checkpoint.set_world_size(2);
  checkpoint.set_loss(0.25);
  v1::TensorInfo& tensor = *checkpoint.add_tensors();
  tensor.set_name("ema/blocks.1.experts.w1");
  tensor.set_dtype("F32");
  for (int64_t size : {8, 192, 768}) tensor.add_shape(size);
  tensor.set_bytes(4718592);
  v1::LayerThresholds& layer = *checkpoint.add_thresholds();
  layer.set_block(1);
  for (float value : {0.125F, 0.5F}) layer.add_thresholds(value);
  v1::ListCheckpointsResponse list;
  checkpoint.set_pinned(true);
  checkpoint.add_used_by("restart");
  *list.add_checkpoints() = checkpoint;
  EXPECT_EQ(CheckpointsTable(list, kNowMs),
            "STEP    AGE      SIZE  RANKS  LOSS  ATTEMPT  USE\n"
            " 200  1m00s  20.3 MiB      2  0.25        1  pinned, restart\n");
  EXPECT_EQ(CheckpointText(checkpoint, true),
            "checkpoint  jobs/a-1/checkpoints/200\n"
            "job         a-1\n"
            "step        200\n"
            "attempt     1\n"
            "committed   2027-01-15 07:59:00Z\n"
            "size        20.3 MiB\n"
            "written by  2 ranks\n"
            "loss        0.25\n"
            "use         pinned, restart\n"
            "tensors     1\n"
            "\n"
            "Thresholds\n"
            "BLOCK  EXPERT 0  EXPERT 1\n"
            "    1    0.1250    0.5000\n"
            "\n"
            "TENSOR                   TYPE  SHAPE             SIZE\n"
            "ema/blocks.1.experts.w1  F32   [8, 192, 768]  4.5 MiB\n");
  EXPECT_EQ(CheckpointText(checkpoint, false).find("TENSOR"), std::string::npos);
}

TEST(ThresholdsTable, HasARowPerStepAndLayer) {
  v1::ListThresholdsResponse history;
  for (int step : {1, 2}) {
    v1::ThresholdPoint& point = *history.add_points();
    point.set_step(step);
    for (int block : {1, 3}) {
      v1::LayerThresholds& layer = *point.add_layers();
      layer.set_block(block);
      layer.add_thresholds(0.25F * static_cast<float>(step));
    }
  }
  EXPECT_EQ(ThresholdsTable(history),
            "STEP  BLOCK  EXPERT 0\n"
            "   1      1    0.2500\n"
            "   1      3    0.2500\n"
            "   2      1    0.5000\n"
            "   2      3    0.5000\n");
}

TEST(WorkersTable, HasARowPerSlot) {
  v1::ListWorkersResponse workers;
  v1::Worker& worker = *workers.add_workers();
  worker.set_id("w-1");
  worker.set_host("node\x1b[2J");
  worker.set_state(v1::CONNECTED);
  worker.set_metrics_address("127.0.0.1:9100");
  worker.mutable_connect_time()->set_seconds(1'799'999'940);
  for (int i = 0; i < 2; ++i) {
    v1::Slot& slot = *worker.add_slots();
    slot.set_index(i);
    slot.set_device("cpu");
  }
  worker.mutable_slots(0)->set_used_by("jobs/a-1 rank 0");
  EXPECT_EQ(
      WorkersTable(workers, kNowMs),
      "WORKER  HOST         STATE      SLOT  DEVICE  USED BY          CONNECTED  METRICS\n"
      "w-1     node\\x1b[2J  CONNECTED     0  cpu     jobs/a-1 rank 0      1m00s  127.0.0.1:9100\n"
      "w-1     node\\x1b[2J  CONNECTED     1  cpu     free                 1m00s  "
      "127.0.0.1:9100\n");
}

}  // namespace
}  // namespace diffmoe
