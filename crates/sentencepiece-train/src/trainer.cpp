// A C interface to SentencePiece's trainer.
//
// The headers stay inside the build directory of sentencepiece-sys, where no other package can find them, so the
// three classes used are declared here as far as they are used. They follow sentencepiece 0.2.1, the version that
// sentencepiece-sys =0.14.0 builds; look at them again when that pin moves. A changed signature fails to link.

#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <unordered_map>

namespace sentencepiece {
namespace util {

enum class StatusCode : int { kOk = 0, kAborted = 10 };

// One owning pointer, null for success.
class Status {
 public:
  Status();
  ~Status();
  Status(StatusCode code, std::string_view message);
  Status(const Status &other);
  StatusCode code() const;
  const char *error_message() const;

 private:
  void *rep_;
};

}  // namespace util

// The order of these functions is the order of the virtual table.
class SentenceIterator {
 public:
  virtual ~SentenceIterator() {}
  virtual bool done() const = 0;
  virtual void Next() = 0;
  virtual const std::string &value() const = 0;
  virtual util::Status status() const = 0;
};

class SentencePieceTrainer {
 public:
  static util::Status Train(const std::unordered_map<std::string, std::string> &options,
                            SentenceIterator *sentences, std::string *model);
};

}  // namespace sentencepiece

namespace {

// Points `line` at the next sentence. 1: there is one, 0: there are no more, -1: stop and fail.
using NextLine = int (*)(void *context, const char **line, size_t *length);

class CallbackIterator : public sentencepiece::SentenceIterator {
 public:
  CallbackIterator(NextLine next, void *context) : next_(next), context_(context) { Next(); }
  bool done() const override { return state_ <= 0; }
  void Next() override {
    const char *line = nullptr;
    size_t length = 0;
    state_ = next_(context_, &line, &length);
    if (state_ > 0) value_.assign(line, length);
  }
  const std::string &value() const override { return value_; }
  sentencepiece::util::Status status() const override {
    if (state_ >= 0) return {};
    return {sentencepiece::util::StatusCode::kAborted, "reading the sentences failed"};
  }

 private:
  NextLine next_;
  void *context_;
  int state_ = 0;
  std::string value_;
};

// A copy that the caller frees with spt_free.
char *copy(const char *data, size_t length) {
  char *bytes = static_cast<char *>(std::malloc(length + 1));
  if (bytes == nullptr) return nullptr;
  std::memcpy(bytes, data, length);
  bytes[length] = '\0';
  return bytes;
}

}  // namespace

extern "C" {

// Returns 1 and the serialised model in `out`, or 0 and a message in `out`. `out` is null when memory is exhausted.
int spt_train(const char *const *keys, const char *const *values, size_t options, NextLine next, void *context,
              char **out, size_t *out_length) {
  std::string result;
  int trained = 0;
  // No exception may cross into Rust.
  try {
    std::unordered_map<std::string, std::string> map;
    for (size_t i = 0; i < options; ++i) map.emplace(keys[i], values[i]);
    CallbackIterator sentences(next, context);
    const auto status = sentencepiece::SentencePieceTrainer::Train(map, &sentences, &result);
    trained = status.code() == sentencepiece::util::StatusCode::kOk ? 1 : 0;
    if (!trained) result = status.error_message();
  } catch (const std::exception &error) {
    trained = 0;
    result = error.what();
  } catch (...) {
    trained = 0;
    result = "an unknown C++ exception";
  }
  *out = copy(result.data(), result.size());
  *out_length = *out == nullptr ? 0 : result.size();
  return *out == nullptr ? 0 : trained;
}

void spt_free(char *bytes) { std::free(bytes); }

}  // extern "C"
