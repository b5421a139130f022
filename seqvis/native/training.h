// Training's recurrent loops, forward and backward, and the softmax of its loss. All tensors are
// contiguous and float32, but for lengths and words (int64), and for scores and their gradients.
// A call starts as many threads as PyTorch has, each for a share of the rows.
#pragma once
#include <ATen/ATen.h>

#include <vector>

#include "product.h"

namespace seqvis {

using at::Tensor;
using Tensors = std::vector<Tensor>;

// Weights of GRU layers are a list with weight_ih, weight_hh, bias_ih and bias_hh of each. Gradients
// of gates are (words, 4 * size): of new's half of the input, of reset, of update, and of new's
// other half.

// Runs a GRU layer over sentences, the longest first: their first words, the second words of those
// that have one, and so on. `words` (words, inputs); `hidden` (directions, sentences, size);
// `rows`: how many words each step has; the weights of a second direction read backwards. Returns
// the states (words, directions * size); the last ones (sentences, directions * size); and for each
// direction the states before each word (words, size) and what the backward pass needs.
Tensors run_gru(const Tensor& words, const Tensor& hidden, const std::vector<int64_t>& rows,
                const Tensors& weights, Precision precision);

// Returns the gradients of `words` and `hidden`, and for each direction those of the gates. `kept`:
// what run_gru returned but for the first two.
Tensors run_gru_backward(const Tensor& of_states, const Tensor& of_last,
                         const std::vector<int64_t>& rows, const Tensors& weights,
                         const Tensors& kept, Precision precision);

struct Attention {
  Tensor keys, values;  // (rows, source, attention), (rows, source, width)
  Tensor lengths;       // (rows), how many words of the source are no padding
  Tensor query_weight, query_bias, scorer;
  bool rectify;
};

// Runs the attending decoder over known words. `embedded` (steps, rows, width); `hidden` (layers,
// rows, size); `masks`: none, or what the inputs of the second, third … layer are multiplied by,
// (steps or 1, rows, size) each. Returns the states before and after each step (layers, steps + 1,
// rows, size), the first layer's inputs (steps, rows, width), what was attended to (steps, rows,
// source), the queries (steps, rows, attention) and what the backward pass needs.
Tensors run_attending(const Tensor& embedded, const Tensor& hidden, const Attention& attention,
                      const Tensors& masks, const Tensors& weights, Precision precision);

// Returns the gradients of `embedded`, which are those of the context; of `hidden`; of the keys; of
// the scorer, for each row; of the queries; and for each layer those of the gates.
Tensors run_attending_backward(const Tensor& of_states, const Tensor& of_mixed,
                               const Tensor& of_last, const Attention& attention,
                               const Tensors& masks, const Tensors& weights,
                               const Tensors& results, Precision precision);

// The cross-entropy of words, given their scores (words, vocabulary) before `bias` is added. Adds
// up the gradients of the scores in `of_bias`, and writes them to `gradients`, which may be of
// another type; or neither, if `gradients` is empty. Returns the words with the highest scores, the
// right words' negative log likelihoods, and the mean of all words'.
Tensors cross_entropy(const Tensor& scores, const Tensor& bias, const Tensor& right,
                      double smoothing, const Tensor& gradients, const Tensor& of_bias);

}  // namespace seqvis
