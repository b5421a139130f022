#include "training.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <functional>
#include <future>

#include "kernels.h"
#include "network.h"

namespace seqvis {

namespace {

float* data(const Tensor& tensor) { return tensor.data_ptr<float>(); }

Weight weight(const Tensor& tensor) {
  return {data(tensor), static_cast<int>(tensor.size(0)), static_cast<int>(tensor.size(1))};
}

Product product(const Tensor& matrix, const float* bias, Precision precision) {
  const Tensor rows = matrix.contiguous();
  return {data(rows), bias, static_cast<int>(rows.size(0)), static_cast<int>(rows.size(1)),
          precision};
}

std::vector<GRU> layers(const Tensors& weights, Precision precision) {
  std::vector<GRU> found;
  for (auto own = weights.begin(); own != weights.end(); own += 4)
    found.emplace_back(weight(own[0]), weight(own[1]), data(own[2]), data(own[3]), precision);
  return found;
}

// A layer's backward pass.
struct Backward {
  Backward(const Tensor* weights, Precision precision)
      : size(static_cast<int>(weights[1].size(1))),
        // In the order of the gates' gradients.
        inputs(product(weights[0].roll(size, 0).t(), nullptr, precision)),
        hidden(product(weights[1].t(), nullptr, precision)) {}

  // `gradient`, of the states after a step, becomes that of the states `before` it.
  void step(const float* kept, const float* before, int64_t stride, int rows, Matrix& gradient,
            float* of_gates) const {
    for (int64_t row = 0; row < rows; ++row)
      for (int first = 0; first < size; first += kUnits) {
        float parts[4 * kUnits];
        gates_backward(kept + 4 * (row * stride + first), before + row * stride + first,
                       gradient[row] + first, parts);
        for (int part = 0; part < 4; ++part)
          std::copy_n(parts + part * kUnits, std::min(kUnits, size - first),
                      of_gates + (row * 4 + part) * size + first);
      }
    hidden.multiply(of_gates + size, 4 * size, rows, [&](const Tile& tile) {
      tile.add(gradient[0], gradient.stride(), size);
    });
  }

  int size;
  Product inputs, hidden;
};

std::vector<Backward> backward(const Tensors& weights, Precision precision) {
  std::vector<Backward> found;
  for (size_t layer = 0; layer < weights.size(); layer += 4)
    found.emplace_back(&weights[layer], precision);
  return found;
}

int shares(int rows) { return std::clamp(rows / kRows, 1, at::get_num_threads()); }

// Calls `work` with the number, the first row and the end of each share.
void in_shares(int rows, const std::function<void(int, int, int)>& work) {
  const int count = shares(rows);
  const auto run = [&](int share) {
    work(share, rows * share / count, rows * (share + 1) / count);
    release_unit();
  };
  std::vector<std::future<void>> others;
  for (int share = 1; share < count; ++share)
    others.push_back(std::async(std::launch::async, run, share));
  run(0);
  for (auto& other : others) other.get();
}

// The sentences of a share: their words follow each other step by step, after those of the shares
// before it.
struct Words {
  Words(const Tensor& lengths, int begin, int end)
      : packing({lengths.data_ptr<int64_t>() + begin, lengths.data_ptr<int64_t>() + end}) {
    for (int row = 0; row < begin; ++row) first += lengths.data_ptr<int64_t>()[row];
    for (int step = 0; step < packing.steps(); ++step)
      for (int row = 0; row < packing.rows[step]; ++row)
        places.push_back(step * lengths.size(0) + begin + packing.order[row]);
    for (int row : packing.order) rows.push_back(begin + row);
  }
  // Calls `work` with each step, in the order in which they are read, or the other way round.
  void each(bool reverse, const std::function<void(int64_t, int)>& work) const {
    for (int at = 0; at < packing.steps(); ++at) {
      const int step = reverse ? packing.steps() - 1 - at : at;
      work(packing.begins[step], packing.rows[step]);
    }
  }

