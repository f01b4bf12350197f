// train_accuracy, test_accuracy: share of rows whose label is among the `top` largest of network_output.
//
// Rows of an output [N, C] are its N first-dimension entries; of [N, C, d1, ...] every position is a row; [C] is one
// row. Labels are integers, one a row in the same order; a negative label, and the `ignore_index` of the loss function
// that the labels are named after, is no row; a loss whose targets are no integers does not count. Ties are decided as
// by a stable descending sort, so `top=1` is argmax: an entry is among the k largest if fewer than k entries are
// greater or equal with a smaller index. NaN counts as the largest, as torch and numpy have it. Counts run over all
// calls and micro-batches of a step, or all batches of an evaluation pass. Output and labels of one loss belong
// together by (pass, call). Shapes or types that do not fit this publish nothing.
#pragma once

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

extern const Descriptor kTrainAccuracy;
extern const Descriptor kTestAccuracy;

}  // namespace ikkuna::metrics
