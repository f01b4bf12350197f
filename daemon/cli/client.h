// Client: a connection to ikkuna-daemon, with errors that a person can act on.
//
// Owner: the command that runs. Thread rule: one thread.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ikkuna/v1/monitor.grpc.pb.h"
#include "shared/base/result.h"

namespace ikkuna::cli {

struct ConnectionOptions {
  std::string
      address;  // "unix:<path>", "<path>" with a slash, or "host:port"; empty: the socket of the default directory
  std::string token_file;   // for TCP
  std::string tls_ca_file;  // certificate that the daemon's is checked against; TCP then goes through TLS
};

// As gRPC takes it.
std::string AddressOf(const ConnectionOptions& options);

// A refusal by the daemon, as an Error with its text.
Error FromGrpc(const grpc::Status& status, const std::string& address);

class Client {
 public:
  // kUnavailable: nobody answers there.
  static Result<std::unique_ptr<Client>> Connect(const ConnectionOptions& options);

  // One unary call, such as Call(&v1::Monitor::Stub::ListRuns, request).
  template <typename Request, typename Response>
  Result<Response> Call(grpc::Status (v1::Monitor::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                        const Request& request) {
    grpc::ClientContext context;
    Prepare(&context, true);
    Response response;
    grpc::Status status = ((*stub_).*method)(&context, request, &response);
    if (!status.ok()) return FromGrpc(status, address_);
    return response;
  }

  // Every page of ListSeries.
  Result<std::vector<v1::SeriesSummary>> ListSeries(const v1::SeriesFilter& filter);
  // Samples of a range, in as many calls as the size of an answer demands.
  Result<std::vector<v1::Sample>> Read(const v1::SeriesSummary& series, std::optional<uint64_t> step_min,
                                       std::optional<uint64_t> step_max, uint32_t max_points, bool* reduced);
  // Calls `each` with every answer until it returns false or the stream ends. An end by the daemon is an error.
  Status Watch(const v1::SeriesFilter& filter, const std::function<bool(const v1::WatchResponse&)>& each);

  const std::string& address() const { return address_; }

 private:
  Client(std::string address, std::string token, std::shared_ptr<grpc::Channel> channel);
  void Prepare(grpc::ClientContext* context, bool with_deadline) const;

  const std::string address_;
  const std::string token_;  // empty: none
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Monitor::Stub> stub_;
};

}  // namespace ikkuna::cli
