// AnswerStream: one stream of answers that are made one by one, each on a worker once the client has taken the one
// before: whoever reads slowly costs one message of memory and no thread.
//
// Owner: itself while the stream lives (gRPC calls OnDone last). Thread rule: as gRPC's reactors; a message is made or
// on its way, never both.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

#include "daemon/service/calls/calls.h"
#include "daemon/service/failures.h"
#include "daemon/service/let_in.h"
#include "daemon/service/open_calls.h"

namespace ikkuna::service {

template <typename Response>
class AnswerStream final : public grpc::ServerWriteReactor<Response> {
 public:
  using Open = std::function<Answers<Response>()>;

  // `open` runs on a worker; `on_done` once, when gRPC is through with the stream. `calls` outlives the stream.
  static AnswerStream* Begin(OpenCalls& calls, Lane lane, LetIn let_in, Open open, std::function<void()> on_done) {
    auto* stream =
        new AnswerStream(calls, lane, std::move(let_in), std::move(open), std::move(on_done));  // OnDone deletes it
    stream->Schedule();
    return stream;
  }
  void OnWriteDone(bool ok) override {
    if (ok) {
      Schedule();
    } else {
      this->Finish(Cancelled());
    }
  }
  // What is being made ends with it; what is on its way comes back as not written.
  void OnCancel() override { cancelled_ = true; }
  void OnDone() override {
    on_done_();
    delete this;
  }

 private:
  AnswerStream(OpenCalls& calls, Lane lane, LetIn let_in, Open open, std::function<void()> on_done)
      : calls_(calls), lane_(lane), let_in_(std::move(let_in)), open_(std::move(open)), on_done_(std::move(on_done)) {}
  ~AnswerStream() override = default;

  static grpc::Status Cancelled() { return {grpc::StatusCode::CANCELLED, "the client has gone"}; }

  void Schedule() {
    if (!calls_.Post(lane_, [this] { Step(); })) this->Finish(ToGrpc(Overloaded()));
  }

  // Makes the next message and sends it, or ends the stream. Neither runs again before gRPC answers.
  void Step() {
    const grpc::Status status = cancelled_ ? Cancelled() : let_in_.Ask();
    if (!status.ok()) {
      source_.reset();
      this->Finish(status);
      return;
    }
    Answer<bool> more = Guarded<Answer<bool>>([&]() -> Answer<bool> {
      if (!source_) {
        Answers<Response> opened = std::exchange(open_, nullptr)();
        if (!opened) return opened.failure();
        source_ = *std::move(opened);
      }
      response_.Clear();
      return source_->Next(&response_);
    });
    if (more && *more) {
      this->StartWrite(&response_);
      return;
    }
    source_.reset();
    this->Finish(more ? grpc::Status::OK : ToGrpc(more.failure()));
  }

  // Constant after construction.
  OpenCalls& calls_;
  const Lane lane_;

  std::atomic<bool> cancelled_{false};
  // Of whoever makes a message; gRPC reads response_ until OnWriteDone.
  LetIn let_in_;
  Open open_;
  std::unique_ptr<AnswerSource<Response>> source_;
  Response response_;

  const std::function<void()> on_done_;
};

}  // namespace ikkuna::service
