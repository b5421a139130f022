#include "product.h"

#include <ATen/native/CPUBlas.h>

#include <cmath>
#include <vector>

#include "kernels.h"

namespace seqvis {

using at::native::cpublas::brgemm;

namespace {

constexpr int kPanel = 64;   // columns of a panel without groups
constexpr int kBlock = 256;  // rows whose inputs are converted at once, and stay in the cache

// Inputs that one instruction multiplies for each output, and the bytes of one.
int paired(Precision precision) {
  return precision == Precision::float32 ? 1 : precision == Precision::bfloat16 ? 2 : 4;
}
int bytes_of(Precision precision) { return 4 / paired(precision); }

// How many rows are computed for so many: oneDNN compiles a kernel for each number.
int computed_rows(int rows) { return rows <= 4 ? rows : (rows + 1) / 2 * 2; }

struct Scratch {
  Buffer<float> tile, steps;
  Buffer<int32_t> sums;
  Buffer<char> converted;
};

thread_local Scratch scratch;

}  // namespace

Product::Product(const float* weight, const float* bias, int outputs, int inputs,
                 Precision precision, int groups, float filling)
    : precision_(precision), inputs_(inputs) {
  const int units = groups == 1 ? kPanel : kUnits, pair = paired(precision);
  const int part = outputs / groups;
  width_ = units * groups;
  panels_ = (part + units - 1) / units;
  depth_ = (inputs + pair - 1) / pair * pair;
  char* packed = packed_.reserve(static_cast<int64_t>(columns()) * depth_ * bytes_of(precision));
  for (int column = 0; column < columns(); ++column) {
    const int within = column % width_, unit = column / width_ * units + within % units;
    const int64_t from = unit < part ? within / units * part + unit : -1;
    std::vector<float> row(depth_);
    if (from >= 0) std::copy_n(weight + from * inputs, inputs, row.begin());
    float largest = 1e-12f;
    for (float value : row) largest = std::max(largest, std::fabs(value));
    const float scale = largest / 127;
    int32_t sum = 0;
    for (int i = 0; i < depth_; ++i) {
      const int64_t place = static_cast<int64_t>(column - within) * depth_ +
                            (i / pair * width_ + within) * pair + i % pair;
      if (precision == Precision::float32) {
        reinterpret_cast<float*>(packed)[place] = row[i];
      } else if (precision == Precision::bfloat16) {
        round_bfloat16(&row[i], 1, reinterpret_cast<uint16_t*>(packed) + place);
      } else {
        const auto rounded = static_cast<signed char>(std::nearbyint(row[i] / scale));
        reinterpret_cast<signed char*>(packed)[place] = rounded;
        sum += rounded;
      }
    }
    bias_.reserve(columns())[column] = from < 0 ? filling : bias ? bias[from] : 0.0f;
    scales_.reserve(columns())[column] = scale;
    offsets_.reserve(columns())[column] = 128 * sum;
  }
}

void Product::compute(const char* input, int64_t stride, const float* steps,
                      const Tile& tile) const {
  const int rows = computed_rows(tile.rows), first = tile.panel * width_;
  const char* weight = packed_.get() + static_cast<int64_t>(first) * depth_ * bytes_of(precision_);
  const auto product = [&]<class Input, class Weight, class Sum>(Input, Weight, Sum* sums) {
    brgemm(rows, width_, depth_, stride, width_, width_, false,
           reinterpret_cast<const Input*>(input), reinterpret_cast<const Weight*>(weight), sums,
           precision_ != Precision::float32);
  };
  if (precision_ == Precision::int8) {
    int32_t* sums = scratch.sums.reserve(kRows * kPanel);
    product(uint8_t{}, int8_t{}, sums);
    dequantise(sums, tile.values, tile.rows, width_, offsets_.get() + first,
               scales_.get() + first, steps, bias_.get() + first);
    return;
  }
  if (precision_ == Precision::bfloat16) {
    product(at::BFloat16{}, at::BFloat16{}, tile.values);
  } else {
    product(float{}, float{}, tile.values);
  }
  add_bias(tile.values, tile.rows, width_, bias_.get() + first);
}

void Product::multiply(const float* input, int64_t stride, int rows,
                       const std::function<void(const Tile&)>& use) const {
  const bool converts = precision_ != Precision::float32;
  float* values = scratch.tile.reserve(kRows * kPanel);
  float* steps = scratch.steps.reserve(kBlock);
  char* converted = scratch.converted.reserve(static_cast<int64_t>(kBlock + kRows) * depth_ * 2);
  const int64_t step = (converts ? depth_ : stride) * bytes_of(precision_);
  for (int block = 0; block < rows; block += kBlock) {
    const int many = std::min(kBlock, rows - block);
    const int tiles = (many + kRows - 1) / kRows;
    const int each = computed_rows((many + tiles - 1) / tiles);
    const float* begin = input + block * stride;
    for (int row = 0; converts && row < many; ++row) {
      const float* from = begin + row * stride;
      char* into = converted + row * step;
      if (precision_ == Precision::bfloat16) {
        std::fill_n(reinterpret_cast<uint16_t*>(into) + inputs_, depth_ - inputs_, 0);
        round_bfloat16(from, inputs_, reinterpret_cast<uint16_t*>(into));
      } else {
        quantise(from, inputs_, reinterpret_cast<uint8_t*>(into), steps + row);
      }
    }
    const char* rounded = converts ? converted : reinterpret_cast<const char*>(begin);
    for (int panel = 0; panel < panels_; ++panel)
      for (int row = 0; row < many; row += each) {
        Tile tile{values, row, std::min(each, many - row), panel, width_};
        compute(rounded + row * step, step / bytes_of(precision_), steps + row, tile);
        tile.row += block;
        use(tile);
      }
  }
}

void Product::multiply(const float* input, int64_t stride, int rows, Matrix& output) const {
  output.reshape(rows + kRows, columns());
  multiply(input, stride, rows, [&](const Tile& tile) {
    for (int row = 0; row < tile.rows; ++row)
      std::copy_n(tile[row], width_, output[tile.row + row] + tile.panel * width_);
  });
}

bool supports(Precision precision) {
  try {
    const float weight[] = {1, 1, 1, 1};
    Matrix input(kRows, 4);
    input.zero(kRows);
    Product(weight, nullptr, 1, 4, precision).multiply(input[0], input.stride(), 2, [](auto&) {});
    release_unit();
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

void release_unit() { at::native::cpublas::brgemm_release(); }

}  // namespace seqvis
