#include "probe/torch/control.h"

#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "probe/torch/name_list.h"

namespace ikkuna::torch_probe {

void Control::HandleCommands(const WatchedModel& boundary, bool step_begins) {
  std::optional<uint64_t> step;
  if (step_begins) {
    // Where the next step has ended the one before, it has its number already.
    const uint64_t next = tracker_.NextStep(boundary.index());
    const std::optional<uint64_t> open = tracker_.OpenStepOf(boundary.index(), 0);
    step = open && *open + 1 == next ? *open : next;
  }
  session_.HandleCommands(boundary.root_id(), step, [this](const shm::Command& command) {
    if (!session_.allow_control()) return;
    switch (static_cast<shm::CommandType>(command.type)) {
      case shm::CommandType::kStop:
        stop_requested_.store(true);
        break;
      case shm::CommandType::kFreeze:
      case shm::CommandType::kUnfreeze:
        for (int m = 0; m < roots_.count(); ++m) {
          WatchedModel& model = roots_.model(m);
          if (command.root != 0 && command.root != kAnyRoot && command.root != model.root_id()) continue;
          std::lock_guard hold(mutex_);
          model.freezes.push_back(command);
          model.freezes_wait.store(true);
        }
        break;
      default:
        break;
    }
  });
}

void Control::FreezeAsAsked(WatchedModel& model) {
  if (!model.freezes_wait.load(std::memory_order_relaxed)) return;
  std::lock_guard one_at_a_time(freeze_mutex_);
  std::vector<shm::Command> commands;
  {
    std::lock_guard lock(mutex_);
    commands.swap(model.freezes);
    model.freezes_wait.store(false);
  }
  for (const shm::Command& command : commands) Freeze(model, command);
}

// Also resets the gradient: with momentum an optimizer would go on moving a parameter that merely stopped requiring
// one.
void Control::Freeze(WatchedModel& model, const shm::Command& command) {
  const bool freeze = static_cast<shm::CommandType>(command.type) == shm::CommandType::kFreeze;
  // With the step, since a note is told once.
  const std::string after_step = " after step " + std::to_string(model.steps_finished.load(std::memory_order_relaxed));
  const std::string refused = "freeze refused" + after_step + ": ";
  std::unordered_set<const void*> touched;  // tied parameters are one
  for (const WatchedParam& param : model.params()) {
    if (param.retired.load(std::memory_order_relaxed)) continue;
    if ((command.module == 0 || model.module(param.module).id == command.module) &&
        (command.param == 0 || param.id == command.param)) {
      touched.insert(param.tensor.unsafeGetTensorImpl());
    }
  }
  if (touched.empty()) return;  // a module of another model
  std::vector<WatchedParam*> targets;
  bool others_train = false;
  NameList untouched;
  for (WatchedParam& param : model.params()) {
    if (param.retired.load(std::memory_order_relaxed)) continue;
    if (touched.count(param.tensor.unsafeGetTensorImpl()) == 0) {
      others_train |= param.tensor.requires_grad();
    } else if (freeze ? param.tensor.requires_grad() : param.frozen) {
      targets.push_back(&param);
    } else {  // what the trainer itself holds still is neither frozen nor thawed by us
      const std::string& path = model.module(param.module).path;
      untouched.Add((path.empty() ? "" : path + ".") + param.name);
    }
  }
  if (freeze && !others_train) {
    session_.AddNote(refused + model.name() + " would have nothing left to train");
    return;
  }
  if (freeze && tracker_.ThreadsThatTrain(model.index()) > 1) {
    session_.AddNote(refused + "several threads train " + model.name() +
                     ", one may not take a gradient away from the others");
    return;
  }
  for (WatchedParam* param : targets) {
    param->frozen = freeze;
    param->tensor.set_requires_grad(!freeze);
    if (freeze) param->tensor.mutable_grad().reset();
    model.Renew(session_, *param);
  }
  if (!untouched.empty()) {
    session_.AddNote((freeze ? "freeze" : "unfreeze") + after_step + " leaves as it was: " + untouched.Text() +
                      (freeze ? ", which did not train" : ", which no client froze"));
  }
}

}  // namespace ikkuna::torch_probe
