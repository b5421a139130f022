#include "training.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <future>
#include <numeric>

#include "network.h"

namespace seqvis {

namespace {

template <int dimensions>
auto floats(const Tensor& tensor) {
  return tensor.accessor<float, dimensions>();
}

Weight weight(const Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<int>(tensor.size(0)),
          static_cast<int>(tensor.size(1))};
}

Product product(const Tensor& matrix, const float* bias, Precision precision) {
  const Tensor rows = matrix.contiguous();
  return {weight(rows).data, bias, weight(rows).rows, weight(rows).columns, precision};
}

std::vector<GRU> forward(const Tensors& weights, Precision precision) {
  std::vector<GRU> layers;
  for (auto own = weights.begin(); own != weights.end(); own += 4)
    layers.emplace_back(weight(own[0]), weight(own[1]), own[2].data_ptr<float>(),
                        own[3].data_ptr<float>(), precision);
  return layers;
}

// A layer's backward pass.
struct Backward {
  Backward(const Tensor* weights, Precision precision)
      : size(static_cast<int>(weights[1].size(1))),
        inputs(product(weights[0].roll(size, 0).t(), nullptr, precision)),  // new, reset, update
        hidden(product(weights[1].t(), nullptr, precision)) {}

  // `gradient`, of the states after a step, becomes that of the states `before` it. The rows of
  // `kept` and `before` have what GRU::step had.
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
      tile.add(size, [&](int row) { return gradient[row]; });
    });
  }

  int size;
  Product inputs, hidden;
};

std::vector<Backward> backward(const Tensors& weights, Precision precision) {
  std::vector<Backward> layers;
  for (auto own = weights.begin(); own != weights.end(); own += 4)
    layers.emplace_back(&*own, precision);
  return layers;
}

int shares(int64_t rows) {
  return std::clamp(static_cast<int>(rows / kRows), 1, at::get_num_threads());
}

// Calls `work` with the number, the first row and the end of each share of the rows.
void in_shares(int64_t rows, const std::function<void(int, int, int)>& work) {
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

// Calls `work` with the first word and the number of words of each step in which a share of the
// rows has words: from the first step on or, backwards, from the last.
void each_step(const std::vector<int64_t>& rows, int begin, int end, bool backwards,
               const std::function<void(int64_t, int)>& work) {
  const int steps = static_cast<int>(rows.size());
  std::vector<int64_t> first(steps + 1);
  std::partial_sum(rows.begin(), rows.end(), first.begin() + 1);
  for (int at = 0; at < steps; ++at) {
    const int step = backwards ? steps - 1 - at : at;
    const int count = std::min<int>(rows[step], end) - begin;
    if (count > 0) work(first[step] + begin, count);
  }
}

// What a row of a layer's input is multiplied by at a step, or null.
const float* dropout(const Tensors& masks, int64_t layer, int64_t step, int64_t row) {
  if (layer == 0 || masks.empty()) return nullptr;
  const auto mask = floats<3>(masks[layer - 1]);
  return mask[mask.size(0) > 1 ? step : 0][row].data();
}

}  // namespace