  Packing packing;
  int64_t first = 0;
  std::vector<int64_t> places;  // of each word, among steps and rows
  std::vector<int64_t> rows;    // of the sentences, the longest first
};

}  // namespace

Tensors run_gru(const Tensor& inputs, const Tensor& hidden, const Tensor& lengths,
                const Tensors& weights, Precision precision) {
  const std::vector<GRU> directions = layers(weights, precision);
  const int64_t total = lengths.sum().item<int64_t>(), rows = inputs.size(1);
  const int64_t width = inputs.size(2), size = hidden.size(2), all = size * hidden.size(0);
  const int64_t padded = directions[0].padded_size();
  Tensor states = at::zeros({inputs.size(0), rows, all}), last = at::empty({rows, all});
  Tensor words = at::empty({total, width});
  Tensors results{words};
  for (size_t direction = 0; direction < directions.size(); ++direction) {
    results.push_back(at::empty({total, padded}).narrow(1, 0, size));
    results.push_back(at::empty({total, 4 * padded}));
  }
  in_shares(rows, [&](int, int begin, int end) {
    const Words own(lengths, begin, end);
    Matrix gates, state(end - begin, size);
    float* read = data(words) + own.first * width;
    for (size_t word = 0; word < own.places.size(); ++word)
      std::copy_n(data(inputs) + own.places[word] * width, width, read + word * width);
    for (size_t direction = 0; direction < directions.size(); ++direction) {
      const GRU& layer = directions[direction];
      float* before = data(results[1 + 2 * direction]) + own.first * padded;
      float* kept = data(results[2 + 2 * direction]) + own.first * 4 * padded;
      layer.read(read, width, own.packing.total(), gates);
      for (size_t row = 0; row < own.rows.size(); ++row)
        std::copy_n(data(hidden) + (direction * rows + own.rows[row]) * size, size, state[row]);
      own.each(direction, [&](int64_t word, int count) {
        copy_rows(state[0], state.stride(), count, size, before + word * padded, padded);
        layer.step(gates[word], gates.stride(), state[0], state.stride(), count,
                   kept + word * 4 * padded);
        for (int row = 0; row < count; ++row)
          std::copy_n(state[row], size,
                      data(states) + own.places[word + row] * all + direction * size);
      });
      for (size_t row = 0; row < own.rows.size(); ++row)
        std::copy_n(state[row], size, data(last) + own.rows[row] * all + direction * size);
    }
  });
  results.insert(results.begin(), {states, last});
  return results;
}

Tensors run_gru_backward(const Tensor& of_states, const Tensor& of_last, const Tensor& lengths,
                         const Tensors& weights, const Tensors& results, Precision precision) {
  const std::vector<Backward> directions = backward(weights, precision);
  const int64_t total = results[0].size(0), width = results[0].size(1), rows = of_last.size(0);
  const int64_t size = directions[0].size, all = of_last.size(1);
  const int64_t padded = results[1].stride(0);
  Tensor of_inputs = at::zeros({of_states.size(0), rows, width});
  Tensor of_hidden = at::empty({all / size, rows, size});
  Tensors gradients{of_inputs, of_hidden};
  for (size_t direction = 0; direction < directions.size(); ++direction)
    gradients.push_back(at::empty({total, 4 * size}));
  in_shares(rows, [&](int, int begin, int end) {
    const Words own(lengths, begin, end);
    Matrix gradient(end - begin, size);
    for (size_t direction = 0; direction < directions.size(); ++direction) {
      const float* before = data(results[1 + 2 * direction]) + own.first * padded;
      const float* kept = data(results[2 + 2 * direction]) + own.first * 4 * padded;
      float* of_gates = data(gradients[2 + direction]) + own.first * 4 * size;
      for (size_t row = 0; row < own.rows.size(); ++row)
        std::copy_n(data(of_last) + own.rows[row] * all + direction * size, size, gradient[row]);
      own.each(!direction, [&](int64_t word, int count) {
        for (int row = 0; row < count; ++row)
          add_bias(gradient[row], 1, size,
                   data(of_states) + own.places[word + row] * all + direction * size);
        directions[direction].step(kept + word * 4 * padded, before + word * padded, padded, count,
                                   gradient, of_gates + word * 4 * size);
      });
      for (size_t row = 0; row < own.rows.size(); ++row)
        std::copy_n(gradient[row], size,
                    data(of_hidden) + (direction * rows + own.rows[row]) * size);
      directions[direction].inputs.multiply(
          of_gates, 4 * size, own.packing.total(), [&](const Tile& tile) {
            for (int index = 0; index < tile.rows; ++index)
              add_bias(data(of_inputs) + own.places[tile.row + index] * width +
                           tile.panel * tile.width,
                       1, tile.valid(width), tile[index]);
          });
    }
  });
  return gradients;
}

Tensors run_attending(const Tensor& embedded, const Tensor& hidden, const Attention& attention,
                      const Tensors& masks, const Tensors& weights, Precision precision) {
  const std::vector<GRU> decoder = layers(weights, precision);
  const Product to_query = product(attention.query_weight, data(attention.query_bias), precision);
  const int64_t steps = embedded.size(0), rows = embedded.size(1), width = embedded.size(2);
  const int64_t depth = hidden.size(0), size = hidden.size(2), padded = decoder[0].padded_size();
  const int64_t source = attention.keys.size(1), inner = attention.keys.size(2);
  Tensor states = at::empty({depth, steps + 1, rows, padded}), mixed = embedded.clone();
  Tensor attended = at::zeros({steps, rows, source}), queries = at::empty({steps, rows, inner});
  Tensor kept = at::empty({depth, steps, rows, 4 * padded});
  in_shares(rows, [&](int, int begin, int end) {
    const int count = end - begin;
    Matrix gates, dropped(count, size);
    const auto state = [&](int64_t layer, int64_t step) {
      return data(states) + ((layer * (steps + 1) + step) * rows + begin) * padded;
    };
    for (int64_t layer = 0; layer < depth; ++layer)
      copy_rows(data(hidden) + (layer * rows + begin) * size, size, count, size, state(layer, 0),
                padded);
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t first = step * rows + begin;
      to_query.multiply(state(depth - 1, step), padded, count, [&](const Tile& tile) {
        tile.copy(data(queries) + first * inner, inner, inner);
      });
      for (int64_t row = begin; row < end; ++row)
        seqvis::attend(data(attention.keys) + row * source * inner, inner,
                       data(attention.values) + row * source * width, width,
                       attention.lengths.data_ptr<int64_t>()[row],
                       data(queries) + (step * rows + row) * inner, data(attention.scorer), inner,
                       attention.rectify, data(attended) + (step * rows + row) * source,
                       data(mixed) + (step * rows + row) * width, width);
      const float* features = data(mixed) + first * width;
      int64_t stride = width;
      for (int64_t layer = 0; layer < depth; ++layer) {
        if (layer && !masks.empty()) {
          const Tensor& mask = masks[layer - 1];
          const float* factors = data(mask) + (mask.size(0) > 1 ? first : begin) * size;
          for (int row = 0; row < count; ++row)
            for (int64_t unit = 0; unit < size; ++unit)
              dropped[row][unit] = features[row * stride + unit] * factors[row * size + unit];
          features = dropped[0];
          stride = dropped.stride();
        }
        float* own = state(layer, step + 1);
        copy_rows(state(layer, step), padded, count, size, own, padded);
        decoder[layer].read(features, stride, count, gates);
        decoder[layer].step(gates[0], gates.stride(), own, padded, count,
                            data(kept) + (layer * steps * rows + first) * 4 * padded);
        features = own;
        stride = padded;
      }
    }
  });
  return {states.narrow(3, 0, size), mixed, attended, queries, kept};
}

