#include "product.h"

#include <ATen/native/CPUBlas.h>

#include <cmath>
#include <cstring>
#include <vector>

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
  const int part = outputs / groups, words = (inputs + pair - 1) / pair;
  width_ = units * groups;
  panels_ = (part + units - 1) / units;
  depth_ = words * pair;
  // Four bytes, which are one, two or four inputs, of each column of a panel stand together.
  uint32_t* packed = packed_.reserve(static_cast<int64_t>(columns()) * words);
  std::vector<unsigned char> bytes(4 * words);
  for (int column = 0; column < columns(); ++column) {
    const int within = column % width_, unit = column / width_ * units + within % units;
    const int64_t from = unit < part ? within / units * part + unit : -1;
    const float* row = from < 0 ? nullptr : weight + from * inputs;
    int32_t sum = 0;
    float scale = 1.0f;
    std::fill(bytes.begin(), bytes.end(), 0);
    if (!row) {
    } else if (precision == Precision::float32) {
      std::memcpy(bytes.data(), row, inputs * sizeof(float));
    } else if (precision == Precision::bfloat16) {
      round_bfloat16(row, inputs, reinterpret_cast<uint16_t*>(bytes.data()));
    } else {
      float largest = 1e-12f;
      for (int i = 0; i < inputs; ++i) largest = std::max(largest, std::fabs(row[i]));
      scale = largest / 127;
      auto* rounded = reinterpret_cast<signed char*>(bytes.data());
      for (int i = 0; i < inputs; ++i)
        sum += rounded[i] = static_cast<signed char>(std::nearbyint(row[i] / scale));
    }
    uint32_t* into = packed + static_cast<int64_t>(column - within) * words + within;
    for (int word = 0; word < words; ++word) std::memcpy(into + word * width_, &bytes[4 * word], 4);
    bias_.reserve(columns())[column] = !row ? filling : bias ? bias[from] : 0.0f;
    scales_.reserve(columns())[column] = scale;
    offsets_.reserve(columns())[column] = 128 * sum;
  }
}

void Product::compute(const char* input, const float* steps, const Tile& tile) const {
  const int rows = computed_rows(tile.rows), first = tile.panel * width_;
  const uint32_t* weight = packed_.get() + static_cast<int64_t>(first) * depth_ / paired(precision_);
  const auto product = [&]<class Input, class Weight, class Sum>(Input, Weight, Sum* sums) {
    brgemm(rows, width_, depth_, depth_, width_, width_, false,
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
  float* values = scratch.tile.reserve(kRows * kPanel);
  float* steps = scratch.steps.reserve(kBlock);
  const int64_t row_bytes = depth_ * bytes_of(precision_);
  char* converted = scratch.converted.reserve((kBlock + kRows) * row_bytes);
  for (int block = 0; block < rows; block += kBlock) {
    const int many = std::min(kBlock, rows - block);
    const int tiles = (many + kRows - 1) / kRows;
    const int each = computed_rows((many + tiles - 1) / tiles);
    for (int row = 0; row < many; ++row) {
      const float* from = input + (block + row) * stride;
      char* into = converted + row * row_bytes;
      std::memset(into + inputs_ * bytes_of(precision_), 0, row_bytes - inputs_ * bytes_of(precision_));
      if (precision_ == Precision::float32) {
        std::memcpy(into, from, row_bytes);
      } else if (precision_ == Precision::bfloat16) {
        round_bfloat16(from, inputs_, reinterpret_cast<uint16_t*>(into));
      } else {
        quantise(from, inputs_, reinterpret_cast<uint8_t*>(into), steps + row);
      }
    }
    for (int panel = 0; panel < panels_; ++panel)
      for (int row = 0; row < many; row += each) {
        Tile tile{values, row, std::min(each, many - row), panel, width_};
        compute(converted + row * row_bytes, steps + row, tile);
        tile.row += block;
        use(tile);
      }
  }
}

void Product::multiply(const float* input, int64_t stride, int rows, Matrix& output) const {
  output.reshape(rows, columns());
  multiply(input, stride, rows,
           [&](const Tile& tile) { tile.copy(columns(), [&](int row) { return output[row]; }); });
}

bool supports(Precision precision) {
  try {
    const float weight[] = {1, 1, 1, 1};
    Product(weight, nullptr, 1, 4, precision).multiply(weight, 0, 2, [](auto&) {});
    release_unit();
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

void release_unit() { at::native::cpublas::brgemm_release(); }

}  // namespace seqvis
