#include "kernels.h"

#include <bit>
#include <cmath>
#include <limits>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

namespace seqvis {

// exp within two units of the last place, without branches, so that loops over it are vectorised.
// Arguments below -87 give exp(-87): none of the sums here notices.
INLINE float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // its last bits are the whole number
  const float whole = shifted - 12582912.0f;
  const float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  float power = 1.9875691500e-4f;
  power = power * rest + 1.3981999507e-3f;
  power = power * rest + 8.3334519073e-3f;
  power = power * rest + 4.1665795894e-2f;
  power = power * rest + 1.6666665459e-1f;
  power = power * rest + 5.0000001201e-1f;
  power = power * rest * rest + rest + 1.0f;
  return std::bit_cast<float>(std::bit_cast<int32_t>(power) +
                              static_cast<int32_t>(std::bit_cast<uint32_t>(shifted) << 23));
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

INLINE float hyperbolic_tangent(float x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }

FOR_EACH_PROCESSOR
void add_bias(float* tile, int rows, int width, const float* bias) {
  for (int row = 0; row < rows; ++row, tile += width) {
#pragma omp simd
    for (int column = 0; column < width; ++column) tile[column] += bias[column];
  }
}

FOR_EACH_PROCESSOR
void quantise(const float* row, int size, uint8_t* rounded, float* step) {
  float largest = 1e-12f;
#pragma omp simd reduction(max : largest)
  for (int i = 0; i < size; ++i) {
    const float value = std::fabs(row[i]);
    largest = value > largest ? value : largest;
  }
  *step = largest / 127;
  const float scale = 127 / largest;
#pragma omp simd
  for (int i = 0; i < size; ++i) {
    const float shifted = row[i] * scale + (12582912.0f + 128.0f);  // rounds to a whole number
    rounded[i] = static_cast<uint8_t>(std::bit_cast<uint32_t>(shifted));
  }
}

FOR_EACH_PROCESSOR
void dequantise(const int32_t* sums, float* tile, int rows, int width, const int32_t* offsets,
                const float* scales, const float* steps, const float* bias) {
  for (int row = 0; row < rows; ++row, tile += width, sums += width) {
#pragma omp simd
    for (int column = 0; column < width; ++column) {
      const float sum = static_cast<float>(sums[column] - offsets[column]);
      tile[column] = sum * (steps[row] * scales[column]) + bias[column];
    }
  }
}

FOR_EACH_PROCESSOR
void round_bfloat16(const float* row, int size, uint16_t* rounded) {
#pragma omp simd
  for (int i = 0; i < size; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(row[i]);
    rounded[i] = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}

FOR_EACH_PROCESSOR
void expand_bfloat16(const uint16_t* row, int size, float* expanded) {
#pragma omp simd
  for (int i = 0; i < size; ++i)
    expanded[i] = std::bit_cast<float>(static_cast<uint32_t>(row[i]) << 16);
}

FOR_EACH_PROCESSOR
void tanh(float* values, int size) {
#pragma omp simd
  for (int i = 0; i < size; ++i) values[i] = hyperbolic_tangent(values[i]);
}

FOR_EACH_PROCESSOR
void gates(const float* from_input, const float* from_hidden, const float* hidden, float* next,
           float* kept) {
#pragma omp simd
  for (int i = 0; i < kUnits; ++i) {
    const float reset = sigmoid(from_input[i] + from_hidden[i]);
    const float update = sigmoid(from_input[kUnits + i] + from_hidden[kUnits + i]);
    const float recurrent = from_hidden[2 * kUnits + i];
    const float fresh = hyperbolic_tangent(from_input[2 * kUnits + i] + reset * recurrent);
    next[i] = fresh + update * (hidden[i] - fresh);
    kept[i] = reset;
    kept[kUnits + i] = update;
    kept[2 * kUnits + i] = fresh;
    kept[3 * kUnits + i] = recurrent;
  }
}

FOR_EACH_PROCESSOR
void gates_backward(const float* kept, const float* hidden, float* gradient, float* of_gates) {
#pragma omp simd
  for (int i = 0; i < kUnits; ++i) {
    const float reset = kept[i], update = kept[kUnits + i], fresh = kept[2 * kUnits + i];
    const float of_fresh = gradient[i] * (1.0f - update) * (1.0f - fresh * fresh);
    of_gates[i] = of_fresh;
    of_gates[kUnits + i] = of_fresh * kept[3 * kUnits + i] * reset * (1.0f - reset);
    of_gates[2 * kUnits + i] = gradient[i] * (hidden[i] - fresh) * update * (1.0f - update);
    of_gates[3 * kUnits + i] = of_fresh * reset;
    gradient[i] *= update;
  }
}

FOR_EACH_PROCESSOR
void attend(const float* keys, int64_t key_stride, const float* values, int64_t value_stride,
            int length, const float* query, const float* scorer, int size, bool rectify,
            float* weights, float* context, int width) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int word = 0; word < length; ++word) {
    const float* key = keys + word * key_stride;
    float score = 0.0f;
    if (rectify) {
#pragma omp simd reduction(+ : score)
      for (int i = 0; i < size; ++i) {
        const float sum = key[i] + query[i];
        score += scorer[i] * (sum > 0.0f ? sum : 0.0f);
      }
    } else {
#pragma omp simd reduction(+ : score)
      for (int i = 0; i < size; ++i) score += scorer[i] * hyperbolic_tangent(key[i] + query[i]);
    }
    weights[word] = score;
    largest = score > largest ? score : largest;
  }
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int word = 0; word < length; ++word) {
    weights[word] = exponential(weights[word] - largest);
    sum += weights[word];
  }
  for (int word = 0; word < length; ++word) {
    const float weight = weights[word] /= sum;
    const float* value = values + word * value_stride;
#pragma omp simd
    for (int i = 0; i < width; ++i) context[i] += weight * value[i];
  }
}

