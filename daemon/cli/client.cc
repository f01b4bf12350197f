#include "daemon/cli/client.h"

#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <utility>

#include "daemon/cli/call_error.h"
#include "daemon/cli/offline.h"
#include "daemon/cli/terminal.h"
#include "daemon/service/keep_grpc.h"
#include "shared/handshake.h"

namespace ikkuna::cli {
namespace {

constexpr auto kConnectTimeout = std::chrono::seconds(10);
constexpr auto kCallTimeout = std::chrono::seconds(60);
constexpr char kUnixScheme[] = "unix:";

bool IsUnix(const std::string& address) { return address.rfind(kUnixScheme, 0) == 0; }

bool IsLoopback(const std::string& address) {
  std::string host = address.substr(0, address.rfind(':'));
  return host == "localhost" || host == "[::1]" || host.rfind("127.", 0) == 0;
}

Error NobodyAnswers(const std::string& address) {
  std::string text = "no ikkuna-daemon answers at " + address + "; start one with 'ikkuna up' or pass --address";
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

// Checked here, since gRPC says it in two lines of its own and then that nobody answers.
Status CheckSocketPath(const std::string& address) {
  constexpr size_t kPathMax = sizeof(sockaddr_un::sun_path) - 1;
  const size_t length = address.size() - (sizeof kUnixScheme - 1);
  if (!IsUnix(address) || length <= kPathMax) return {};
  return Error{ErrorCode::kInvalidArgument,
               "the path of the socket, '" + address.substr(sizeof kUnixScheme - 1) + "', has " +
                   std::to_string(length) + " bytes, and a system takes " + std::to_string(kPathMax) +
                   " at most; set IKKUNA_DIR to a shorter directory, for the daemon and the trainers too"};
}

Result<std::shared_ptr<grpc::ChannelCredentials>> CredentialsOf(const ConnectionOptions& options) {
  if (options.tls_cert_file.empty() != options.tls_key_file.empty()) {
    return Error{ErrorCode::kInvalidArgument, "--tls-cert and --tls-key go together; pass both"};
  }
  if (options.tls_ca_file.empty() && options.tls_cert_file.empty()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions ssl;
  const auto read = [](const char* flag, const std::string& path, std::string* text) -> Status {
    if (path.empty()) return {};
    Result<std::string> bytes = ReadFile(flag, path);
    if (!bytes) return bytes.error();
    *text = std::move(*bytes);
    return {};
  };
  if (Status done = read("--tls-ca", options.tls_ca_file, &ssl.pem_root_certs); !done) return done.error();
  if (Status done = read("--tls-cert", options.tls_cert_file, &ssl.pem_cert_chain); !done) return done.error();
  if (Status done = read("--tls-key", options.tls_key_file, &ssl.pem_private_key); !done) return done.error();
  return grpc::SslCredentials(ssl);
}

// Of a file as the daemon takes it too: `[read|control] TOKEN [NAME]` a line, comments with #. Empty: it has none.
std::string FirstToken(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string word;
    if (!(words >> word) || word.front() == '#') continue;
    if (word != "read" && word != "control") return word;
    if (words >> word) return word;
  }
  return "";
}

Result<std::string> TokenOf(const ConnectionOptions& options, const std::string& address) {
  if (options.token_file.empty()) return std::string();
  Result<std::string> text = ReadFile("--token-file", options.token_file);
  if (!text) return text.error();
  const std::string token = FirstToken(*text);
  if (token.empty()) {
    return Error{ErrorCode::kInvalidArgument, "--token-file: '" + options.token_file + "' has no token"};
  }
  if (options.tls_ca_file.empty() && options.tls_cert_file.empty() && !IsLoopback(address)) {
    return Error{ErrorCode::kInvalidArgument,
                 "the token would cross the network to " + address + " readable; pass --tls-ca"};
  }
  return token;
}

// All pages of a list: `take` moves what a page has to where it belongs.
template <typename Request, typename Response, typename Take>
Status EachPage(Client& client,
                grpc::Status (v1::Monitor::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                Request request, const Take& take) {
  while (true) {
    Result<Response> page = client.Call(method, request);
    if (!page) return page.error();
    take(&*page);
    if (page->next_page().empty() || page->next_page() == request.page()) return {};
    request.set_page(page->next_page());
  }
}

template <typename Item>
void MoveTo(std::vector<Item>* all, google::protobuf::RepeatedPtrField<Item>* items) {
  for (Item& item : *items) all->push_back(std::move(item));
}

}  // namespace

std::string AddressOf(const ConnectionOptions& options) {
  if (options.address.empty()) return kUnixScheme + shm::DefaultDirectory() + "/grpc.sock";
  if (!IsUnix(options.address) && options.address.find('/') != std::string::npos) return kUnixScheme + options.address;
  return options.address;
}

Result<std::unique_ptr<Client>> Client::Connect(const ConnectionOptions& options) {
  service::KeepGrpc();
  if (!options.data_dir.empty()) {
    if (!options.address.empty()) {
      return Error{ErrorCode::kInvalidArgument, "--data-dir reads without a daemon: leave out it or --address"};
    }
    Result<std::unique_ptr<Offline>> offline = Offline::Open(options.data_dir);
    if (!offline) return offline.error();
    std::shared_ptr<grpc::Channel> channel = (*offline)->channel();
    return std::unique_ptr<Client>(new Client(options.data_dir, "", std::move(channel), std::move(*offline)));
  }
  std::string address = AddressOf(options);
  if (IsUnix(address) && !(options.token_file + options.tls_ca_file + options.tls_cert_file).empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 "--token-file, --tls-ca and --tls-cert are for TCP; pass --address host:port, or leave them out"};
  }
  if (Status short_enough = CheckSocketPath(address); !short_enough) return short_enough.error();
  Result<std::string> token = TokenOf(options, address);
  if (!token) return token.error();
  Result<std::shared_ptr<grpc::ChannelCredentials>> credentials = CredentialsOf(options);
  if (!credentials) return credentials.error();
  grpc::ChannelArguments arguments;
  // A proxy of the environment is for the outside world, not for a daemon that was named.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  std::shared_ptr<grpc::Channel> channel = grpc::CreateCustomChannel(address, *credentials, arguments);
  if (Status connected = WaitUntilConnected(channel.get(), address); !connected) return connected.error();
  return std::unique_ptr<Client>(new Client(address, *token, std::move(channel), nullptr));
}

Client::Client(std::string address, std::string token, std::shared_ptr<grpc::Channel> channel,
               std::unique_ptr<Offline> offline)
    : address_(std::move(address)),
      token_(std::move(token)),
      offline_(std::move(offline)),
      channel_(std::move(channel)),
      stub_(v1::Monitor::NewStub(channel_)) {}

Client::~Client() = default;

void Client::Prepare(grpc::ClientContext* context, bool with_deadline) const {
  if (!token_.empty()) context->AddMetadata("authorization", "Bearer " + token_);
  if (with_deadline) context->set_deadline(std::chrono::system_clock::now() + kCallTimeout);
}

bool Client::IsStoreFull(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED &&
         DetailOf(status).reason() == v1::ERROR_REASON_STORE;
}

Error Client::Failure(const grpc::Status& status) const { return CallError(status, address_); }

std::vector<std::string> Client::notes() const { return offline_ ? offline_->notes() : std::vector<std::string>(); }

Result<std::vector<v1::Run>> Client::ListRuns(v1::ListRunsRequest request) {
  std::vector<v1::Run> all;
  Status done = EachPage(*this, &v1::Monitor::Stub::ListRuns, std::move(request),
                         [&](v1::ListRunsResponse* page) { MoveTo(&all, page->mutable_runs()); });
  if (!done) return done.error();
  return all;
}

Result<std::vector<v1::SeriesSummary>> Client::ListSeries(const v1::SeriesFilter& filter) {
  v1::ListSeriesRequest request;
  *request.mutable_filter() = filter;
  std::vector<v1::SeriesSummary> all;
  Status done = EachPage(*this, &v1::Monitor::Stub::ListSeries, std::move(request),
                         [&](v1::ListSeriesResponse* page) {
                           MoveTo(&all, page->mutable_series());
                           for (const std::string& one : page->unread()) {
                             std::cerr << "ikkuna: left out: " << PlainText(one) << "\n";
                           }
                         });
  if (!done) return done.error();
  return all;
}

Result<std::vector<v1::Module>> Client::ListModules(v1::ListModulesRequest request) {
  std::vector<v1::Module> all;
  Status done = EachPage(*this, &v1::Monitor::Stub::ListModules, std::move(request),
                         [&](v1::ListModulesResponse* page) { MoveTo(&all, page->mutable_modules()); });
  if (!done) return done.error();
  return all;
}

Result<v1::ListSubscribersResponse> Client::ListSubscribers(const std::string& run) {
  v1::ListSubscribersRequest request;
  request.set_run(run);
  v1::ListSubscribersResponse all;
  Status done = EachPage(*this, &v1::Monitor::Stub::ListSubscribers, std::move(request),
                         [&](v1::ListSubscribersResponse* page) {
                           for (v1::Subscriber& one : *page->mutable_subscribers()) {
                             *all.add_subscribers() = std::move(one);
                           }
                         });
  if (!done) return done.error();
  return all;
}

Result<v1::ImportRunResponse> Client::Import(const std::function<Result<std::optional<v1::ImportRunRequest>>()>& next) {
  grpc::ClientContext context;
  Prepare(&context, false);
  v1::ImportRunResponse response;
  std::unique_ptr<grpc::ClientWriter<v1::ImportRunRequest>> writer = stub_->ImportRun(&context, &response);
  while (true) {
    Result<std::optional<v1::ImportRunRequest>> part = next();
    if (!part) {
      context.TryCancel();
      writer->Finish();
      return part.error();
    }
    // What was refused midway is told by Finish.
    if (!*part || !writer->Write(**part)) break;
  }
  writer->WritesDone();
  grpc::Status status = writer->Finish();
  if (!status.ok()) return Failure(status);
  return response;
}

}  // namespace ikkuna::cli
