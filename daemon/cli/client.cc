#include "daemon/cli/client.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <utility>

#include "shared/handshake.h"

namespace ikkuna::cli {
namespace {

constexpr int kMaxMessageBytes = 64 * 1024 * 1024;  // what the daemon sends at most
constexpr auto kConnectTimeout = std::chrono::seconds(10);
constexpr auto kCallTimeout = std::chrono::seconds(60);
constexpr char kUnixScheme[] = "unix:";

bool IsUnix(const std::string& address) { return address.rfind(kUnixScheme, 0) == 0; }

bool IsLoopback(const std::string& address) {
  std::string host = address.substr(0, address.rfind(':'));
  return host == "localhost" || host == "[::1]" || host.rfind("127.", 0) == 0;
}

Error NobodyAnswers(const std::string& address) {
  std::string text = "no ikkuna-daemon answers at " + address + "; start one with 'ikkuna-daemon' or pass --address";
  struct stat info {};
  if (IsUnix(address) && ::stat(address.c_str() + sizeof kUnixScheme - 1, &info) == 0 && info.st_uid != ::geteuid()) {
    text += " (the socket belongs to user " + std::to_string(info.st_uid) +
            ", whose daemon lets you in with --allow-uid " + std::to_string(::geteuid()) + ")";
  }
  return {ErrorCode::kUnavailable, text};
}

Result<std::string> ReadFile(const char* flag, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return PosixError(std::string(flag) + ": cannot read '" + path + "'", errno);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// The first failure to connect is enough: waiting on would hide that nobody is there.
Status WaitUntilConnected(grpc::Channel* channel, const std::string& address) {
  auto deadline = std::chrono::system_clock::now() + kConnectTimeout;
  grpc_connectivity_state state = channel->GetState(true);
  while (state != GRPC_CHANNEL_READY) {
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_SHUTDOWN) return NobodyAnswers(address);
    if (!channel->WaitForStateChange(state, deadline)) {
      return Error{ErrorCode::kUnavailable, "the daemon at " + address +
                                                " takes the connection but does not answer; is it stopped, "
                                                "or is it another program?"};
    }
    state = channel->GetState(true);
  }
  return {};
}

ErrorCode CodeOf(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::INVALID_ARGUMENT:
      return ErrorCode::kInvalidArgument;
    case grpc::StatusCode::NOT_FOUND:
      return ErrorCode::kNotFound;
    case grpc::StatusCode::ALREADY_EXISTS:
      return ErrorCode::kAlreadyExists;
    case grpc::StatusCode::FAILED_PRECONDITION:
      return ErrorCode::kFailedPrecondition;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return ErrorCode::kResourceExhausted;
    case grpc::StatusCode::UNAUTHENTICATED:
    case grpc::StatusCode::PERMISSION_DENIED:
      return ErrorCode::kPermissionDenied;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::UNAVAILABLE:
      return ErrorCode::kUnavailable;
    case grpc::StatusCode::DATA_LOSS:
      return ErrorCode::kCorrupt;
    default:
      return ErrorCode::kSystem;
  }
}

}  // namespace

std::string AddressOf(const ConnectionOptions& options) {
  if (options.address.empty()) return kUnixScheme + shm::DefaultDirectory() + "/grpc.sock";
  if (!IsUnix(options.address) && options.address.find('/') != std::string::npos) return kUnixScheme + options.address;
  return options.address;
}

Error FromGrpc(const grpc::Status& status, const std::string& address) {
  std::string text = status.error_message();
  if (status.error_code() == grpc::StatusCode::UNAUTHENTICATED) text += "; pass --token-file";
  if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED)
    text = "what answers at " + address + " is no ikkuna-daemon of this version";
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED)
    text = "the daemon at " + address + " did not answer in time";
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) text = "the daemon at " + address + " has gone: " + text;
  return {CodeOf(status.error_code()), text};
}

