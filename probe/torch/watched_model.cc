#include "probe/torch/watched_model.h"

#include <fnmatch.h>

#include <torch/nn/modules/container/sequential.h>

#include "probe/torch/tensor_reader.h"

namespace ikkuna::torch_probe {

namespace {

// "torch::nn::LinearImpl" -> "Linear".
std::string TypeName(const torch::nn::Module& module) {
  std::string type = module.name();
  if (const size_t colons = type.rfind("::"); colons != std::string::npos) type = type.substr(colons + 2);
  if (type.size() > 4 && type.compare(type.size() - 4, 4, "Impl") == 0) type.resize(type.size() - 4);
  return type;
}

probe::TensorShape ShapeOf(const at::Tensor& tensor) {
  return {DTypeOf(tensor.scalar_type()), static_cast<int>(tensor.dim()), tensor.sizes().data()};
}

uint32_t FlagsOf(const WatchedParam& param) {
  return (param.bias ? shm::kEntryBias : 0u) | (param.tensor.requires_grad() ? shm::kEntryTrainable : 0u);
}

std::string Join(const std::string& path, const std::string& name) { return path.empty() ? name : path + "." + name; }

}  // namespace

WatchedModel::WatchedModel(probe::Session& session, torch::nn::Module& root,
                           std::shared_ptr<torch::nn::Module> keep_alive, const AttachOptions& options, int index)
    : index_(index), root_(&root), keep_alive_(std::move(keep_alive)) {
  name_ = !options.name.empty() ? options.name : index == 0 ? "model" : "model" + std::to_string(index);
  root_id_ = session.AddRoot(name_);
  Walk(session, root, "", 0, -1, options);
  modules_.reserve(modules_.size() + kMaxFunctional);
  module_count_.store(modules_.size(), std::memory_order_release);
  Build();
}

void WatchedModel::Walk(probe::Session& session, torch::nn::Module& module, const std::string& path, int depth,
                        int cut_container, const AttachOptions& options) {
  const auto children = module.named_children();
  const bool has_params = !module.named_parameters(false).is_empty();
  const bool has_buffers = !module.named_buffers(false).is_empty();
  const bool leaf = children.is_empty();
  const bool cuts = cut_container < 0 && options.depth >= 0 && depth == options.depth && !leaf;
  const int index = static_cast<int>(modules_.size());
  modules_.push_back(std::make_unique<WatchedModule>());
  WatchedModule& watched = *modules_.back();
  watched.path = path;
  watched.type = TypeName(module);
  watched.has_params = has_params || has_buffers;
  by_path_[path] = index;
  const bool matches = options.filter.empty() || ::fnmatch(options.filter.c_str(), path.c_str(), 0) == 0;
  if ((leaf || has_params || has_buffers || cuts) && cut_container < 0 && matches && root_id_ != 0) {
    const std::string shown = path.empty() ? watched.type : path;
    watched.id = session.AddModule(root_id_, shown, watched.type, 0);
    watched.reports_as = index;
  }
  if (has_params || has_buffers) AddParams(session, module, index, watched.id != 0);
  // Of a cut container the last layer reports: each layer inside takes the place over from the one before.
  if (cut_container >= 0 && (has_params || has_buffers)) {
    for (auto& other : modules_) {
      if (other->reports_as == cut_container) other->reports_as = -1;
    }
    watched.reports_as = cut_container;
  }
  const int inner_cut = cut_container >= 0 ? cut_container : cuts ? index : -1;
  for (const auto& child : children) {
    Walk(session, *child.value(), Join(path, child.key()), depth + 1, inner_cut, options);
  }
  if (dynamic_cast<torch::nn::SequentialImpl*>(&module) != nullptr) LinkSequence(module, path);
}

void WatchedModel::AddParams(probe::Session& session, torch::nn::Module& module, int index, bool published) {
  const std::string& path = at(index).path;
  for (const auto& item : module.named_parameters(false)) {
    const at::Tensor& tensor = item.value();
    if (!tensor.defined()) continue;
    if (item.key() == "bias") at(index).has_bias = true;
    const WatchedParam* same = nullptr;
    for (const WatchedParam& other : params_) {
      if (other.tensor.is_same(tensor)) same = &other;
    }
    if (same != nullptr) {
      notes_.push_back(Join(path, item.key()) + " is the same parameter as " + Join(at(same->module).path, same->name) +
                       ", published there");
    }
    params_.emplace_back();
    WatchedParam& param = params_.back();
    param.tensor = tensor;
    param.name = item.key();
    param.module = index;
    param.bias = item.key() == "bias";
    const std::string why = WhyUnreadable(tensor);
    if (!why.empty()) notes_.push_back(Join(path, item.key()) + " is not captured: " + why);
    if (!published || same != nullptr || !why.empty()) continue;
    param.id = session.AddParam(root_id_, at(index).id, param.name, ShapeOf(tensor), FlagsOf(param));
  }
  for (const auto& item : module.named_buffers(false)) {
    if (!published || !item.value().defined() || !WhyUnreadable(item.value()).empty()) continue;
    const uint32_t id = session.AddParam(root_id_, at(index).id, item.key(), ShapeOf(item.value()), shm::kEntryBuffer);
    buffers_.push_back({item.value(), index, id});
  }
}

void WatchedModel::Renew(probe::Session& session, const WatchedParam& param) const {
  session.RenewParam(param.id, root_id_, module(param.module).id, param.name, ShapeOf(param.tensor), FlagsOf(param));
}

void WatchedModel::LinkSequence(torch::nn::Module& module, const std::string& path) {
  int before = -1;
  for (const auto& child : module.named_children()) {
    const int index = by_path_[Join(path, child.key())];
    if (before >= 0) at(before).next_in_sequence = index;
    before = index;
  }
}

void WatchedModel::Build() {
  auto tables = std::make_unique<Tables>();
  for (size_t i = 0; i < params_.size(); ++i) {
    WatchedParam& param = params_[i];
    const void* data = DataOf(param.tensor);
    param.data.store(data, std::memory_order_relaxed);
    if (data == nullptr) continue;
    tables->params.emplace(data, static_cast<int>(i));
    auto& modules = tables->modules[data];
    if (modules.empty() || modules.back() != param.module) modules.push_back(param.module);
    if (param.bias) tables->bias_owners.emplace(data, param.module);
  }
  for (const WatchedBuffer& buffer : buffers_) {
    const void* data = DataOf(buffer.tensor);
    if (data != nullptr) tables->modules[data].push_back(buffer.module);
  }
  std::lock_guard lock(mutex_);
  if (all_tables_.size() >= kMaxTables) all_tables_.erase(all_tables_.begin());
  tables_.store(tables.get(), std::memory_order_release);
  all_tables_.push_back(std::move(tables));
}

const std::vector<int>* WatchedModel::ModulesAt(const void* data) const {
  const Tables* tables = tables_.load(std::memory_order_acquire);
  const auto found = tables->modules.find(data);
  return found == tables->modules.end() ? nullptr : &found->second;
}

int WatchedModel::BiasOwner(const void* data) const {
  const Tables* tables = tables_.load(std::memory_order_acquire);
  const auto found = tables->bias_owners.find(data);
  return found == tables->bias_owners.end() ? -1 : found->second;
}

int WatchedModel::ParamAt(const void* data) const {
  const Tables* tables = tables_.load(std::memory_order_acquire);
  const auto found = tables->params.find(data);
  return found == tables->params.end() ? -1 : found->second;
}

bool WatchedModel::Refresh() {
  for (const WatchedParam& param : params_) {
    if (param.data.load(std::memory_order_relaxed) != DataOf(param.tensor)) {
      Build();
      return true;
    }
  }
  return false;
}

int WatchedModel::FunctionalModule(probe::Session& session, int after, const char* name, const char* type) {
  std::string path = after < 0 ? std::string("> ") + name : module(after).path + " > " + name;
  std::lock_guard lock(mutex_);
  if (const auto found = by_path_.find(path); found != by_path_.end()) return found->second;
  if (modules_.size() == modules_.capacity()) return -1;
  const int index = static_cast<int>(modules_.size());
  modules_.push_back(std::make_unique<WatchedModule>());
  WatchedModule& watched = *modules_.back();
  watched.path = path;
  watched.type = type;
  watched.functional = true;
  watched.reports_as = index;
  if (root_id_ != 0) watched.id = session.AddModule(root_id_, path, type, shm::kEntryFunctional);
  by_path_[path] = index;
  module_count_.store(modules_.size(), std::memory_order_release);
  return index;
}

}  // namespace ikkuna::torch_probe
