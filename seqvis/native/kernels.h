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

// Rounds to the nearest bfloat16, and makes floats of them again.
void round_bfloat16(const float* row, int size, uint16_t* rounded);
void expand_bfloat16(const uint16_t* row, int size, float* expanded);

void tanh(float* values, int size);

// One step of kUnits units of a GRU: both halves of the gates are (reset, update, new) of kUnits
// each, with their biases. `kept` receives what the backward pass needs, 4 * kUnits.
void gates(const float* from_input, const float* from_hidden, const float* hidden, float* next,
           float* kept);

// Its backward pass: `gradient`, of the next states, becomes the direct part of that of `hidden`;
// `of_gates` receives those of new's half of the input, reset, update, and new's other half.
void gates_backward(const float* kept, const float* hidden, float* gradient, float* of_gates);

// Additive attention of one row: its weights over the source (length), and the weighted sum of the
// values, added to `context` (width).
void attend(const float* keys, int64_t key_stride, const float* values, int64_t value_stride,
            int length, const float* query, const float* scorer, int size, bool rectify,
            float* weights, float* context, int width);

// Its backward pass, given the weights and the gradient of the context: adds to the gradients of
// the keys, the query and the scorer. `of_weights` (length) is for its own use.
void attend_backward(const float* keys, const float* values, int length, const float* query,
                     const float* scorer, int size, bool rectify, const float* weights,
                     const float* of_context, int width, float* of_weights, float* of_keys,
                     float* of_query, float* of_scorer);

// Updates the maximum of a row's scores and the sum of exp(score - maximum) with more scores, and
// returns the maximum of these.
float log_sum(const float* scores, int size, float* maximum, float* sum);

// Replaces scores by their probabilities less `smoothing`, and adds these to `total` (size).
void probabilities(float* scores, int size, float log_sum, float smoothing, float* total);

float sum(const float* values, int size);

}  // namespace seqvis