Result<std::unique_ptr<Client>> Client::Connect(const ConnectionOptions& options) {
  std::string address = AddressOf(options);
  std::string token;
  if (IsUnix(address) && (!options.token_file.empty() || !options.tls_ca_file.empty())) {
    return Error{ErrorCode::kInvalidArgument,
                 "--token-file and --tls-ca are for TCP; pass --address host:port, or leave them out"};
  }
  if (!options.token_file.empty()) {
    Result<std::string> text = ReadFile("--token-file", options.token_file);
    if (!text) return text.error();
    token = text->substr(0, text->find_first_of("\r\n"));
    if (token.empty()) return Error{ErrorCode::kInvalidArgument, "--token-file: '" + options.token_file + "' is empty"};
    if (options.tls_ca_file.empty() && !IsLoopback(address)) {
      return Error{ErrorCode::kInvalidArgument,
                   "the token would cross the network to " + address + " readable; pass --tls-ca"};
    }
  }
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (!options.tls_ca_file.empty()) {
    Result<std::string> certificate = ReadFile("--tls-ca", options.tls_ca_file);
    if (!certificate) return certificate.error();
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = *certificate;
    credentials = grpc::SslCredentials(ssl);
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // A proxy of the environment is for the outside world, not for a daemon that was named.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  std::shared_ptr<grpc::Channel> channel = grpc::CreateCustomChannel(address, credentials, arguments);
  if (Status connected = WaitUntilConnected(channel.get(), address); !connected) return connected.error();
  return std::unique_ptr<Client>(new Client(address, token, std::move(channel)));
}

Client::Client(std::string address, std::string token, std::shared_ptr<grpc::Channel> channel)
    : address_(std::move(address)),
      token_(std::move(token)),
      channel_(std::move(channel)),
      stub_(v1::Monitor::NewStub(channel_)) {}

void Client::Prepare(grpc::ClientContext* context, bool with_deadline) const {
  if (!token_.empty()) context->AddMetadata("authorization", "Bearer " + token_);
  if (with_deadline) context->set_deadline(std::chrono::system_clock::now() + kCallTimeout);
}

Result<std::vector<v1::SeriesSummary>> Client::ListSeries(const v1::SeriesFilter& filter) {
  v1::ListSeriesRequest request;
  *request.mutable_filter() = filter;
  std::vector<v1::SeriesSummary> all;
  while (true) {
    Result<v1::ListSeriesResponse> page = Call(&v1::Monitor::Stub::ListSeries, request);
    if (!page) return page.error();
    for (v1::SeriesSummary& summary : *page->mutable_series()) all.push_back(std::move(summary));
    if (!page->more() || page->series().empty()) return all;
    request.set_after_id(all.back().series().id());
  }
}

Result<std::vector<v1::Sample>> Client::Read(const v1::SeriesSummary& series, std::optional<uint64_t> step_min,
                                             std::optional<uint64_t> step_max, uint32_t max_points, bool* reduced) {
  v1::ReadSeriesRequest request;
  request.set_series_id(series.series().id());
  if (step_min) request.set_step_min(*step_min);
  if (step_max) request.set_step_max(*step_max);
  request.set_max_points(max_points);
  Result<v1::ReadSeriesResponse> response = Call(&v1::Monitor::Stub::ReadSeries, request);
  if (response) {
    *reduced = *reduced || response->reduced();
    return std::vector<v1::Sample>(response->samples().begin(), response->samples().end());
  }
  uint64_t first = step_min.value_or(series.first_step());
  uint64_t last = step_max.value_or(series.last_step());
  if (response.error().code != ErrorCode::kResourceExhausted || max_points != 0 || first >= last)
    return response.error();
  uint64_t middle = first + (last - first) / 2;
  Result<std::vector<v1::Sample>> head = Read(series, first, middle, 0, reduced);
  if (!head) return head.error();
  // The last part stays open at its end if it was: samples may have come since.
  v1::SeriesSummary rest = series;
  Result<std::vector<v1::Sample>> tail = Read(rest, middle + 1, step_max, 0, reduced);
  if (!tail) return tail.error();
  head->insert(head->end(), std::make_move_iterator(tail->begin()), std::make_move_iterator(tail->end()));
  return head;
}

Status Client::Watch(const v1::SeriesFilter& filter, const std::function<bool(const v1::WatchResponse&)>& each) {
  grpc::ClientContext context;
  Prepare(&context, false);
  v1::WatchRequest request;
  *request.mutable_filter() = filter;
  std::unique_ptr<grpc::ClientReader<v1::WatchResponse>> reader = stub_->Watch(&context, request);
  v1::WatchResponse response;
  while (reader->Read(&response)) {
    if (each(response)) continue;
    context.TryCancel();
    while (reader->Read(&response)) {
    }
    reader->Finish();
    return {};
  }
  grpc::Status status = reader->Finish();
  if (status.ok()) return {};
  return FromGrpc(status, address_);
}

}  // namespace ikkuna::cli
