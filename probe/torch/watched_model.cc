#include "probe/torch/watched_model.h"

#include <fnmatch.h>

#include <torch/nn/modules/container/sequential.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "probe/torch/module_outputs.h"
#include "probe/torch/name_list.h"
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

uint32_t FlagsOf(const WatchedParam& param) {
  return (param.bias ? shm::kEntryBias : 0u) | (param.tensor.requires_grad() ? shm::kEntryTrainable : 0u);
}

// The parameters of the module itself, without making names for them.
const auto& ParametersOf(const torch::nn::Module& module) {
  struct Open : torch::nn::Module {
    static auto member() { return &Open::parameters_; }
  };
  return module.*Open::member();
}

// The bytes from a tensor's first element to behind its last.
uintptr_t EndOf(const at::Tensor& tensor) {
  const auto begin = reinterpret_cast<uintptr_t>(DataOf(tensor));
  if (tensor.numel() == 0) return begin;
  int64_t last = 0;
  for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  return begin + static_cast<uintptr_t>(last + 1) * tensor.itemsize();
}

std::string Join(const std::string& path, const std::string& name) { return path.empty() ? name : path + "." + name; }

}  // namespace

WatchedModel::WatchedModel(probe::Session& session, torch::nn::Module& root,
                           std::shared_ptr<torch::nn::Module> keep_alive, const AttachOptions& options, int index)
    : index_(index), root_(&root), keep_alive_(std::move(keep_alive)), options_(options) {
  name_ = !options.name.empty() ? options.name : index == 0 ? "model" : "model" + std::to_string(index);
  root_id_ = session.AddRoot(name_);
  modules_.reserve(root.modules(false).size() + 1 + kMaxFunctional + kMaxLate);
  params_.Reserve(root.parameters(true).size() + kMaxLate);
  Walk(session, root, "", 0, -1);
  module_count_.store(modules_.size(), std::memory_order_release);
  params_.Publish();
  all_buffers_.push_back(std::make_unique<std::vector<WatchedBuffer>>(std::move(walked_buffers_)));
  buffers_.store(all_buffers_.back().get(), std::memory_order_release);
  NoteActivations(0);
  Build();
}

int WatchedModel::ModuleAt(const std::string& path, const torch::nn::Module& module) {
  const std::string type = TypeName(module);
  if (const auto known = by_path_.find(path); known != by_path_.end() && at(known->second).type == type) {
    at(known->second).reports_as = at(known->second).id != 0 ? known->second : -1;
    at(known->second).next_in_sequence = -1;
    return known->second;
  }
  if (modules_.size() == modules_.capacity()) return -1;
  const auto replaced = by_path_.find(path);
  const int index = static_cast<int>(modules_.size());
  modules_.push_back(std::make_unique<WatchedModule>());
  WatchedModule& watched = *modules_.back();
  watched.path = path;
  watched.type = type;
  watched.of_torch = module.name().rfind("torch::nn::", 0) == 0;
  watched.operators = OperatorsOf(module.name());
  if (replaced != by_path_.end()) watched.id = at(replaced->second).id;  // it goes on under its name
  by_path_[path] = index;
  return index;
}

void WatchedModel::Walk(probe::Session& session, torch::nn::Module& module, const std::string& path, int depth,
                        int cut_container) {
  const auto children = module.named_children();
  const bool has_params = !module.named_parameters(false).is_empty();
  const bool has_buffers = !module.named_buffers(false).is_empty();
  const bool leaf = children.is_empty();
  const bool cuts = cut_container < 0 && options_.depth >= 0 && depth == options_.depth && !leaf;
  TreeNode node;
  node.module = &module;
  for (const auto& child : children) node.children.push_back(child.value().get());
  for (const auto& param : ParametersOf(module)) node.params.push_back(param.value().unsafeGetTensorImpl());
  tree_.push_back(std::move(node));
  const int index = ModuleAt(path, module);
  if (index < 0) {
    if (!std::exchange(modules_full_noted_, true)) {
      session.AddNote(name_ + " grows without bound: modules from " + path + " on are not watched");
    }
    return;
  }
  WatchedModule& watched = at(index);
  watched.has_params = has_params || has_buffers;
  const bool matches = options_.filter.empty() || ::fnmatch(options_.filter.c_str(), path.c_str(), 0) == 0;
  if ((leaf || has_params || has_buffers || cuts) && cut_container < 0 && matches && root_id_ != 0) {
    const std::string shown = path.empty() ? watched.type : path;
    if (watched.id == 0) watched.id = session.AddModule(root_id_, shown, watched.type, 0);
    watched.reports_as = index;
  }
  if (has_params || has_buffers) {
    AddParams(session, module, index, watched.id != 0);
    AddBuffers(session, module, index, watched.id != 0);
  }
  const int inner_cut = cut_container >= 0 ? cut_container : cuts ? index : -1;
  for (const auto& child : children) {
    Walk(session, *child.value(), Join(path, child.key()), depth + 1, inner_cut);
  }
  if (dynamic_cast<torch::nn::SequentialImpl*>(&module) != nullptr) LinkSequence(module, path);
  // For a cut container reports what makes its output, where that can be known; else NoteActivations() says so.
  if (const int end = cuts && watched.id != 0 ? MadeBy(module, path) : -1; end >= 0) {
    watched.reports_as = -1;
    at(end).reports_as = index;
  }
  // What attention returns is what its output projection gives.
  if (watched.of_torch && watched.type == "MultiheadAttention" && watched.id != 0) {
    const auto projection = by_path_.find(Join(path, "out_proj"));
    if (projection != by_path_.end()) at(projection->second).also_reports = index;
  }
}