Tensors run_gru(const Tensor& words, const Tensor& hidden, const std::vector<int64_t>& rows,
                const Tensors& weights, Precision precision) {
  const std::vector<GRU> layers = forward(weights, precision);
  const int64_t total = words.size(0), width = words.size(1);
  const int64_t directions = hidden.size(0), sentences = hidden.size(1), size = hidden.size(2);
  const int64_t all = directions * size, padded = layers[0].padded_size();
  const Tensor states = at::empty({total, all}), last = at::empty({sentences, all});
  Tensors results{states, last};
  for (int64_t direction = 0; direction < directions; ++direction) {
    results.push_back(at::empty({total, padded}).narrow(1, 0, size));
    results.push_back(at::empty({total, 4 * padded}));
  }
  in_shares(sentences, [&](int, int begin, int end) {
    Matrix gates, state(end - begin, size);
    for (int64_t direction = 0; direction < directions; ++direction) {
      const auto before = floats<2>(results[2 + 2 * direction]);
      const auto kept = floats<2>(results[3 + 2 * direction]);
      copy_rows(floats<3>(hidden)[direction][begin].data(), size, end - begin, size, state[0],
                state.stride());
      each_step(rows, begin, end, direction, [&](int64_t word, int count) {
        copy_rows(state[0], state.stride(), count, size, before[word].data(), padded);
        layers[direction].read(floats<2>(words)[word].data(), width, count, gates);
        layers[direction].step(gates[0], gates.stride(), state[0], state.stride(), count,
                               kept[word].data());
        copy_rows(state[0], state.stride(), count, size,
                  floats<2>(states)[word].data() + direction * size, all);
      });
      copy_rows(state[0], state.stride(), end - begin, size,
                floats<2>(last)[begin].data() + direction * size, all);
    }
  });
  return results;
}

Tensors run_gru_backward(const Tensor& of_states, const Tensor& of_last,
                         const std::vector<int64_t>& rows, const Tensors& weights,
                         const Tensors& kept, Precision precision) {
  const std::vector<Backward> layers = backward(weights, precision);
  const int64_t total = of_states.size(0), all = of_states.size(1), sentences = of_last.size(0);
  const int64_t size = layers[0].size, width = weights[0].size(1), directions = layers.size();
  const Tensor of_words = at::zeros({total, width});
  const Tensor of_hidden = at::empty({directions, sentences, size});
  Tensors gradients{of_words, of_hidden};
  for (int64_t direction = 0; direction < directions; ++direction)
    gradients.push_back(at::empty({total, 4 * size}));
  in_shares(sentences, [&](int, int begin, int end) {
    Matrix gradient(end - begin, size);
    for (int64_t direction = 0; direction < directions; ++direction) {
      const auto before = floats<2>(kept[2 * direction]);
      copy_rows(floats<2>(of_last)[begin].data() + direction * size, all, end - begin, size,
                gradient[0], gradient.stride());
      each_step(rows, begin, end, !direction, [&](int64_t word, int count) {
        for (int row = 0; row < count; ++row)
          add_bias(gradient[row], 1, size,
                   floats<2>(of_states)[word + row].data() + direction * size);
        float* of_gates = floats<2>(gradients[2 + direction])[word].data();
        layers[direction].step(floats<2>(kept[2 * direction + 1])[word].data(),
                               before[word].data(), before.stride(0), count, gradient, of_gates);
        layers[direction].inputs.multiply(of_gates, 4 * size, count, [&](const Tile& tile) {
          tile.add(width, [&](int row) { return floats<2>(of_words)[word + row].data(); });
        });
      });
      copy_rows(gradient[0], gradient.stride(), end - begin, size,
                floats<3>(of_hidden)[direction][begin].data(), size);
    }
  });
  return gradients;
}