Tensors run_attending_backward(const Tensor& of_states, const Tensor& of_mixed,
                               const Tensor& of_last, const Attention& attention,
                               const Tensors& masks, const Tensors& weights,
                               const Tensors& results, Precision precision) {
  const std::vector<Backward> decoder = backward(weights, precision);
  const Product of_query = product(attention.query_weight.t(), nullptr, precision);
  const Tensor &states = results[0], &attended = results[2], &queries = results[3];
  const Tensor& kept = results[4];
  const int64_t steps = of_states.size(0), rows = of_states.size(1), width = of_mixed.size(2);
  const int64_t depth = of_last.size(0), size = of_last.size(2), padded = states.stride(2);
  const int64_t source = attention.keys.size(1), inner = attention.keys.size(2);
  Tensor of_context = of_mixed.clone(), of_hidden = at::empty_like(of_last);
  Tensor of_keys = at::zeros_like(attention.keys), of_scorer = at::zeros({rows, inner});
  Tensor of_queries = at::zeros_like(queries);
  Tensors gradients{of_context, of_hidden, of_keys, of_scorer, of_queries};
  for (int64_t layer = 0; layer < depth; ++layer)
    gradients.push_back(at::empty({steps * rows, 4 * size}));
  in_shares(rows, [&](int, int begin, int end) {
    const int count = end - begin;
    Matrix below(count, size);
    std::vector<float> of_weights(source);
    std::vector<Matrix> gradient(depth);
    for (int64_t layer = 0; layer < depth; ++layer) {
      gradient[layer].reshape(count, size);
      copy_rows(data(of_last) + (layer * rows + begin) * size, size, count, size,
                gradient[layer][0], gradient[layer].stride());
    }
    Matrix& top = gradient[depth - 1];
    for (int64_t step = steps - 1; step >= 0; --step) {
      const int64_t first = step * rows + begin;
      for (int row = 0; row < count; ++row)
        add_bias(top[row], 1, size, data(of_states) + (first + row) * size);
      for (int64_t layer = depth - 1; layer >= 0; --layer) {
        float* of_gates = data(gradients[5 + layer]) + first * 4 * size;
        decoder[layer].step(data(kept) + (layer * steps * rows + first) * 4 * padded,
                            data(states) + ((layer * (steps + 1) + step) * rows + begin) * padded,
                            padded, count, gradient[layer], of_gates);
        decoder[layer].inputs.multiply(of_gates, 4 * size, count, [&](const Tile& tile) {
          if (layer) {
            tile.copy(below[0], below.stride(), size);
          } else {
            tile.add(data(of_context) + first * width, width, width);
          }
        });
        for (int row = 0; layer && row < count; ++row) {
          float* into = gradient[layer - 1][row];
          if (masks.empty()) {
            add_bias(into, 1, size, below[row]);
          } else {
            const Tensor& mask = masks[layer - 1];
            const float* factors = data(mask) + ((mask.size(0) > 1 ? first : begin) + row) * size;
            for (int64_t unit = 0; unit < size; ++unit) into[unit] += below[row][unit] * factors[unit];
          }
        }
      }
      for (int64_t row = begin; row < end; ++row) {
        const int64_t place = step * rows + row;
        attend_backward(data(attention.keys) + row * source * inner,
                        data(attention.values) + row * source * width,
                        attention.lengths.data_ptr<int64_t>()[row], data(queries) + place * inner,
                        data(attention.scorer), inner, attention.rectify,
                        data(attended) + place * source, data(of_context) + place * width, width,
                        of_weights.data(), data(of_keys) + row * source * inner,
                        data(of_queries) + place * inner, data(of_scorer) + row * inner);
      }
      of_query.multiply(data(of_queries) + first * inner, inner, count, [&](const Tile& tile) {
        tile.add(top[0], top.stride(), size);
      });
    }
    for (int64_t layer = 0; layer < depth; ++layer)
      copy_rows(gradient[layer][0], gradient[layer].stride(), count, size,
                data(of_hidden) + (layer * rows + begin) * size, size);
  });
  return gradients;
}

