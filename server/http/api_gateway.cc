#include "server/http/api_gateway.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/message_json.h"
#include "core/base/version.h"
#include "diffmoe/v1/cluster.pb.h"
#include "diffmoe/v1/error.pb.h"
#include "nlohmann/json.hpp"

namespace diffmoe::server {
namespace {

using google::protobuf::Message;
using Json = nlohmann::ordered_json;

constexpr char kPrefix[] = "/api/v1/";
constexpr absl::Duration kReadyLimit = absl::Seconds(1);
constexpr absl::Duration kWorkersLimit = absl::Seconds(4);

v1::ErrorDetails DetailsOf(const grpc::Status& status) {
  v1::StatusDetails all;
  v1::ErrorDetails details;
  if (!all.ParseFromString(status.error_details())) return details;
  for (const google::protobuf::Any& any : all.details()) {
    if (any.Is<v1::ErrorDetails>() && any.UnpackTo(&details)) break;
  }
  return details;
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

http::Reply JsonReply(std::string body) {
  return {.content_type = "application/json",
          .body = std::move(body),
          .headers = {{"Cache-Control", "no-store"}}};
}

grpc::Status Stopping() {
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the coordinator is stopping");
}

std::string FullName(const ApiRoute& route) { return absl::StrCat("/diffmoe.v1.", route.method); }

// A message in the form of the stream; empty when it can't be written as JSON.
std::string Format(Answer answer, const Message& message) {
  const absl::StatusOr<std::string> json = MessageToJson(message);
  if (!json.ok()) return "";
  if (answer == Answer::kLines) return *json + "\n";
  const auto* token = message.GetDescriptor()->FindFieldByName("resume_token");
  const std::string id =
      token == nullptr
          ? ""
          : absl::StrCat("id: ", message.GetReflection()->GetString(message, token), "\n");
  return absl::StrCat(id, "data: ", *json, "\n\n");
}

// The last words of a stream: an error, or for events that there is nothing more to wait for.
std::string FormatEnd(Answer answer, const grpc::Status& status) {
  if (answer == Answer::kLines) return status.ok() ? "" : ErrorReplyOf(status).body;
  if (status.ok()) return "event: end\ndata: {}\n\n";
  return absl::StrCat("event: failure\ndata: ", ErrorReplyOf(status).body, "\n");
}

}  // namespace

http::Reply ErrorReplyOf(const grpc::Status& status) {
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  const int http_code = http::HttpCodeOf(code);
  const absl::StatusOr<std::string> details = MessageToJson(DetailsOf(status));
  Json error = {{"code", http_code},
                {"status", absl::StatusCodeToString(code)},
                {"message", status.error_message()}};
  error["details"] = details.ok() ? Json::parse(*details, nullptr, false) : Json::object();
  return {.code = http_code,
          .content_type = "application/json",
          .body = Dump({{"error", std::move(error)}}) + "\n",
          .headers = {{"Cache-Control", "no-store"}}};
}

// A call and its place among the streams.
class ApiGateway::OpenStream {
 public:
  OpenStream(std::shared_ptr<ApiGateway> gateway, const ApiRoute& route, const Message& request,
             const std::shared_ptr<grpc::ChannelInterface>& channel)
      : gateway_(std::move(gateway)),
        route_(route),
        message_(NewMessage(MethodOf(route)->output_type())),
        call_(channel, FullName(route), request) {}
  ~OpenStream() { gateway_->Close(&call_); }

  StreamCall* call() { return &call_; }
  StreamCall::Result Next(absl::Duration limit) {
    return last_ = call_.Next(limit, message_.get());
  }

  // Goes on with what Next gave last.
  void Write(http::Stream& out, absl::Duration sign_of_life) {
    for (;;) {
      std::string text;
      if (last_ == StreamCall::Result::kMessage) {
        text = Format(route_.answer, *message_);
      } else if (last_ == StreamCall::Result::kNothingYet) {
        text = route_.answer == Answer::kEvents ? ": \n\n" : "\n";
      } else {
        out.Write(FormatEnd(route_.answer, call_.status()));
        return;
      }
      if (!out.Write(text)) return;
      Next(sign_of_life);
    }
  }

