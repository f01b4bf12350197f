// Fashion-MNIST: 60,000 training and 10,000 test images of 28 x 28 grey values in ten classes, in the gzipped IDX files
// of the Debian package dataset-fashion-mnist.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace trainer {

struct Batch {
  at::Tensor images;  // [n, 1, 28, 28], normalised to mean 0 and deviation 1 over the training set
  at::Tensor labels;  // [n], int64
};

// One of the two sets. Immutable once loaded.
class Dataset {
 public:
  // `split` is "train" or "t10k"; takes the first `images_max` images. Throws std::runtime_error that says what to do.
  Dataset(const std::string& folder, const std::string& split, int64_t images_max);

  int64_t size() const { return labels_.size(0); }
  // The images at `count` positions from `indices`, as numbers of type `dtype`.
  Batch At(const int64_t* indices, int64_t count, at::ScalarType dtype) const;

 private:
  at::Tensor images_;  // uint8: four times smaller than floats, and converting a batch costs microseconds
  at::Tensor labels_;
};

// The order of the images: a new permutation an epoch, from a generator of its own, so that nothing else that draws
// random numbers can change it.
class DataOrder {
 public:
  DataOrder(int64_t size, uint64_t seed);
  // Permutes anew; the pointer is valid until the next call.
  const int64_t* NextEpoch();

 private:
  std::mt19937_64 generator_;
  std::vector<int64_t> order_;
};

}  // namespace trainer
