// Keys of the `records` store. Numbers are zero-padded, so byte order is numeric order.
//   header                            StoreHeader
//   jobs/<id>                         JobRecord
//   events/<id>/<sequence>            v1::JobEvent
//   manifests/<id>/<step>             worker.v1.Manifest
//   thresholds/<id>/<step>            v1::ThresholdPoint
//   calibrations/<id>/<step>          v1::Calibration of the manifest's epoch
//   steps/<id>/<first step>/<epoch>   StepRecords; where attempts overlap the larger epoch is right
#pragma once

#include <cstdint>
#include <string>

namespace diffmoe::server {

inline constexpr int kSchemaVersion = 1;
inline constexpr char kHeaderKey[] = "header";
inline constexpr char kJobsPrefix[] = "jobs/";
inline constexpr char kManifestsPrefix[] = "manifests/";
inline constexpr char kCalibrationsPrefix[] = "calibrations/";

std::string JobKey(const std::string& job_id);
std::string EventKey(const std::string& job_id, int64_t sequence);
std::string EventsPrefix(const std::string& job_id);
std::string ManifestKey(const std::string& job_id, int64_t step);
std::string ManifestsPrefix(const std::string& job_id);
std::string ThresholdsKey(const std::string& job_id, int64_t step);
std::string ThresholdsPrefix(const std::string& job_id);
std::string CalibrationKey(const std::string& job_id, int64_t step);
std::string StepsKey(const std::string& job_id, int64_t first_step, int64_t epoch);
std::string StepsPrefix(const std::string& job_id);

}  // namespace diffmoe::server
