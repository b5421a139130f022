// The small loops around the matrix products. Each is compiled for several generations of
// processors; the one that fits is chosen when the library is loaded.
#pragma once
#include <cstdint>

namespace seqvis {

constexpr int kUnits = 16;  // of a GRU whose three gates stand together in a panel

// tile (rows, width) += bias (width).
void add_bias(float* tile, int rows, int width, const float* bias);

// Rounds each row to eight bits around 128, and tells the size of a step.
void quantise(const float* row, int size, uint8_t* rounded, float* step);

// Sums of products of eight bits (rows, width) to the numbers they stand for. `offsets` is what
// the 128 that was added to the inputs adds to each column.
void dequantise(const int32_t* sums, float* tile, int rows, int width, const int32_t* offsets,
                const float* scales, const float* steps, const float* bias);

// Rounds to the nearest bfloat16.
void round_bfloat16(const float* row, int size, uint16_t* rounded);

void tanh(float* values, int size);

// One step of kUnits units of a GRU: both halves of the gates are (reset, update, new) of kUnits
// each, with their biases.
void gates(const float* from_input, const float* from_hidden, const float* hidden, float* next);

// Additive attention of one row: its weights over the source (length), and the weighted sum of the
// values, added to `context` (width).
void attend(const float* keys, int64_t key_stride, const float* values, int64_t value_stride,
            int length, const float* query, const float* scorer, int size, bool rectify,
            float* weights, float* context, int width);

// Updates the maximum of a row's scores and the sum of exp(score - maximum) with more scores, and
// returns the maximum of these.
float log_sum(const float* scores, int size, float* maximum, float* sum);

}  // namespace seqvis
