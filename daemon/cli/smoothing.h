// What becomes of a series before it is drawn: smoothed, and thinned to what a screen can show.
//
// Thread rule: values without locks, one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace ikkuna::cli {

// The exponential mean of the values so far, each weighing (1 - a)^age with a = 2 / (span + 1), divided by the sum of
// the weights: it begins at the first value, not at zero (Kingma and Ba 2015, section 3; pandas' ewm(span,
// adjust=True)).
class Smoother {
 public:
  explicit Smoother(uint32_t span) : keep_(1 - 2 / (static_cast<double>(span) + 1)) {}
  // What is not finite comes back as it is and leaves the mean alone.
  double Add(double value);

 private:
  const double keep_;
  double sum_ = 0;
  double weight_ = 0;
};

// Keeps the least and the greatest value of each of up to `buckets_max` groups of neighbours, and the first and the
// last point, whatever the number of points: a spike survives, and memory stays bounded. Points come in the order of x.
class Thinner {
 public:
  explicit Thinner(size_t buckets_max) : buckets_max_(buckets_max < 2 ? 2 : buckets_max) {}
  void Add(double x, double y);
  // In the order of x. All points as they came while there are no more than `buckets_max`.
  std::vector<std::pair<double, double>> Points() const;
  uint64_t size() const { return size_; }  // points that came

 private:
  struct Point {
    double x = 0, y = 0;
    uint64_t at = 0;  // its number
  };
  struct Bucket {
    Point low, high;
    bool has_finite = false;
    Point not_finite;  // the first
    bool has_not_finite = false;
  };
  static void Put(Bucket* bucket, const Point& point);
  static void Put(Bucket* bucket, const Bucket& other);
  void Halve();

  const size_t buckets_max_;
  uint64_t per_bucket_ = 1;
  uint64_t in_last_ = 0;
  uint64_t size_ = 0;
  std::vector<Bucket> buckets_;
  Point first_{}, last_{};
};

}  // namespace ikkuna::cli
