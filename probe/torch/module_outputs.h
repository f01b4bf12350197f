// ModuleOutputs: which operator makes what the forward call of a module of torch::nn returns.
//
// LibTorch's modules have no hooks, so a module's activation is the output of an operator, and only of one that is known
// to be the last that its class runs. Of classes that are not listed here (the trainer's own, and those of torch::nn that
// reckon on with what an operator gave) nothing stands under the module's name.
//
// Thread rule: constants.
#pragma once

#include <string_view>

namespace ikkuna::torch_probe {

// `class_name`: as module.name() gives it ("torch::nn::LinearImpl"); `operators`: null where none makes its output.
// Separated by blanks.
const char* OperatorsOf(std::string_view class_name);
// Of classes without parameters: those that an operator of this name makes the output of; empty: none.
const char* TypesMadeBy(std::string_view operator_name);
// Whether a module of this type without parameters has an operator of its own.
bool HasOwnOperator(std::string_view type);
// Whether `word` is one of the words of `list`, which may be null.
bool Lists(const char* list, std::string_view word);

}  // namespace ikkuna::torch_probe