void WatchedModel::AddParams(probe::Session& session, torch::nn::Module& module, int index, bool published) {
  const std::string& path = at(index).path;
  at(index).has_bias = false;
  for (const auto& item : module.named_parameters(false)) {
    const at::Tensor& tensor = item.value();
    if (!tensor.defined()) continue;
    if (item.key() == "bias") at(index).has_bias = true;
    const WatchedParam* same = nullptr;
    WatchedParam* before = nullptr;
    bool known = false;
    for (size_t i = 0; i < walked_params_.size(); ++i) {
      WatchedParam& other = params_[i];
      if (other.retired.load(std::memory_order_relaxed)) continue;
      const bool here = other.name == item.key() && at(other.module).path == path;
      if (other.tensor.is_same(tensor)) {
        if (here && other.module == index) {
          known = true;
          walked_params_[i] = true;
          break;
        }
        if (same == nullptr && walked_params_[i]) same = &other;
      } else if (here) {
        before = &other;
      }
    }
    if (known) continue;
    if (params_.full()) {
      if (!std::exchange(params_full_noted_, true)) {
        session.AddNote(name_ + " grows without bound: parameters from " + Join(path, item.key()) +
                        " on are not watched");
      }
      return;
    }
    if (same != nullptr) {
      notes_.push_back(Join(path, item.key()) + " of " + name_ + " is the same parameter as " +
                       Join(at(same->module).path, same->name) + ", published there");
    }
    WatchedParam& param = params_.Add();
    walked_params_.push_back(true);
    param.tensor = tensor;
    param.name = item.key();
    param.module = index;
    param.bias = item.key() == "bias";
    const std::string why = WhyUnreadable(tensor);
    if (!why.empty()) notes_.push_back(Join(path, item.key()) + " of " + name_ + " is not captured: " + why);
    if (!published || same != nullptr || !why.empty()) continue;
    const uint32_t id = before == nullptr ? 0 : before->id.load();
    if (id != 0) {
      before->id.store(0);
      session.RenewParam(id, root_id_, at(index).id, param.name, ShapeOf(tensor), FlagsOf(param));
      param.id.store(id);
    } else {
      param.id.store(
          session.AddParam(root_id_, at(index).id, param.name, ShapeOf(tensor), FlagsOf(param)));
    }
  }
}

