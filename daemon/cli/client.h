// Client: a connection to ikkuna-daemon, or to recorded runs without one, with errors that a person can act on.
//
// Owner: the command that runs. Thread rule: one thread.
#pragma once

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "ikkuna/v1/monitor.grpc.pb.h"
#include "shared/base/result.h"

namespace ikkuna::cli {

class Offline;

struct ConnectionOptions {
  // "unix:<path>", "<path>" with a slash, or "host:port"; empty: the socket of the default directory
  std::string address;
  std::string token_file;     // for TCP
  std::string tls_ca_file;    // certificate that the daemon's is checked against; TCP then goes through TLS
  std::string tls_cert_file;  // our own certificate and its key, for a daemon that goes by these
  std::string tls_key_file;
  std::string data_dir;  // recorded runs, or one run's file, read without a daemon; empty: a daemon is asked
};

// As gRPC takes it.
std::string AddressOf(const ConnectionOptions& options);

class Client {
 public:
  // kUnavailable: nobody answers there.
  static Result<std::unique_ptr<Client>> Connect(const ConnectionOptions& options);
  ~Client();

  // One unary call, such as Call(&v1::Monitor::Stub::ListRuns, request).
  template <typename Request, typename Response>
  Result<Response> Call(grpc::Status (v1::Monitor::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                        const Request& request) {
    grpc::ClientContext context;
    Prepare(&context, true);
    Response response;
    grpc::Status status = ((*stub_).*method)(&context, request, &response);
    if (!status.ok()) return Failure(status);
    return response;
  }

  // The same where the daemon's store may have no room now: it is asked again until it has, for kPatience.
  static constexpr std::chrono::seconds kPatience{60};
  template <typename Request, typename Response>
  Result<Response> CallWhenThereIsRoom(grpc::Status (v1::Monitor::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                                 Response*),
                                       const Request& request) {
    const auto give_up = std::chrono::steady_clock::now() + kPatience;
    for (std::chrono::milliseconds pause{50};; pause = std::min<std::chrono::milliseconds>(2 * pause, kPauseMax)) {
      grpc::ClientContext context;
      Prepare(&context, true);
      Response response;
      grpc::Status status = ((*stub_).*method)(&context, request, &response);
      if (status.ok()) return response;
      if (!IsStoreFull(status) || std::chrono::steady_clock::now() + pause > give_up) return Failure(status);
      std::this_thread::sleep_for(pause);
    }
  }

  // A call that answers with a stream, such as Stream(&v1::Monitor::Stub::Watch, request, each): `each` takes every
  // answer until it returns false or an error, or the stream ends.
  template <typename Request, typename Response>
  Status Stream(std::unique_ptr<grpc::ClientReader<Response>> (v1::Monitor::Stub::*method)(grpc::ClientContext*,
                                                                                           const Request&),
                const Request& request, const std::function<Result<bool>(Response&)>& each) {
    grpc::ClientContext context;
    Prepare(&context, false);
    std::unique_ptr<grpc::ClientReader<Response>> reader = ((*stub_).*method)(&context, request);
    Response response;
    while (reader->Read(&response)) {
      Result<bool> more = each(response);
      if (more && *more) continue;
      context.TryCancel();
      while (reader->Read(&response)) {
      }
      reader->Finish();
      if (!more) return more.error();
      return {};
    }
    grpc::Status status = reader->Finish();
    if (!status.ok()) return Failure(status);
    return {};
  }

  // Sends what `next` gives until it gives nothing.
  Result<v1::ImportRunResponse> Import(const std::function<Result<std::optional<v1::ImportRunRequest>>()>& next);

  // Every page.
  Result<std::vector<v1::Run>> ListRuns(v1::ListRunsRequest request);
  Result<std::vector<v1::SeriesSummary>> ListSeries(const v1::SeriesFilter& filter);
  Result<std::vector<v1::Module>> ListModules(v1::ListModulesRequest request);
  Result<v1::ListSubscribersResponse> ListSubscribers(const std::string& run);

  const std::string& address() const { return address_; }
  // What could not be read of recorded runs, one sentence each; with a daemon: nothing.
  std::vector<std::string> notes() const;

 private:
  static constexpr std::chrono::milliseconds kPauseMax{1000};
  Client(std::string address, std::string token, std::shared_ptr<grpc::Channel> channel,
         std::unique_ptr<Offline> offline);
  void Prepare(grpc::ClientContext* context, bool with_deadline) const;
  static bool IsStoreFull(const grpc::Status& status);
  Error Failure(const grpc::Status& status) const;

  const std::string address_;
  const std::string token_;           // empty: none
  std::unique_ptr<Offline> offline_;  // null: a daemon; ends after the channel
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Monitor::Stub> stub_;
};

}  // namespace ikkuna::cli
