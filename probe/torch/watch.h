// Watch: what the parts of a listener work on together.
//
// Owner: the listener, which makes it first and destroys it last. Thread rule: each member has its own.
#pragma once

#include <cstdint>

#include "probe/core/session.h"
#include "probe/core/step_tracker.h"
#include "probe/torch/capture.h"
#include "probe/torch/local_subscribers.h"
#include "probe/torch/loss_roots.h"
#include "probe/torch/optimizers.h"
#include "probe/torch/roots.h"

namespace ikkuna::torch_probe {

struct Watch {
  Watch(probe::Session& the_session, const ProbeOptions& the_options, uint64_t the_serial)
      : session(the_session),
        options(the_options),
        serial(the_serial),
        capture(session, optimizers),
        roots(session, serial) {}

  probe::Session& session;
  const ProbeOptions options;
  const uint64_t serial;  // of the listener
  probe::StepTracker tracker;
  Optimizers optimizers;
  Capture capture;
  LocalSubscribers subscribers;
  LossRoots loss_roots;
  Roots roots;
};

}  // namespace ikkuna::torch_probe
