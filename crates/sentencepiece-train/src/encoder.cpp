// A C interface to SentencePiece's encoder that gives ids and nothing else.
//
// The crate `sentencepiece` gets pieces, surfaces and places out of C++ as a serialised message and takes that apart
// again; who wants ids pays for all of it. Here the message stays where it is and is used again for the next text, so
// that nothing is allocated for a piece. Declared as far as it is used, as in trainer.cpp, whose remark on versions
// holds here too.

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string_view>
#include <vector>

namespace sentencepiece {
namespace util {

enum class StatusCode : int { kOk = 0 };

// One owning pointer, null for success.
class Status {
 public:
  Status();
  ~Status();
  StatusCode code() const;

 private:
  void *rep_;
};

}  // namespace util

class SentencePieceText;
class SentencePieceText_SentencePiece;

// One pointer; returned in a register, as a class without constructors of its own for copies.
class ImmutableSentencePieceText_ImmutableSentencePiece {
 public:
  uint32_t id() const;
  const SentencePieceText_SentencePiece *piece_;
};

class ImmutableSentencePieceText {
 public:
  ImmutableSentencePieceText();
  virtual ~ImmutableSentencePieceText();
  size_t pieces_size() const;
  ImmutableSentencePieceText_ImmutableSentencePiece pieces(int index) const;
  SentencePieceText *mutable_proto();

 private:
  const SentencePieceText *text_;
  std::shared_ptr<SentencePieceText> owned_;
};

// Never made here: only called, and not through its virtual table.
class SentencePieceProcessor {
 public:
  util::Status Encode(std::string_view input, SentencePieceText *text) const;
};

}  // namespace sentencepiece

namespace {

// What a thread uses again and again.
struct Workspace {
  sentencepiece::ImmutableSentencePieceText text;
  std::vector<uint32_t> ids;
};

// Pieces of a text so long that its workspace is not kept.
constexpr size_t kMany = 1 << 16;

}  // namespace

extern "C" {

// Returns 1 and points `ids` at the ids of `input`, which live until the next call of this thread; or 0.
int spt_encode_ids(const sentencepiece::SentencePieceProcessor *processor, const char *input, size_t length,
                   const uint32_t **ids, size_t *count) {
  thread_local std::unique_ptr<Workspace> workspace;
  // No exception may cross into Rust.
  try {
    if (workspace == nullptr || workspace->ids.size() > kMany) workspace = std::make_unique<Workspace>();
    auto &[text, all] = *workspace;
    const auto status = processor->Encode(std::string_view(input, length), text.mutable_proto());
    if (status.code() != sentencepiece::util::StatusCode::kOk) return 0;
    const size_t pieces = text.pieces_size();
    all.resize(pieces);
    for (size_t i = 0; i < pieces; ++i) all[i] = text.pieces(static_cast<int>(i)).id();
    *ids = all.data();
    *count = pieces;
    return 1;
  } catch (...) {
    workspace.reset();
    return 0;
  }
}

}  // extern "C"
