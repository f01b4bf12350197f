#include "probe/examples/dataset.h"

#include <numeric>
#include <stdexcept>

#include <ATen/ATen.h>
#include <zlib.h>

namespace trainer {
namespace {

constexpr int64_t kSide = 28;
constexpr double kMean = 0.2860, kDeviation = 0.3530;  // of the training images, in [0, 1]

// Reads up to `items_max` items of a gzipped IDX file of unsigned bytes.
at::Tensor ReadIdx(const std::string& path, const std::vector<int64_t>& item_sizes, int64_t items_max) {
  auto fail = [&](const std::string& why) {
    return std::runtime_error("cannot read " + path + ": " + why +
                              "; install it with `apt-get install dataset-fashion-mnist`, or pass --data-dir with the "
                              "folder that holds the four .gz files");
  };
  gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) throw fail("cannot open the file");
  struct Closer {
    gzFile file;
    ~Closer() { gzclose(file); }
  } closer{file};
  auto word = [&]() -> int64_t {
    uint8_t b[4];
    if (gzread(file, b, 4) != 4) throw fail("the file ends in its header");
    return int64_t{b[0]} << 24 | b[1] << 16 | b[2] << 8 | b[3];
  };
  constexpr int64_t kUnsignedBytes = 0x08;
  if (word() != (kUnsignedBytes << 8 | static_cast<int64_t>(1 + item_sizes.size())))
    throw fail("not the IDX file expected");
  std::vector<int64_t> sizes{std::min(word(), items_max)};
  for (int64_t expected : item_sizes) {
    if (word() != expected) throw fail("its items have another size than those of Fashion-MNIST");
    sizes.push_back(expected);
  }
  at::Tensor data = at::empty(sizes, at::kByte);
  if (gzread(file, data.data_ptr(), static_cast<unsigned>(data.numel())) != data.numel())
    throw fail("the file is too short");
  return data;
}

}  // namespace

Dataset::Dataset(const std::string& folder, const std::string& split, int64_t images_max)
    : images_(ReadIdx(folder + "/" + split + "-images-idx3-ubyte.gz", {kSide, kSide}, images_max).unsqueeze(1)),
      labels_(ReadIdx(folder + "/" + split + "-labels-idx1-ubyte.gz", {}, images_max).to(at::kLong)) {
  if (images_.size(0) != labels_.size(0))
    throw std::runtime_error(folder + ": not as many labels as images in " + split);
}

Batch Dataset::At(const int64_t* indices, int64_t count, at::ScalarType dtype) const {
  const at::Tensor rows = at::from_blob(const_cast<int64_t*>(indices), {count}, at::kLong);
  at::Tensor images = images_.index_select(0, rows).to(at::kFloat).div_(255).sub_(kMean).div_(kDeviation);
  return {images.to(dtype), labels_.index_select(0, rows)};
}

DataOrder::DataOrder(int64_t size, uint64_t seed) : generator_(seed), order_(static_cast<size_t>(size)) {
  std::iota(order_.begin(), order_.end(), 0);
}

const int64_t* DataOrder::NextEpoch() {
  // Fisher and Yates by hand: std::shuffle may give another order with another standard library.
  for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[generator_() % i]);
  return order_.data();
}

}  // namespace trainer
