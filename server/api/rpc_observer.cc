#include "server/api/rpc_observer.h"

#include <chrono>
#include <string>

namespace diffmoe::server {
namespace {

using Clock = std::chrono::steady_clock;

// "/diffmoe.v1.TrainingJobService/SubmitJob" -> "TrainingJobService/SubmitJob"; anything that isn't
// ours -> "other".
std::string MethodLabel(const std::string& method) {
  if (method.rfind("/diffmoe.", 0) != 0) return "other";
  const size_t slash = method.rfind('/');
  const size_t dot = method.rfind('.', slash);
  return method.substr(dot + 1);
}

class RpcObserver final : public grpc::experimental::Interceptor {
 public:
  RpcObserver(metrics::RpcMetrics* metrics, const std::string& method)
      : metrics_(metrics), method_(MethodLabel(method)), begin_(Clock::now()) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            grpc::experimental::InterceptionHookPoints::PRE_SEND_STATUS)) {
      const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
      metrics_->Ended(method_, static_cast<absl::StatusCode>(methods->GetSendStatus().error_code()),
                      seconds);
    }
    methods->Proceed();
  }

 private:
  metrics::RpcMetrics* metrics_;
  const std::string method_;
  const Clock::time_point begin_;
};

class RpcObserverFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit RpcObserverFactory(metrics::RpcMetrics* metrics) : metrics_(metrics) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return new RpcObserver(metrics_, info->method());  // gRPC owns it
  }

 private:
  metrics::RpcMetrics* metrics_;
};

}  // namespace

std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> RpcObservers(
    metrics::RpcMetrics* metrics) {
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> observers;
  observers.push_back(std::make_unique<RpcObserverFactory>(metrics));
  return observers;
}

}  // namespace diffmoe::server