void WatchedModel::AddBuffers(probe::Session& session, torch::nn::Module& module, int index, bool published) {
  const auto* const before = buffers_.load(std::memory_order_relaxed);
  for (const auto& item : module.named_buffers(false)) {
    if (!published || !item.value().defined() || !WhyUnreadable(item.value()).empty()) continue;
    uint32_t id = 0;
    if (before != nullptr) {
      for (const WatchedBuffer& buffer : *before) {
        if (buffer.name == item.key() && at(buffer.module).path == at(index).path) id = buffer.id;
      }
    }
    if (id == 0) {
      id = session.AddParam(root_id_, at(index).id, item.key(), ShapeOf(item.value()), shm::kEntryBuffer);
    }
    walked_buffers_.push_back({item.value(), item.key(), index, id});
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

// The module whose operator makes what this one returns; -1: not known. Only a Sequential proves which of its children
// runs last, and of one without parameters that it runs at all, by what the one before gave.
int WatchedModel::MadeBy(torch::nn::Module& module, const std::string& path) const {
  const auto children = module.named_children();
  if (children.is_empty()) {
    const auto known = by_path_.find(path);
    if (known == by_path_.end()) return -1;
    const WatchedModule& leaf = this->module(known->second);
    const bool made = leaf.has_params ? leaf.operators != nullptr : leaf.of_torch && HasOwnOperator(leaf.type);
    return made ? known->second : -1;
  }
  if (dynamic_cast<torch::nn::SequentialImpl*>(&module) == nullptr) return -1;
  const auto end_of = [&](size_t child) { return MadeBy(*children[child].value(), Join(path, children[child].key())); };
  const int end = end_of(children.size() - 1);
  for (size_t child = children.size() - 1; end >= 0; --child) {
    const int at_child = end_of(child);
    if (at_child < 0 || !children[child].value()->children().empty()) return child + 1 == children.size() ? end : -1;
    if (this->module(at_child).has_params) return end;
    if (child == 0) return -1;
  }
  return -1;
}

// What of the published modules from the one of this index on has no activation under its own name, and why.
void WatchedModel::NoteActivations(size_t from) {
  NameList own, unknown, elsewhere;
  const auto add = [](NameList& list, const WatchedModule& module) {
    list.Add(module.path.empty() ? module.type : module.path + " (" + module.type + ")");
  };
  std::vector<bool> follows(modules_.size(), false);
  for (const auto& module : modules_) {
    if (module->next_in_sequence >= 0) follows[static_cast<size_t>(module->next_in_sequence)] = true;
  }
  for (size_t i = from; i < modules_.size(); ++i) {
    const WatchedModule& module = *modules_[i];
    if (module.id == 0 || module.functional || module.reports_as != static_cast<int>(i)) continue;
    const bool attention = module.of_torch && module.type == "MultiheadAttention";
    if (module.has_params) {
      if (module.operators == nullptr && !attention) add(own, module);
    } else if (!module.of_torch || !HasOwnOperator(module.type)) {
      add(unknown, module);
    } else if (!follows[i]) {
      add(elsewhere, module);
    }
  }
  if (!own.empty()) {
    notes_.push_back("activations of " + own.Text() + " of " + name_ +
                     " are not captured: what a class of one's own returns cannot be seen; what its parameters go into is "
                     "named 'module > operator'");
  }
  if (!unknown.empty()) {
    notes_.push_back("activations of " + unknown.Text() + " of " + name_ +
                     " are not captured: no operator is known that makes the output of a module of this type");
  }
  if (!elsewhere.empty()) {
    notes_.push_back("activations of " + elsewhere.Text() + " of " + name_ +
                     " are named by position, 'layer > operator': only a Sequential proves which module runs");
  }
}

bool WatchedModel::SameTree(torch::nn::Module& module, size_t* node) const {
  if (*node >= tree_.size()) return false;
  const TreeNode& known = tree_[(*node)++];
  if (known.module != &module) return false;
  const auto& params = ParametersOf(module);
  if (params.size() != known.params.size()) return false;
  for (size_t i = 0; i < known.params.size(); ++i) {
    if (params[i].value().unsafeGetTensorImpl() != known.params[i]) return false;
  }
  const auto children = module.children();
  if (children.size() != known.children.size()) return false;
  for (size_t i = 0; i < children.size(); ++i) {
    if (children[i].get() != known.children[i] || !SameTree(*children[i], node)) return false;
  }
  return true;
}

bool WatchedModel::TreeChanged() const {
  if (detached_.load(std::memory_order_relaxed)) return false;
  std::lock_guard lock(mutex_);
  size_t node = 0;
  return !SameTree(*root_, &node);
}

bool WatchedModel::AllReplaced() const {
  constexpr size_t kOurs = 2;  // a parameter is held here, and with its hook
  if (detached_.load(std::memory_order_relaxed)) return false;
  std::lock_guard lock(mutex_);
  bool any = false;
  for (const WatchedParam& param : params_) {
    if (param.retired.load(std::memory_order_relaxed)) continue;
    if (param.tensor.use_count() > kOurs) return false;
    any = true;
  }
  return any;
}

bool WatchedModel::FindGone() {
  if (keep_alive_ != nullptr) return false;
  return AllReplaced() && !detached_.exchange(true);
}

bool WatchedModel::RenewTree(probe::Session& session) {
  if (detached_.load(std::memory_order_relaxed)) return false;
  bool any_left = false, any_gone = false;
  {
    std::lock_guard lock(mutex_);
    const size_t notes_before = notes_.size();
    tree_.clear();
    walked_buffers_.clear();
    walked_params_.assign(params_.size(), false);
    const size_t before = params_.size();
    const size_t modules_before = modules_.size();
    Walk(session, *root_, "", 0, -1);
    NoteActivations(modules_before);
    NameList gone, fresh;
    for (size_t i = 0; i < before; ++i) {
      WatchedParam& param = params_[i];
      any_left |= walked_params_[i];
      if (walked_params_[i] || param.retired.exchange(true)) continue;
      any_gone = true;
      param.id.store(0);
      gone.Add(Join(at(param.module).path, param.name));
    }
    module_count_.store(modules_.size(), std::memory_order_release);
    params_.Publish();
    all_buffers_.push_back(std::make_unique<std::vector<WatchedBuffer>>(std::move(walked_buffers_)));
    buffers_.store(all_buffers_.back().get(), std::memory_order_release);
    has_retired_.store(true, std::memory_order_relaxed);
    for (size_t i = before; i < params_.size(); ++i) fresh.Add(Join(at(params_[i].module).path, params_[i].name));
    const std::string step = " before step " + std::to_string(steps_finished.load(std::memory_order_relaxed));
    if (!gone.empty()) {
      session.AddNote("parameters of " + name_ + " were replaced or removed" + step + ": " + gone.Text());
    }
    if (!fresh.empty()) {
      session.AddNote("parameters of " + name_ + " came after Attach()," + step + ": " + fresh.Text());
    }
    for (size_t i = notes_before; i < notes_.size(); ++i) session.AddNote(notes_[i]);
    Build();
  }
  return any_gone && !any_left;
}

std::vector<WatchedModel::Released> WatchedModel::ReleaseRetired() {
  std::vector<Released> released;
  std::lock_guard lock(mutex_);
  has_retired_.store(false, std::memory_order_relaxed);
  const at::Tensor nothing = at::empty({0});
  for (size_t i = 0; i < params_.size(); ++i) {
    WatchedParam& param = params_[i];
    if (!param.retired.load(std::memory_order_relaxed) || param.tensor.numel() == 0) continue;
    Released& one = released.emplace_back();
    one.param = static_cast<int>(i);
    one.tensor = std::exchange(param.tensor, nothing);
    one.lives_on = std::any_of(params_.begin(), params_.end(), [&](const WatchedParam& other) {
      return !other.retired.load(std::memory_order_relaxed) && other.tensor.is_same(one.tensor);
    });
  }
  all_buffers_.erase(all_buffers_.begin(), all_buffers_.end() - 1);
  return released;
}

bool WatchedModel::HasGradients() const {
  return std::any_of(params_.begin(), params_.end(),
                     [](const WatchedParam& param) { return param.tensor.grad().defined(); });
}

void WatchedModel::Build() {
  auto tables = std::make_unique<Tables>();
  const auto add = [&](const at::Tensor& tensor, int param, int module) {
    const void* const data = DataOf(tensor);
    if (data == nullptr) return data;
    Span span;
    span.begin = reinterpret_cast<uintptr_t>(data);
    span.end = std::max(EndOf(tensor), span.begin + 1);
    span.param = param;
    span.module = module;
    span.elements = tensor.numel();
    tables->spans.push_back(span);
    return data;
  };
  for (size_t i = 0; i < params_.size(); ++i) {
    WatchedParam& param = params_[i];
    if (param.retired.load(std::memory_order_relaxed)) continue;
    const void* data = add(param.tensor, static_cast<int>(i), param.module);
    param.data.store(data, std::memory_order_relaxed);
    if (data != nullptr && param.bias) tables->bias_owners.emplace(data, param.module);
  }
  for (const WatchedBuffer& buffer : buffers()) add(buffer.tensor, -1, buffer.module);
  std::stable_sort(tables->spans.begin(), tables->spans.end(),
                   [](const Span& a, const Span& b) { return a.begin < b.begin; });
  uintptr_t end = 0;
  for (Span& span : tables->spans) span.end_before = end = std::max(end, span.end);
  if (all_tables_.size() >= kMaxTables) all_tables_.erase(all_tables_.begin());
  all_tables_.push_back(std::move(tables));
  tables_.store(all_tables_.back().get(), std::memory_order_release);
}

// Each span that the address lies in, in the order of registration; until `visit` returns false.
template <typename Visit>
void WatchedModel::VisitAt(const Tables& tables, const void* data, Visit&& visit) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const auto& spans = tables.spans;
  size_t after = static_cast<size_t>(
      std::upper_bound(spans.begin(), spans.end(), address, [](uintptr_t a, const Span& span) { return a < span.begin; }) -
      spans.begin());
  size_t first = after;
  while (first > 0 && spans[first - 1].end_before > address) --first;
  for (; first < after; ++first) {
    if (spans[first].end > address && !visit(spans[first])) return;
  }
}

// Whether a module passes its weight so: as it is, or, Linear to the products, transposed. What is laid out otherwise is
// another use of it, such as a decoder's that is tied to the encoder.
static bool PassedAs(const at::Tensor& weight, const at::Tensor& passed, std::string_view operator_name) {
  const int64_t dims = weight.dim();
  const bool transposed = operator_name == "addmm" || operator_name == "matmul";
  if (passed.dim() != dims || (transposed && dims != 2)) return false;
  for (int64_t d = 0; d < dims; ++d) {
    const int64_t of = transposed ? dims - 1 - d : d;
    if (passed.size(d) != weight.size(of)) return false;
    if (passed.size(d) > 1 && passed.stride(d) != weight.stride(of)) return false;
  }
  return true;
}

WatchedModel::Candidates WatchedModel::ModulesOf(const at::Tensor& weight, const char* operator_name) const {
  Candidates found;
  const void* const data = DataOf(weight);
  if (data == nullptr) return found;
  const Tables* tables = tables_.load(std::memory_order_acquire);
  std::vector<int> others;
  VisitAt(*tables, data, [&](const Span& span) {
    const bool whole = span.begin == reinterpret_cast<uintptr_t>(data) && span.elements == weight.numel() &&
                       (span.param < 0 || PassedAs(params_[static_cast<size_t>(span.param)].tensor, weight, operator_name));
    auto& modules = whole && Lists(module(span.module).operators, operator_name) ? found.modules : others;
    if (modules.empty() || modules.back() != span.module) modules.push_back(span.module);
    return true;
  });
  found.own = found.modules.size();
  found.modules.insert(found.modules.end(), others.begin(), others.end());
  return found;
}

int WatchedModel::BiasOwner(const void* data) const {
  const Tables* tables = tables_.load(std::memory_order_acquire);
  const auto found = tables->bias_owners.find(data);
  return found == tables->bias_owners.end() ? -1 : found->second;
}

int WatchedModel::ParamAt(const void* data) const {
  int param = -1;
  VisitAt(*tables_.load(std::memory_order_acquire), data, [&](const Span& span) {
    if (span.param < 0) return true;
    param = span.param;
    return false;
  });
  return param;
}

bool WatchedModel::HasMoved(int param) const {
  std::lock_guard lock(mutex_);
  return MovedLocked(param);
}

bool WatchedModel::MovedLocked(int param) const {
  const WatchedParam& watched = params_[static_cast<size_t>(param)];
  return !watched.retired.load(std::memory_order_relaxed) &&
         watched.data.load(std::memory_order_relaxed) != DataOf(watched.tensor);
}

bool WatchedModel::Refresh() {
  std::lock_guard lock(mutex_);
  for (size_t param = 0; param < params_.size(); ++param) {
    if (!MovedLocked(static_cast<int>(param))) continue;
    Build();
    return true;
  }
  return false;
}

int WatchedModel::FunctionalModule(probe::Session& session, int after, const char* name, const char* type) {
  const std::string before = after < 0 ? std::string() : module(after).path;
  const std::string path = (before.empty() ? "> " : before + " > ") + name;
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

// Of all parameters, for a loop may train the last ones alone; whether they require gradients says little, a GAN
// switches that from step to step.
uint64_t WatchedModel::Fingerprint() const {
  constexpr size_t kWords = 2048;  // of all
  const size_t of_each = std::clamp<size_t>(kWords / std::max<size_t>(params_.size(), 1), 4, 64);
  uint64_t hash = 0xcbf29ce484222325;
  for (const WatchedParam& param : params_) {
    if (param.retired.load(std::memory_order_relaxed) || !WhyUnreadable(param.tensor).empty()) continue;
    hash = WordsOf(param.tensor, of_each, hash);
  }
  return hash;
}

}  // namespace ikkuna::torch_probe
