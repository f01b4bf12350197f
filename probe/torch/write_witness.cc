#include "probe/torch/write_witness.h"

#include "probe/torch/tensor_reader.h"
#include "probe/torch/tensor_version.h"

namespace ikkuna::torch_probe {

uint64_t WriteWitness::MarkOf(const WatchedModel& model, int param) {
  const at::Tensor& tensor = model.params()[static_cast<size_t>(param)].tensor;
  return WordsOf(tensor, 64, VersionOf(tensor));
}

void WriteWitness::Look(const WatchedModel& model, int param) {
  heard_ = 0;
  param_ = param >= 0 && WhyUnreadable(model.params()[static_cast<size_t>(param)].tensor).empty() ? param : -1;
  if (param_ >= 0) mark_ = MarkOf(model, param_);
}

void WriteWitness::Compare(const WatchedModel& model) {
  if (param_ < 0) return;
  agreed_ = heard_ == (Written(model) ? 1u : 0u) ? agreed_ + 1 : 0;
  Forget();
}

}  // namespace ikkuna::torch_probe