template <bool rectify>
INLINE void attend_backward_to(const float* key, const float* query, const float* scorer, int size,
                               float gradient, float* of_key, float* of_query, float* of_scorer) {
#pragma omp simd
  for (int i = 0; i < size; ++i) {
    const float sum = key[i] + query[i];
    const float active = rectify ? (sum > 0.0f ? sum : 0.0f) : hyperbolic_tangent(sum);
    const float slope = rectify ? (sum > 0.0f ? 1.0f : 0.0f) : 1.0f - active * active;
    const float of_sum = gradient * scorer[i] * slope;
    of_scorer[i] += gradient * active;
    of_key[i] += of_sum;
    of_query[i] += of_sum;
  }
}

FOR_EACH_PROCESSOR
void attend_backward(const float* keys, const float* values, int length, const float* query,
                     const float* scorer, int size, bool rectify, const float* weights,
                     const float* of_context, int width, float* of_weights, float* of_keys,
                     float* of_query, float* of_scorer) {
  float mean = 0.0f;
  for (int word = 0; word < length; ++word) {
    const float* value = values + static_cast<int64_t>(word) * width;
    float gradient = 0.0f;
#pragma omp simd reduction(+ : gradient)
    for (int i = 0; i < width; ++i) gradient += value[i] * of_context[i];
    of_weights[word] = gradient;
    mean += weights[word] * gradient;
  }
  for (int word = 0; word < length; ++word) {
    const float gradient = weights[word] * (of_weights[word] - mean);
    const int64_t begin = static_cast<int64_t>(word) * size;
    if (rectify) {
      attend_backward_to<true>(keys + begin, query, scorer, size, gradient, of_keys + begin,
                               of_query, of_scorer);
    } else {
      attend_backward_to<false>(keys + begin, query, scorer, size, gradient, of_keys + begin,
                                of_query, of_scorer);
    }
  }
}

FOR_EACH_PROCESSOR
float log_sum(const float* scores, int size, float* maximum, float* sum) {
  float largest = scores[0];
#pragma omp simd reduction(max : largest)
  for (int i = 1; i < size; ++i) largest = scores[i] > largest ? scores[i] : largest;
  if (largest > *maximum) {
    *sum *= exponential(*maximum - largest);
    *maximum = largest;
  }
  const float base = *maximum;
  float added = 0.0f;
#pragma omp simd reduction(+ : added)
  for (int i = 0; i < size; ++i) added += exponential(scores[i] - base);
  *sum += added;
  return largest;
}

FOR_EACH_PROCESSOR
void probabilities(float* scores, int size, float log_sum, float smoothing, float* total) {
#pragma omp simd
  for (int i = 0; i < size; ++i) {
    float value = exponential(scores[i] - log_sum);
    // Products with numbers below float's normal range are many times slower.
    value = (value < 1e-14f ? 0.0f : value) - smoothing;
    total[i] += value;
    scores[i] = value;
  }
}

FOR_EACH_PROCESSOR
float sum(const float* values, int size) {
  float total = 0.0f;
#pragma omp simd reduction(+ : total)
  for (int i = 0; i < size; ++i) total += values[i];
  return total;
}

}  // namespace seqvis
