// A batch of sentences that are decoded together, greedily or each with a beam of its own.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "network.h"

namespace seqvis {

// A translation, or the beginning of one.
struct Hypothesis {
  std::vector<int> words;  // without the end mark
  double score;            // of the log probabilities, divided by the length penalty
  bool finished;
  std::vector<const float*> attention;  // a row of the source's length for each word
};

// A sentence in a batch, with all that its hypotheses have been made of.
class Sentence {
 public:
  // `limit`: the words at which it is cut. `exponent`: of the length penalty.
  Sentence(std::shared_ptr<Source> source, int width, int64_t limit, int n_best, double exponent);

  // Of an ended sentence: at most `n_best`, the best first.
  std::vector<Hypothesis> hypotheses() const;
  std::vector<int> best_so_far() const { return follow(steps_.size(), 0).words; }

  const Source& source() const { return *source_; }
  int width() const { return width_; }

  // Appends this sentence's rows of the next step.
  void begin_step(std::vector<Row>& rows);
  // Extends the hypotheses by a word each, given the best words of its rows. Returns whether the
  // search has ended; if not, `origins` has the row from which each hypothesis goes on.
  bool end_step(const Best* best, std::vector<int>& origins);

 private:
  struct Step {
    std::vector<int> rows, words;  // of each hypothesis: the one that it extends, and the word
    Buffer<float> weights;         // (width, length)
  };
  struct Candidate {
    double score;
    int row, word;
  };
  struct End {
    double score;
    size_t steps;
    int row;  // the hypothesis after so many steps
  };

  Hypothesis follow(size_t steps, int row) const;
  double penalty(int64_t words) const;
  bool is_done(const std::vector<Candidate>& extended) const;

  std::shared_ptr<Source> source_;
  int width_;
  int64_t limit_;
  size_t n_best_;
  double exponent_;
  std::vector<double> scores_;
  std::vector<Step> steps_;
  std::vector<End> ends_;
  bool finished_ = true;
};

class Batch {
 public:
  explicit Batch(std::shared_ptr<const Network> network);

  void join(const std::vector<std::shared_ptr<Sentence>>& sentences);
  void drop(const Sentence* sentence);
  // Extends all sentences by words, at most `most`, until one ends or `interrupt` is called.
  // Returns those that have ended, which leave the batch.
  std::vector<std::shared_ptr<Sentence>> run(int most);
  // Makes `run`, now or when it is called next, return after the word that it is at.
  void interrupt() { interrupted_ = true; }

  int64_t steps = 0, extended = 0;  // so far, and the rows in them

 private:
  void keep(const std::vector<int>& origins,
            const std::vector<std::shared_ptr<Sentence>>& joining = {});

  std::shared_ptr<const Network> network_;
  std::vector<std::shared_ptr<Sentence>> running_;
  std::vector<Matrix> hidden_;  // of each layer
  Matrix kept_;
  int rows_ = 0;
  std::atomic<bool> interrupted_ = false;
};

}  // namespace seqvis
