// ikkuna::Probe over the Listener: nothing leaves it as an exception.
#include "probe/ikkuna/probe.hpp"

#include <algorithm>
#include <cstdio>

#include "probe/torch/listener.h"

namespace ikkuna {

class Probe::Impl {
 public:
  explicit Impl(const ProbeOptions& options) {
    try {
      listener = torch_probe::Listener::Start(options);
    } catch (const std::exception& error) {
      probe::PrintNow(std::string("off, training is not watched: ") + error.what());
    }
  }

  // Runs `body` on a live listener; what it throws ends here.
  template <typename Body>
  void With(Body&& body) noexcept {
    if (!listener || !listener->active()) return;
    try {
      body(*listener);
    } catch (const std::exception& error) {
      listener->session().SwitchOff(error.what());
    } catch (...) {
      listener->session().SwitchOff("unknown error");
    }
  }

  // Also one that switched itself off: its callbacks are still there.
  void Stop() noexcept {
    if (!listener) return;
    try {
      listener->Stop();
    } catch (const std::exception& error) {
      listener->session().SwitchOff(error.what());
    }
  }

  std::shared_ptr<torch_probe::Listener> listener;  // null: this probe does nothing
};

Probe::Probe(ProbeOptions options) : impl_(std::make_unique<Impl>(options)) {}

Probe::~Probe() {
  impl_->Stop();
  impl_.reset();
  torch_probe::Listener::DestroyRetired();
}

void Probe::Attach(torch::nn::Module& model, const AttachOptions& options) {
  // What a shared pointer owns outlives its fold of a cross-validation, which a trainer need not think of.
  impl_->With([&](torch_probe::Listener& listener) { listener.Attach(model, model.weak_from_this().lock(), options); });
}

void Probe::Attach(std::shared_ptr<torch::nn::Module> model, const AttachOptions& options) {
  if (!model) {
    probe::PrintNow("Attach() got a null model, which is not watched");
    return;
  }
  torch::nn::Module& root = *model;
  impl_->With([&](torch_probe::Listener& listener) { listener.Attach(root, std::move(model), options); });
}

void Probe::Attach(const torch::jit::Module&, const AttachOptions& options) {
  const std::string which = options.name.empty() ? "a torch::jit::Module" : "torch::jit::Module '" + options.name + "'";
  impl_->With([&](torch_probe::Listener& listener) {
    listener.session().Say(which + " is not watched: its operators do not tell which module runs them; attach a "
                                   "torch::nn::Module, or give its loss and values by Loss() and Log()");
  });
}

void Probe::Attach(torch::optim::Optimizer& optimizer) {
  impl_->With([&](torch_probe::Listener& listener) { listener.Attach(optimizer, nullptr); });
}

void Probe::Attach(std::shared_ptr<torch::optim::Optimizer> optimizer) {
  if (!optimizer) {
    probe::PrintNow("Attach() got a null optimizer, which is not watched");
    return;
  }
  torch::optim::Optimizer& watched = *optimizer;
  impl_->With([&](torch_probe::Listener& listener) { listener.Attach(watched, std::move(optimizer)); });
}

void Probe::Step() {
  impl_->With([](torch_probe::Listener& listener) { listener.Step(nullptr); });
}

void Probe::Step(torch::nn::Module& root) {
  impl_->With([&](torch_probe::Listener& listener) { listener.Step(&root); });
}

void Probe::Epoch(uint32_t epoch) {
  impl_->With([&](torch_probe::Listener& listener) { listener.Epoch(epoch); });
}

void Probe::Loss(const at::Tensor& loss) {
  impl_->With([&](torch_probe::Listener& listener) { listener.Loss(loss); });
}

void Probe::Tag(const std::string& name) {
  impl_->With([&](torch_probe::Listener& listener) { listener.Tag(name); });
}

void Probe::Samples(uint64_t count) {
  impl_->With([&](torch_probe::Listener& listener) { listener.Samples(count); });
}

void Probe::Log(const std::string& name, double value) {
  impl_->With([&](torch_probe::Listener& listener) { listener.Log(name, value); });
}

void Probe::Log(const std::string& name, const std::string& text) {
  impl_->With([&](torch_probe::Listener& listener) { listener.Log(name, text); });
}

void Probe::Hyperparameter(const std::string& name, const std::string& value) {
  impl_->With([&](torch_probe::Listener& listener) { listener.session().AddFact(name, value); });
}

void Probe::Hyperparameter(const std::string& name, double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.12g", value);
  Hyperparameter(name, std::string(text));
}

bool Probe::StopRequested() const { return impl_->listener && impl_->listener->StopRequested(); }

void Probe::Subscribe(const std::vector<std::string>& kinds, std::function<void(const ProbeMessage&)> callback,
                      uint32_t period, const std::string& tag) {
  impl_->With([&](torch_probe::Listener& listener) {
    auto subscriber = std::make_shared<torch_probe::LocalSubscriber>();
    for (const std::string& name : kinds) {
      const auto kind = KindFromName(name);
      if (!kind) {
        listener.session().Say("Subscribe() knows no kind '" + name + "'");
        continue;
      }
      subscriber->kinds |= KindBit(*kind);
    }
    subscriber->period = std::max(period, 1u);
    subscriber->tag = listener.session().TagId(tag);
    subscriber->callback = std::move(callback);
    listener.Subscribe(std::move(subscriber));
  });
}

void Probe::Detach() { impl_->Stop(); }

bool Probe::active() const { return impl_->listener && impl_->listener->active(); }

}  // namespace ikkuna
