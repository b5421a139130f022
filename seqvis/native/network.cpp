#include "network.h"

#include <limits>
#include <numeric>

#include "kernels.h"

namespace seqvis {

namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

const Weight& find(const Weights& weights, const std::string& name) {
  const auto found = weights.find(name);
  if (found == weights.end()) throw std::out_of_range("the weight is missing: " + name);
  return found->second;
}

Product product(const Weights& weights, const std::string& weight, const std::string& bias,
                Precision precision, int groups = 1, float filling = 0.0f) {
  const Weight& matrix = find(weights, weight);
  const float* added = bias.empty() ? nullptr : find(weights, bias).data;
  return {matrix.data, added, matrix.rows, matrix.columns, precision, groups, filling};
}

GRU gru(const Weights& weights, const std::string& name, Precision precision) {
  return {find(weights, name + ".weight_ih"), find(weights, name + ".weight_hh"),
          find(weights, name + ".bias_ih").data, find(weights, name + ".bias_hh").data, precision};
}

// Adds the scores of a tile to what is known of their rows.
void choose(const Tile& tile, const std::vector<Row>& rows, std::vector<Best>& best) {
  for (int index = 0; index < tile.rows; ++index) {
    Best& own = best[tile.row + index];
    const float* scores = tile[index];
    const float largest = log_sum(scores, tile.width, &own.maximum, &own.sum);
    const size_t count = rows[tile.row + index].count;
    float least = own.scores.size() < count ? kImpossible : own.scores.back();
    if (largest <= least) continue;
    for (int column = 0; column < tile.width; ++column) {
      const float score = scores[column];
      if (score <= least) continue;
      const auto place =
          std::upper_bound(own.scores.begin(), own.scores.end(), score, std::greater<>());
      own.words.insert(own.words.begin() + (place - own.scores.begin()),
                       tile.panel * tile.width + column);
      own.scores.insert(place, score);
      if (own.scores.size() > count) {
        own.scores.pop_back();
        own.words.pop_back();
      }
      if (own.scores.size() == count) least = own.scores.back();
    }
  }
}

struct Workspace {
  Matrix mixed, query, gates, readout;
};

thread_local Workspace workspace;

}  // namespace

void copy_rows(const float* from, int64_t from_stride, int rows, int size, float* into,
               int64_t into_stride) {
  for (int row = 0; row < rows; ++row)
    std::copy_n(from + row * from_stride, size, into + row * into_stride);
}

Packing::Packing(const std::vector<int>& lengths) : order(lengths.size()), begins(1) {
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int left, int right) { return lengths[left] > lengths[right]; });
  for (int step = 0; !order.empty() && step < lengths[order[0]]; ++step) {
    rows.push_back(static_cast<int>(
        std::count_if(lengths.begin(), lengths.end(), [&](int length) { return length > step; })));
    begins.push_back(begins.back() + rows.back());
  }
}

GRU::GRU(const Weight& input, const Weight& hidden, const float* input_bias,
         const float* hidden_bias, Precision precision)
    : from_input_(input.data, input_bias, input.rows, input.columns, precision, 3),
      from_hidden_(hidden.data, hidden_bias, hidden.rows, hidden.columns, precision, 3) {}

void GRU::step(const float* gates, int64_t gates_stride, float* hidden, int64_t hidden_stride,
               int rows, float* kept) const {
  from_hidden_.multiply(hidden, hidden_stride, rows, [&](const Tile& tile) {
    const int first = tile.panel * kUnits;
    for (int index = 0; index < tile.rows; ++index) {
      const int64_t row = tile.row + index;
      float next[kUnits], unused[4 * kUnits];
      float* own = hidden + row * hidden_stride + first;
      seqvis::gates(gates + row * gates_stride + tile.panel * tile.width, tile[index], own, next,
                    kept ? kept + 4 * (row * padded_size() + first) : unused);
      std::copy_n(next, std::min(kUnits, size() - first), own);
    }
  });
}

Network::Network(const Weights& weights, Precision precision, bool rectify, bool reads_context)
    : source_table_(find(weights, "encoder.table")),
      target_table_(find(weights, "decoder.table")),
      scorer_(),
      rectify_(rectify),
      reads_context_(reads_context),
      projection_(product(weights, "projection.weight", "projection.bias", precision, 1,
                          kImpossible)) {
  const auto has = [&](const std::string& name) { return weights.count(name + ".weight_ih") > 0; };
  for (std::string layer = "encoder.0"; has(layer + ".0");
       layer = "encoder." + std::to_string(encoder_.size())) {
    encoder_.emplace_back();
    encoder_.back().push_back(gru(weights, layer + ".0", precision));
    if (has(layer + ".1")) encoder_.back().push_back(gru(weights, layer + ".1", precision));
    const int size = encoder_.back().size() * encoder_.back().front().size();
    const std::string bridge = "bridge." + std::to_string(size);
    if (weights.count(bridge + ".weight"))
      bridges_.emplace(size, product(weights, bridge + ".weight", "", precision));
  }
  for (std::string layer = "decoder.0"; has(layer);
       layer = "decoder." + std::to_string(decoder_.size()))
    decoder_.push_back(gru(weights, layer, precision));
  if (weights.count("attention.keys")) {
    keys_.emplace(product(weights, "attention.keys", "", precision));
    values_.emplace(product(weights, "attention.values", "", precision));
    query_.emplace(product(weights, "attention.query.weight", "attention.query.bias", precision));
    scorer_ = find(weights, "attention.scorer");
  }
  if (weights.count("readout.weight"))
    readout_.emplace(product(weights, "readout.weight", "readout.bias", precision));
}