Tensors run_attending(const Tensor& embedded, const Tensor& hidden, const Attention& attention,
                      const Tensors& masks, const Tensors& weights, Precision precision) {
  const std::vector<GRU> layers = forward(weights, precision);
  const Product to_query =
      product(attention.query_weight, attention.query_bias.data_ptr<float>(), precision);
  const int64_t steps = embedded.size(0), rows = embedded.size(1), width = embedded.size(2);
  const int64_t depth = hidden.size(0), size = hidden.size(2), padded = layers[0].padded_size();
  const int64_t inner = attention.keys.size(2);
  const Tensor states = at::empty({depth, steps + 1, rows, padded}), mixed = embedded.clone();
  const Tensor attended = at::zeros({steps, rows, attention.keys.size(1)});
  const Tensor queries = at::empty({steps, rows, inner});
  const Tensor kept = at::empty({depth, steps, rows, 4 * padded});
  in_shares(rows, [&](int, int begin, int end) {
    const int count = end - begin;
    const auto state = floats<4>(states);
    const auto query = floats<3>(queries), input = floats<3>(mixed);
    Matrix gates, dropped(count, size);
    for (int64_t layer = 0; layer < depth; ++layer)
      copy_rows(floats<3>(hidden)[layer][begin].data(), size, count, size,
                state[layer][0][begin].data(), padded);
    for (int64_t step = 0; step < steps; ++step) {
      to_query.multiply(
          state[depth - 1][step][begin].data(), padded, count, [&](const Tile& tile) {
            tile.copy(inner, [&](int row) { return query[step][begin + row].data(); });
          });
      for (int row = begin; row < end; ++row)
        attend(floats<3>(attention.keys)[row].data(), inner,
               floats<3>(attention.values)[row].data(), width,
               attention.lengths.data_ptr<int64_t>()[row], query[step][row].data(),
               attention.scorer.data_ptr<float>(), inner, attention.rectify,
               floats<3>(attended)[step][row].data(), input[step][row].data(), width);
      const float* features = input[step][begin].data();
      int64_t stride = width;
      for (int64_t layer = 0; layer < depth; ++layer) {
        if (dropout(masks, layer, step, begin)) {
          for (int row = 0; row < count; ++row) {
            const float* factors = dropout(masks, layer, step, begin + row);
            for (int unit = 0; unit < size; ++unit)
              dropped[row][unit] = features[row * stride + unit] * factors[unit];
          }
          features = dropped[0];
          stride = dropped.stride();
        }
        float* own = state[layer][step + 1][begin].data();
        copy_rows(state[layer][step][begin].data(), padded, count, size, own, padded);
        layers[layer].read(features, stride, count, gates);
        layers[layer].step(gates[0], gates.stride(), own, padded, count,
                           floats<4>(kept)[layer][step][begin].data());
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
  const std::vector<Backward> layers = backward(weights, precision);
  const Product to_hidden = product(attention.query_weight.t(), nullptr, precision);
  const int64_t steps = of_mixed.size(0), rows = of_mixed.size(1), width = of_mixed.size(2);
  const int64_t depth = of_last.size(0), size = of_last.size(2);
  const int64_t inner = attention.keys.size(2), source = attention.keys.size(1);
  const Tensor of_context = of_mixed.clone(), of_hidden = at::empty_like(of_last);
  const Tensor of_keys = at::zeros_like(attention.keys), of_scorer = at::zeros({rows, inner});
  const Tensor of_queries = at::zeros({steps, rows, inner});
  Tensors gradients{of_context, of_hidden, of_keys, of_scorer, of_queries};
  for (int64_t layer = 0; layer < depth; ++layer)
    gradients.push_back(at::empty({steps * rows, 4 * size}));
  in_shares(rows, [&](int, int begin, int end) {
    const int count = end - begin;
    const auto state = floats<4>(results[0]), kept = floats<4>(results[4]);
    const auto of_query = floats<3>(of_queries), of_input = floats<3>(of_context);
    std::vector<float> of_weights(source);
    std::vector<Matrix> gradient(depth);
    for (int64_t layer = 0; layer < depth; ++layer) {
      gradient[layer].reshape(count, size);
      copy_rows(floats<3>(of_last)[layer][begin].data(), size, count, size, gradient[layer][0],
                gradient[layer].stride());
    }
    for (int64_t step = steps - 1; step >= 0; --step) {
      for (int row = 0; row < count; ++row)
        add_bias(gradient[depth - 1][row], 1, size,
                 floats<3>(of_states)[step][begin + row].data());
      for (int64_t layer = depth - 1; layer >= 0; --layer) {
        float* of_gates = floats<2>(gradients[5 + layer])[step * rows + begin].data();
        layers[layer].step(kept[layer][step][begin].data(), state[layer][step][begin].data(),
                           state.stride(2), count, gradient[layer], of_gates);
        layers[layer].inputs.multiply(of_gates, 4 * size, count, [&](const Tile& tile) {
          for (int row = 0; row < tile.rows; ++row)
            if (const float* factors = dropout(masks, layer, step, begin + tile.row + row))
              for (int column = 0; column < tile.valid(size); ++column)
                tile.row_of(row)[column] *= factors[tile.panel * tile.width + column];
          tile.add(layer ? size : width, [&](int row) {
            return layer ? gradient[layer - 1][row] : of_input[step][begin + row].data();
          });
        });
      }
      for (int row = begin; row < end; ++row)
        attend_backward(floats<3>(attention.keys)[row].data(),
                        floats<3>(attention.values)[row].data(),
                        attention.lengths.data_ptr<int64_t>()[row],
                        floats<3>(results[3])[step][row].data(),
                        attention.scorer.data_ptr<float>(), inner, attention.rectify,
                        floats<3>(results[2])[step][row].data(), of_input[step][row].data(), width,
                        of_weights.data(), floats<3>(of_keys)[row].data(),
                        of_query[step][row].data(), floats<2>(of_scorer)[row].data());
      to_hidden.multiply(of_query[step][begin].data(), inner, count, [&](const Tile& tile) {
        tile.add(size, [&](int row) { return gradient[depth - 1][row]; });
      });
    }
    for (int64_t layer = 0; layer < depth; ++layer)
      copy_rows(gradient[layer][0], gradient[layer].stride(), count, size,
                floats<3>(of_hidden)[layer][begin].data(), size);
  });
  return gradients;
}

Tensors cross_entropy(const Tensor& scores, const Tensor& bias, const Tensor& right,
                      double smoothing, const Tensor& gradients, const Tensor& of_bias) {
  const int64_t rows = scores.size(0), words = scores.size(1);
  const bool reduced = scores.scalar_type() == at::kBFloat16, differentiates = gradients.numel();
  const auto row_of = [&](const Tensor& tensor, int64_t row) {
    return static_cast<char*>(tensor.data_ptr()) + row * words * tensor.element_size();
  };
  const Tensor best = at::empty({rows}, at::kLong), losses = at::empty({rows});
  const Tensor means = at::empty({rows}), totals = at::zeros({shares(rows), words});
  in_shares(rows, [&](int share, int begin, int end) {
    std::vector<float> own(words);
    float* total = floats<2>(totals)[share].data();
    for (int row = begin; row < end; ++row) {
      const char* given = row_of(scores, row);
      if (reduced) {
        expand_bfloat16(reinterpret_cast<const uint16_t*>(given), words, own.data());
      } else {
        std::copy_n(reinterpret_cast<const float*>(given), words, own.data());
      }
      add_bias(own.data(), 1, words, bias.data_ptr<float>());
      float largest = -INFINITY, exponentials = 0.0f;
      log_sum(own.data(), words, &largest, &exponentials);
      const float normaliser = largest + std::log(exponentials);
      const int64_t target = right.data_ptr<int64_t>()[row];
      TORCH_CHECK_INDEX(target >= 0 && target < words, "no such word: ", target);
      // Any word if they are not numbers.
      const int64_t place = std::find(own.begin(), own.end(), largest) - own.begin();
      best.data_ptr<int64_t>()[row] = std::min(place, words - 1);
      losses.data_ptr<float>()[row] = normaliser - own[target];
      means.data_ptr<float>()[row] = normaliser - sum(own.data(), words) / words;
      if (!differentiates) continue;
      probabilities(own.data(), words, normaliser, static_cast<float>(smoothing / words), total);
      own[target] -= static_cast<float>(1 - smoothing);
      total[target] -= static_cast<float>(1 - smoothing);
      char* into = row_of(gradients, row);
      if (reduced) {
        round_bfloat16(own.data(), words, reinterpret_cast<uint16_t*>(into));
      } else {
        std::copy_n(own.data(), words, reinterpret_cast<float*>(into));
      }
    }
  });
  if (differentiates) of_bias.add_(totals.sum(0));
  return {best, losses, means};
}

}  // namespace seqvis
