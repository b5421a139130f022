// Products of rows with constant weights, a panel of outputs at a time, so that what reads the
// result finds it in the nearest cache. The multiplication itself is oneDNN's, through PyTorch.
#pragma once
#include <functional>

#include "kernels.h"
#include "matrix.h"

namespace seqvis {

enum class Precision { float32, bfloat16, int8 };

constexpr int kRows = 32;  // of a tile, at most

// A piece of a product: `rows` rows of a panel.
struct Tile {
  float* values;  // (rows, width)
  int row, rows, panel, width;
  float* row_of(int index) const { return values + index * width; }
  const float* operator[](int index) const { return row_of(index); }

  // Writes its rows where they belong in rows of so many columns, or adds them to what is there.
  // `into` returns the beginning of a row.
  template <class Into>
  void copy(int columns, Into into) const {
    for (int index = 0; index < rows; ++index)
      std::copy_n(row_of(index), valid(columns), into(row + index) + panel * width);
  }
  template <class Into>
  void add(int columns, Into into) const {
    for (int index = 0; index < rows; ++index)
      add_bias(into(row + index) + panel * width, 1, valid(columns), row_of(index));
  }
  int valid(int columns) const { return std::min(width, columns - panel * width); }
};

class Product {
 public:
  // `weight` (outputs, inputs) and `bias` (outputs), or null. The outputs are `groups` equal parts;
  // with several, a panel has kUnits columns of each: so a GRU's gates stand together. The last
  // panel is filled up with columns of `filling`.
  Product(const float* weight, const float* bias, int outputs, int inputs, Precision precision,
          int groups = 1, float filling = 0.0f);

  // Calls `use` with each tile of the product, panel by panel. A row's result does not depend on
  // the others.
  void multiply(const float* input, int64_t stride, int rows,
                const std::function<void(const Tile&)>& use) const;

  // Writes the product, in the order of the panels' columns.
  void multiply(const float* input, int64_t stride, int rows, Matrix& output) const;

  int inputs() const { return inputs_; }
  int columns() const { return panels_ * width_; }

 private:
  void compute(const char* input, const float* steps, const Tile& tile) const;

  Precision precision_;
  int inputs_, depth_, width_, panels_;  // depth: the inputs and zeros that fill them up
  Buffer<uint32_t> packed_;
  Buffer<float> bias_, scales_;
  Buffer<int32_t> offsets_;
};

// Whether this processor and this PyTorch have the products.
bool supports(Precision precision);

// Gives the processor's matrix unit back; after the last product of a call.
void release_unit();

}  // namespace seqvis
