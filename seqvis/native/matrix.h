// Rows of floats, which begin at multiples of 64 bytes where their stride is a multiple of 16.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

namespace seqvis {

// Memory for `T`, not initialised. It grows when asked for more, and forgets what it held.
template <class T>
class Buffer {
 public:
  T* reserve(int64_t size) {
    if (size > size_) {
      data_.reset(static_cast<T*>(::operator new(size * sizeof(T), std::align_val_t{64})));
      size_ = size;
    }
    return data_.get();
  }
  T* get() const { return data_.get(); }

 private:
  struct Delete {
    void operator()(T* data) const { ::operator delete(data, std::align_val_t{64}); }
  };
  std::unique_ptr<T, Delete> data_;
  int64_t size_ = 0;
};

class Matrix {
 public:
  Matrix() = default;
  Matrix(int64_t rows, int64_t columns) { reshape(rows, columns); }
  // Makes room for so many rows; what they hold is undefined.
  void reshape(int64_t rows, int64_t columns) {
    stride_ = (columns + 15) / 16 * 16;
    buffer_.reserve(rows * stride_);
  }
  void zero(int64_t rows) { std::fill_n(buffer_.get(), rows * stride_, 0.0f); }
  float* operator[](int64_t row) const { return buffer_.get() + row * stride_; }
  int64_t stride() const { return stride_; }

 private:
  Buffer<float> buffer_;
  int64_t stride_ = 0;
};

}  // namespace seqvis