 private:
  const std::shared_ptr<ApiGateway> gateway_;
  const ApiRoute& route_;
  const std::unique_ptr<Message> message_;
  StreamCall call_;
  StreamCall::Result last_ = StreamCall::Result::kNothingYet;
};

void ApiGateway::AddRoutes(http::HttpServer* server) {
  const auto self = shared_from_this();
  server->Add({.path = kPrefix, .post = true, .handler = [self](const http::Request& request) {
                 return self->Serve(request);
               }});
  server->Add({.path = "/readyz", .any_host = true, .handler = [self](const http::Request&) {
                 return self->Ready();
               }});
  server->Add({.path = "/sd/workers", .any_host = true, .handler = [self](const http::Request&) {
                 return self->WorkerTargets();
               }});
}

void ApiGateway::Shutdown() {
  const absl::MutexLock lock(&mutex_);
  channel_ = nullptr;
  for (StreamCall* call : calls_) call->Cancel();
}

std::shared_ptr<grpc::ChannelInterface> ApiGateway::channel() {
  const absl::MutexLock lock(&mutex_);
  return channel_;
}

http::Reply ApiGateway::Serve(const http::Request& request) {
  std::string_view path = request.path;
  path.remove_prefix(sizeof(kPrefix) - 1);
  const bool post = request.method == "POST";
  if (path == "console" && !post) return Console();
  const ApiRoute* route = FindRoute(post, path);
  if (route == nullptr && HasOtherMethod(post, path)) {
    return http::ErrorReply(405, "INVALID_ARGUMENT",
                            absl::StrCat("method: expected ", post ? "GET" : "POST"));
  }
  if (route == nullptr) {
    return http::ErrorReply(404, "NOT_FOUND",
                            "there is no such resource; docs/console.md lists them");
  }
  if (route->writes && !options_.writes) {
    return http::ErrorReply(403, "PERMISSION_DENIED",
                            "this HTTP API is read-only; start the coordinator with "
                            "--console-writes to allow sampling and changes of jobs");
  }
  const absl::StatusOr<std::unique_ptr<Message>> message = BuildRequest(*route, path, request);
  if (!message.ok()) return http::ErrorReply(400, "INVALID_ARGUMENT", message.status().message());
  return route->answer == Answer::kOne ? One(*route, **message) : Many(*route, **message);
}

http::Reply ApiGateway::One(const ApiRoute& route, const Message& request) {
  const auto channel = this->channel();
  if (channel == nullptr) return ErrorReplyOf(Stopping());
  const std::unique_ptr<Message> response = NewMessage(MethodOf(route)->output_type());
  const grpc::Status status =
      CallUnary(channel, FullName(route), request, response.get(), options_.call_limit);
  if (!status.ok()) return ErrorReplyOf(status);
  absl::StatusOr<std::string> json = MessageToJson(*response);
  if (!json.ok()) return http::ErrorReply(500, "INTERNAL", json.status().message());
  return JsonReply(*std::move(json) + "\n");
}

std::shared_ptr<ApiGateway::OpenStream> ApiGateway::Open(const ApiRoute& route,
                                                         const Message& request) {
  std::shared_ptr<grpc::ChannelInterface> channel;
  {
    const absl::MutexLock lock(&mutex_);
    if (streams_ >= options_.max_streams || channel_ == nullptr) return nullptr;
    ++streams_;
    channel = channel_;
  }
  auto stream = std::make_shared<OpenStream>(shared_from_this(), route, request, channel);
  const absl::MutexLock lock(&mutex_);
  calls_.insert(stream->call());
  if (channel_ == nullptr) stream->call()->Cancel();
  return stream;
}

void ApiGateway::Close(StreamCall* call) {
  const absl::MutexLock lock(&mutex_);
  --streams_;
  calls_.erase(call);
}

http::Reply ApiGateway::Many(const ApiRoute& route, const Message& request) {
  std::shared_ptr<OpenStream> stream = Open(route, request);
  if (stream == nullptr && channel() == nullptr) return ErrorReplyOf(Stopping());
  if (stream == nullptr) {
    http::Reply reply = http::ErrorReply(
        503, "RESOURCE_EXHAUSTED",
        absl::StrCat(options_.max_streams, " streams are open, more are refused; close a page"));
    reply.headers = {{"Retry-After", "5"}};
    return reply;
  }
  // An error that comes first is the reply.
  if (stream->Next(options_.sign_of_life) == StreamCall::Result::kEnded &&
      !stream->call()->status().ok()) {
    return ErrorReplyOf(stream->call()->status());
  }
  http::Reply reply = JsonReply("");
  reply.content_type =
      route.answer == Answer::kEvents ? "text/event-stream" : "application/x-ndjson";
  reply.stream = [stream = std::move(stream), limit = options_.sign_of_life](http::Stream& out) {
    stream->Write(out, limit);
  };
  return reply;
}

http::Reply ApiGateway::Console() const {
  return JsonReply(Dump({{"version", kVersion}, {"writes", options_.writes}}) + "\n");
}

// Prometheus scrapes this as well, so that `up` says whether the coordinator serves; hence the
// comment, which is a valid exposition without series.
http::Reply ApiGateway::Ready() {
  const auto channel = this->channel();
  v1::Cluster cluster;
  const grpc::Status status = channel == nullptr
                                  ? Stopping()
                                  : CallUnary(channel, "/diffmoe.v1.ClusterService/GetCluster",
                                              v1::GetClusterRequest(), &cluster, kReadyLimit);
  http::Reply reply{.content_type = "text/plain; version=0.0.4; charset=utf-8"};
  if (!status.ok()) reply.code = 503;
  reply.body =
      status.ok() ? "# ready\n" : absl::StrCat("# not ready: ", status.error_message(), "\n");
  return reply;
}

http::Reply ApiGateway::WorkerTargets() {
  const auto channel = this->channel();
  if (channel == nullptr) return ErrorReplyOf(Stopping());
  v1::ListWorkersResponse workers;
  const grpc::Status status = CallUnary(channel, "/diffmoe.v1.ClusterService/ListWorkers",
                                        v1::ListWorkersRequest(), &workers, kWorkersLimit);
  if (!status.ok()) return ErrorReplyOf(status);
  Json groups = Json::array();
  for (const v1::Worker& worker : workers.workers()) {
    std::string target = worker.metrics_address();
    if (target.empty()) continue;
    // A worker that listens on all its addresses is found by its name.
    if (absl::StartsWith(target, "0.0.0.0:")) target.replace(0, 7, worker.host());
    groups.push_back({{"targets", {target}}, {"labels", {{"worker_id", worker.id()}}}});
  }
  return JsonReply(Dump(groups) + "\n");
}

}  // namespace diffmoe::server
