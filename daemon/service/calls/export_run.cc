#include <string>
#include <utility>

#include "daemon/service/calls/calls.h"
#include "daemon/service/convert_names.h"
#include "daemon/service/request_checks.h"
#include "daemon/service/run_choice.h"

namespace ikkuna::service {
namespace {

constexpr size_t kChunkBytes = 512 * 1024;

class FileAnswers : public AnswerSource<v1::ExportRunResponse> {
 public:
  explicit FileAnswers(std::unique_ptr<RunFiles> files) : files_(std::move(files)) {}

  Answer<bool> Next(v1::ExportRunResponse* response) override {
    if (inside_) {
      Answer<std::string> bytes = files_->Read(kChunkBytes);
      if (!bytes) return bytes.failure();
      if (!bytes->empty()) {
        response->set_data(*std::move(bytes));
        return true;
      }
      inside_ = false;
    }
    Answer<std::optional<RunFiles::File>> file = files_->NextFile();
    if (!file) return file.failure();
    if (!*file) return false;
    inside_ = true;
    v1::ExportedFile* out = response->mutable_file();
    Convert((*file)->run, out->mutable_run());
    out->set_name(Shown((*file)->name));
    out->set_bytes((*file)->bytes);
    return true;
  }

 private:
  const std::unique_ptr<RunFiles> files_;
  bool inside_ = false;  // a file
};

}  // namespace

Answers<v1::ExportRunResponse> Handle(const Call& call, const v1::ExportRunRequest& request) {
  if (Outcome bad = CheckText("run", request.run())) return *bad;
  Answer<std::unique_ptr<RunFiles>> files = call.monitor.runs.ExportRun(ToRunChoice(request));
  if (!files) return files.failure();
  return std::unique_ptr<AnswerSource<v1::ExportRunResponse>>(std::make_unique<FileAnswers>(*std::move(files)));
}

}  // namespace ikkuna::service
