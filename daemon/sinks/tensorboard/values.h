// Values in TensorBoard's form.
//
// Thread rule: free functions without state.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "daemon/model/run.h"
#include "ikkuna/tb/event.pb.h"
#include "metrics/value.h"

namespace ikkuna::sinks {

// Single precision; what does not fit is infinite, as a rounding would make it.
void SetNumber(tb::Summary::Value& value, double number);
// Adds a text to those that the value has: TensorBoard shows several as a table.
void AddText(tb::Summary::Value& value, const std::string& text);
// What TensorBoard has no place for (NaNs, infinities) is left out; without a finite element it is empty.
void SetHistogram(tb::Summary::Value& value, const Histogram& histogram);
// An image as it is; a matrix as a grey one, from its least finite element (black) to its greatest. What is not finite
// is black. false: its sizes are no picture's, or are not those of its elements.
bool SetTensor(tb::Summary::Value& value, const TensorValue& tensor);

// Facts of a run as a table, in TensorBoard's Markdown.
std::string FactsTable(const std::vector<std::pair<std::string, std::string>>& facts);
std::string Preformatted(const std::string& text);

}  // namespace ikkuna::sinks
