// TrainingJobService: a thin adapter. Mutations are posted to the loop, reads of live state are
// loop queries, histories are read from the record store. Thread-safe; nothing is owned.
#pragma once

#include "core/storage/record_store.h"
#include "diffmoe/v1/training_job.grpc.pb.h"
#include "server/api/call_traces.h"
#include "server/api/log_reads.h"
#include "server/api/watch_hub.h"
#include "server/call_table.h"
#include "server/loop.h"

namespace diffmoe::server {

class TrainingJobService final : public v1::TrainingJobService::CallbackService {
 public:
  TrainingJobService(Loop* loop, CallTable* calls, const RecordStore* records, WatchHub* hub,
                     LogReads* logs, CallTraces* traces)
      : loop_(loop), calls_(calls), records_(records), hub_(hub), logs_(logs), traces_(traces) {}

  grpc::ServerUnaryReactor* SubmitJob(grpc::CallbackServerContext* context,
                                      const v1::SubmitJobRequest* request,
                                      v1::Job* response) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context,
                                   const v1::GetJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context,
                                     const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(
      grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) override;
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* context,
                                      const v1::CancelJobRequest* request,
                                      v1::Job* response) override;
  grpc::ServerUnaryReactor* PauseJob(grpc::CallbackServerContext* context,
                                     const v1::PauseJobRequest* request,
                                     v1::Job* response) override;
  grpc::ServerUnaryReactor* ResumeJob(grpc::CallbackServerContext* context,
                                      const v1::ResumeJobRequest* request,
                                      v1::Job* response) override;
  grpc::ServerUnaryReactor* RetryJob(grpc::CallbackServerContext* context,
                                     const v1::RetryJobRequest* request,
                                     v1::Job* response) override;
  grpc::ServerUnaryReactor* ForkJob(grpc::CallbackServerContext* context,
                                    const v1::ForkJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* UpdateJob(grpc::CallbackServerContext* context,
                                      const v1::UpdateJobRequest* request,
                                      v1::Job* response) override;
  grpc::ServerUnaryReactor* ListJobEvents(grpc::CallbackServerContext* context,
                                          const v1::ListJobEventsRequest* request,
                                          v1::ListJobEventsResponse* response) override;
  grpc::ServerUnaryReactor* ListStepRecords(grpc::CallbackServerContext* context,
                                            const v1::ListStepRecordsRequest* request,
                                            v1::ListStepRecordsResponse* response) override;
  grpc::ServerWriteReactor<v1::ReadJobLogsResponse>* ReadJobLogs(
      grpc::CallbackServerContext* context, const v1::ReadJobLogsRequest* request) override;

 private:
  // As PostAndAnswer, for a call that makes a job.
  grpc::ServerUnaryReactor* PostAndTrace(grpc::CallbackServerContext* context,
                                         const std::string& method, uint64_t call, Event event,
                                         v1::Job* response);
  // Posts an event whose Reply answers the RPC.
  grpc::ServerUnaryReactor* PostAndAnswer(grpc::CallbackServerContext* context, uint64_t call,
                                          Event event, v1::Job* response);
  // The same for an event that has nothing but call and job.
  template <typename E>
  grpc::ServerUnaryReactor* PostForJob(grpc::CallbackServerContext* context,
                                       const std::string& name, v1::Job* response);

  Loop* loop_;
  CallTable* calls_;
  const RecordStore* records_;
  WatchHub* hub_;
  LogReads* logs_;
  CallTraces* traces_;
};

}  // namespace diffmoe::server
