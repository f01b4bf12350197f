// Of a tensor as the matrix [size(0), the rest]:
//   spectral_norm(kind, iterations=3)  its largest singular value
//   stable_rank(kind, iterations=3)    (sum of squares) / (largest singular value)^2: 1 for rank one, at most its rank
//
// By power iteration on A^T A (Golub and Van Loan, Matrix Computations, section 8.2): `iterations` rounds at each step
// of a vector that is kept from step to step, so that the number settles on the true one over a few steps, from below
// (that of stable_rank from above). The vector begins at random, seeded, and begins anew where it vanishes (a matrix of
// zeros), is not finite, or the matrix has another width; each round reads the tensor once. Of several messages of a
// step the last counts. Sums are in double; a NaN gives NaN, an infinity that or infinity. A tensor without elements
// has the norm 0 and no rank (NaN), one of zeros too; a tensor of one dimension is one column.
#pragma once

#include "metrics/subscriber.h"

namespace ikkuna::metrics {

extern const Descriptor kSpectralNorm;
extern const Descriptor kStableRank;

}  // namespace ikkuna::metrics
