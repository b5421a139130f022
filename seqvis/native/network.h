// The translator's network: reading sentences, and one step of the decoder for any rows.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "product.h"

namespace seqvis {

// A tensor of PyTorch's, one or two dimensions of floats. The memory belongs to the caller.
struct Weight {
  const float* data;
  int rows, columns;
};
void copy_rows(const float* from, int64_t from_stride, int rows, int size, float* into,
               int64_t into_stride);

using Weights = std::map<std::string, Weight>;

// Sentences as a GRU reads them: the first words of all, the second words of those that have one,
// and so on; the longest sentences first.
struct Packing {
  explicit Packing(const std::vector<int>& lengths);
  std::vector<int> order;         // of the sentences
  std::vector<int> begins, rows;  // of each step
};

// One direction of a GRU layer.
class GRU {
 public:
  GRU(const Weight& input, const Weight& hidden, const float* input_bias, const float* hidden_bias,
      Precision precision);
  int size() const { return from_hidden_.inputs(); }
  int padded_size() const { return from_hidden_.columns() / 3; }
  void read(const float* input, int64_t stride, int rows, Matrix& gates) const {
    from_input_.multiply(input, stride, rows, gates);
  }
  // Replaces `hidden` by the states after it, given the rows of `gates` that `read` made of the
  // input. `kept` is null or receives 4 * padded_size() numbers a row for the backward pass.
  void step(const float* gates, int64_t gates_stride, float* hidden, int64_t hidden_stride,
            int rows, float* kept = nullptr) const;

 private:
  Product from_input_, from_hidden_;
};

// A sentence as the decoder sees it.
struct Source {
  int length;
  Matrix hidden;        // (layers, size): before the first word
  Matrix keys, values;  // (length, …): empty without attention
};

// A row of a step of the decoder.
struct Row {
  const Source* source;
  int word;        // the last one
  float* weights;  // (length): receives what the row attends to
  int count;       // of the words with the highest scores that are wanted
};

// The words with the highest scores of a row, the best first.
struct Best {
  float maximum, sum;  // of all scores, and of their exponentials below the maximum
  std::vector<float> scores;
  std::vector<int> words;
};

class Network {
 public:
  Network(const Weights& weights, Precision precision, bool rectify, bool reads_context);

  // Reads sentences, given as word ids; each is read alone, up to the words that it has.
  std::vector<std::shared_ptr<Source>> read(const std::vector<std::vector<int>>& sentences) const;

  // Feeds each row its last word. `hidden` has a matrix of rows for each layer, and is replaced.
  void step(const std::vector<Row>& rows, std::vector<Matrix>& hidden,
            std::vector<Best>& best) const;

  int layers() const { return static_cast<int>(decoder_.size()); }
  int size() const { return decoder_.back().size(); }

 private:
  Weight source_table_, target_table_, scorer_;
  bool rectify_, reads_context_;
  std::vector<std::vector<GRU>> encoder_;  // by layer, and direction
  std::map<int, Product> bridges_;         // by size
  std::vector<GRU> decoder_;
  std::optional<Product> keys_, values_, query_, readout_;
  Product projection_;
};

}  // namespace seqvis