Tensors cross_entropy(const Tensor& scores, const Tensor& bias, const Tensor& right,
                      double smoothing, const Tensor& gradients, const Tensor& of_bias) {
  const int64_t rows = scores.size(0), words = scores.size(1);
  const bool reduced = scores.scalar_type() == at::kBFloat16, differentiates = gradients.numel();
  Tensor best = at::empty({rows}, at::kLong), losses = at::empty({rows}), means = at::empty({rows});
  Tensor totals = at::zeros({shares(rows), words});
  in_shares(rows, [&](int share, int begin, int end) {
    std::vector<float> own(words);
    for (int64_t row = begin; row < end; ++row) {
      if (reduced) {
        expand_bfloat16(static_cast<const uint16_t*>(scores.const_data_ptr()) + row * words, words,
                        own.data());
      } else {
        std::copy_n(data(scores) + row * words, words, own.data());
      }
      add_bias(own.data(), 1, words, data(bias));
      float largest = -INFINITY, exponentials = 0.0f;
      log_sum(own.data(), words, &largest, &exponentials);
      const float normaliser = largest + std::log(exponentials);
      const int64_t target = right.data_ptr<int64_t>()[row];
      best.data_ptr<int64_t>()[row] = std::find(own.begin(), own.end(), largest) - own.begin();
      data(losses)[row] = normaliser - own[target];
      data(means)[row] = smoothing ? normaliser - sum(own.data(), words) / words : 0.0f;
      if (!differentiates) continue;
      float* total = data(totals) + share * words;
      probabilities(own.data(), words, normaliser, static_cast<float>(smoothing / words), total);
      own[target] -= static_cast<float>(1 - smoothing);
      total[target] -= static_cast<float>(1 - smoothing);
      if (reduced) {
        round_bfloat16(own.data(), words,
                       static_cast<uint16_t*>(gradients.data_ptr()) + row * words);
      } else {
        std::copy_n(own.data(), words, data(gradients) + row * words);
      }
    }
  });
  if (differentiates) of_bias.add_(totals.sum(0));
  return {best, losses, means};
}

}  // namespace seqvis
