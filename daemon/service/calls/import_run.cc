#include "daemon/service/calls/import_run.h"

#include <grpcpp/server_context.h>

#include <atomic>
#include <utility>

#include "daemon/service/convert_names.h"

namespace ikkuna::service {
namespace {

class ImportReactor final : public grpc::ServerReadReactor<v1::ImportRunRequest> {
 public:
  ImportReactor(OpenCalls& calls, const Call& call, grpc::CallbackServerContext* context,
                v1::ImportRunResponse* response, std::function<void()> on_done)
      : calls_(calls), call_(call), context_(context), response_(response), on_done_(std::move(on_done)) {
    Post([this]() -> Outcome {
      Answer<std::unique_ptr<RunImport>> import = call_.monitor.runs.ImportRun(call_.caller);
      if (!import) return import.failure();
      import_ = *std::move(import);
      StartRead(&request_);
      return {};
    });
  }

  void OnReadDone(bool ok) override {
    if (ok) {
      Post([this]() -> Outcome {
        if (Status written = import_->Write(request_.data()); !written) return Failure(written.error());
        last_ = last_ || request_.last();
        StartRead(&request_);
        return {};
      });
    } else {
      Post([this]() -> Outcome {
        // What a client left in the middle is no file.
        if (cancelled_ || context_->IsCancelled()) return ClientGone();
        if (!last_) {
          return Failure(ErrorCode::kInvalidArgument,
                         "the stream ended before the file did: its last message has `last` set", Reason::kBadFile);
        }
        Answer<RunInfo> run = import_->Finish();
        if (!run) return run.failure();
        Convert(*run, response_->mutable_run());
        import_.reset();
        Finish(grpc::Status::OK);
        return {};
      });
    }
  }
  void OnCancel() override { cancelled_ = true; }
  void OnDone() override {
    import_.reset();
    on_done_();
    delete this;
  }

 private:
  ~ImportReactor() override = default;

  // The step goes on with a read or the end; a failure of it ends the call.
  template <typename Step>
  void Post(Step step) {
    const bool taken = calls_.Post(Lane::kWhole, [this, step] {
      if (Outcome failed = Guarded<Outcome>(step)) {
        import_.reset();
        Finish(ToGrpc(*failed));
      }
    });
    if (!taken) Finish(ToGrpc(Overloaded()));
  }

  // Constant after construction.
  OpenCalls& calls_;
  const Call call_;
  grpc::CallbackServerContext* const context_;
  v1::ImportRunResponse* const response_;
  const std::function<void()> on_done_;

  std::atomic<bool> cancelled_{false};
  // Of the step that runs; gRPC writes request_ until OnReadDone.
  std::unique_ptr<RunImport> import_;
  v1::ImportRunRequest request_;
  bool last_ = false;  // the file is whole
};

}  // namespace

grpc::ServerReadReactor<v1::ImportRunRequest>* BeginImport(OpenCalls& calls, const Call& call,
                                                           grpc::CallbackServerContext* context,
                                                           v1::ImportRunResponse* response,
                                                           std::function<void()> on_done) {
  return new ImportReactor(calls, call, context, response, std::move(on_done));  // OnDone deletes it
}

}  // namespace ikkuna::service