std::vector<std::shared_ptr<Source>> Network::read(
    const std::vector<std::vector<int>>& sentences) const {
  const int count = static_cast<int>(sentences.size());
  std::vector<int> lengths;
  for (const auto& sentence : sentences) lengths.push_back(static_cast<int>(sentence.size()));
  const Packing packing(lengths);
  const auto& [order, begins, rows] = packing;
  const int steps = static_cast<int>(rows.size()), total = begins.back();
  Matrix states(total, source_table_.columns);
  for (int step = 0; step < steps; ++step)
    for (int row = 0; row < rows[step]; ++row) {
      const int64_t word = sentences[order[row]][step];
      if (word < 0 || word >= source_table_.rows) throw std::out_of_range("no such word");
      std::copy_n(source_table_.data + word * source_table_.columns, source_table_.columns,
                  states[begins[step] + row]);
    }
  std::vector<std::shared_ptr<Source>> sources;
  for (const auto& sentence : sentences) {
    sources.push_back(std::make_shared<Source>());
    sources.back()->length = static_cast<int>(sentence.size());
    sources.back()->hidden.reshape(layers(), size());
  }
  Matrix gates, hidden, bridged;
  for (size_t depth = 0; depth < encoder_.size(); ++depth) {
    const auto& directions = encoder_[depth];
    const int size = directions.front().size(), width = size * static_cast<int>(directions.size());
    Matrix outputs(total, width), finals(count, width);
    for (size_t reverse = 0; reverse < directions.size(); ++reverse) {
      const GRU& layer = directions[reverse];
      layer.read(states[0], states.stride(), total, gates);
      hidden.reshape(count, size);
      hidden.zero(count);
      for (int at = 0; at < steps; ++at) {
        const int step = reverse ? steps - 1 - at : at;
        layer.step(gates[begins[step]], gates.stride(), hidden[0], hidden.stride(), rows[step]);
        copy_rows(hidden[0], hidden.stride(), rows[step], size,
                  outputs[begins[step]] + reverse * size, outputs.stride());
      }
      copy_rows(hidden[0], hidden.stride(), count, size, finals[0] + reverse * size,
                finals.stride());
    }
    const int target = static_cast<int>(depth) - static_cast<int>(encoder_.size()) + layers();
    if (target >= 0) {
      bridges_.at(width).multiply(finals[0], finals.stride(), count, bridged);
      for (int row = 0; row < count; ++row)
        std::copy_n(bridged[row], this->size(), sources[order[row]]->hidden[target]);
    }
    states = std::move(outputs);
  }
  if (keys_) {
    for (auto [part, member] : {std::pair{&*keys_, &Source::keys}, {&*values_, &Source::values}}) {
      part->multiply(states[0], states.stride(), total, gates);
      for (int row = 0; row < count; ++row) {
        Source& source = *sources[order[row]];
        (source.*member).reshape(source.length, part->columns());
        for (int step = 0; step < source.length; ++step)
          std::copy_n(gates[begins[step] + row], part->columns(), (source.*member)[step]);
      }
    }
  }
  release_unit();
  return sources;
}

void Network::step(const std::vector<Row>& rows, std::vector<Matrix>& hidden,
                   std::vector<Best>& best) const {
  auto& [mixed, query, gates, readout] = workspace;
  const int count = static_cast<int>(rows.size()), width = target_table_.columns;
  const int state = size();
  // The previous word and the context stand behind the last layer's states, for the readout.
  mixed.reshape(count, state + width);
  for (int row = 0; row < count; ++row)
    std::copy_n(target_table_.data + static_cast<int64_t>(rows[row].word) * width, width,
                mixed[row] + state);
  if (query_) {
    query_->multiply(hidden.back()[0], hidden.back().stride(), count, query);
    for (int row = 0; row < count; ++row) {
      const Source& source = *rows[row].source;
      seqvis::attend(source.keys[0], source.keys.stride(), source.values[0], source.values.stride(),
             source.length, query[row], scorer_.data, scorer_.columns, rectify_,
             rows[row].weights, mixed[row] + state, width);
    }
  }
  const float* features = mixed[0] + state;
  int64_t stride = mixed.stride();
  for (size_t depth = 0; depth < decoder_.size(); ++depth) {
    const GRU& layer = decoder_[depth];
    Matrix& own = hidden[depth];
    layer.read(features, stride, count, gates);
    layer.step(gates[0], gates.stride(), own[0], own.stride(), count);
    features = own[0];
    stride = own.stride();
  }
  if (readout_) {
    if (reads_context_) {
      copy_rows(features, stride, count, state, mixed[0], mixed.stride());
      features = mixed[0];
      stride = mixed.stride();
    }
    readout_->multiply(features, stride, count, readout);
    if (reads_context_) tanh(readout[0], count * static_cast<int>(readout.stride()));
    features = readout[0];
    stride = readout.stride();
  }
  best.assign(count, {kImpossible, 0.0f, {}, {}});
  projection_.multiply(features, stride, count,
                       [&](const Tile& tile) { choose(tile, rows, best); });
  for (Best& own : best)
    if (own.words.empty()) own = {own.maximum, own.sum, {kImpossible}, {0}};  // no numbers
  release_unit();
}

}  // namespace seqvis
