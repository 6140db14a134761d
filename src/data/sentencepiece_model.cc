#include "data/sentencepiece_model.h"

#include <cmath>
#include <unordered_map>

#include "base/check.h"
#include "base/utf8.h"
#include "data/protobuf.h"
#include "data/sentencepiece_normalizer.h"

namespace megalodon::data {
namespace {

constexpr size_t kMaxPieces = size_t{1} << 22;

/// Reads the messages; what concerns the model as a whole is checked at the end.
class SentencePieceParser {
 public:
  SentencePieceParser(std::string_view bytes, std::string_view name) : bytes_(bytes), name_(name) {}

  SentencePieceModel parse() {
    ProtobufReader reader(bytes_, name_);
    while (const auto field = reader.next()) {
      if (field->id == 1) read_piece(reader.bytes(*field), field->body_offset);
      if (field->id == 2) read_trainer(reader.bytes(*field), field->body_offset);
      if (field->id == 3) read_normalizer(reader.bytes(*field), field->body_offset);
      if (field->id == 5) refuse_denormalizer(reader.bytes(*field), field->body_offset);
    }
    check(!model_.pieces.empty(), "[tokenizer] '{}' holds no pieces; is it a SentencePiece model?", name_);
    find_special();
    find_bytes();
    check_kind();
    return std::move(model_);
  }

 private:
  void read_piece(std::string_view message, size_t offset) {
    ProtobufReader reader(message, name_, offset);
    if (model_.pieces.size() == kMaxPieces)
      reader.fail_at(offset, fmt::format("expected at most {} pieces", kMaxPieces));
    SentencePiece piece;
    while (const auto field = reader.next()) {
      if (field->id == 1) piece.text = reader.bytes(*field);
      if (field->id == 2) piece.score = reader.float32(*field);
      if (field->id != 3) continue;
      const uint64_t type = reader.varint(*field);
      if (type < 1 || type > 6)
        reader.fail_at(field->offset, fmt::format("expected a type of piece in [1, 6], got {}", type));
      piece.type = static_cast<SentencePiece::Type>(type);
    }
    const size_t id = model_.pieces.size();
    const auto refuse = [&](const std::string& rule) { reader.fail_at(offset, fmt::format("piece {}: {}", id, rule)); };
    if (piece.text.empty()) refuse("must not be empty");
    if (piece.text.size() > kMaxPieceBytes)
      refuse(fmt::format("expected at most {} bytes, got {}", kMaxPieceBytes, piece.text.size()));
    if (!is_valid_utf8(piece.text)) refuse("is not UTF-8");
    if (!std::isfinite(piece.score)) refuse(fmt::format("expected a finite score, got {}", piece.score));
    const auto [same, is_new] = ids_.emplace(piece.text, static_cast<int32_t>(id));
    if (!is_new) refuse(fmt::format("is the same as piece {}", same->second));
    const bool is_text = piece.type == SentencePiece::kNormal || piece.type == SentencePiece::kUserDefined ||
                         piece.type == SentencePiece::kUnused;
    if (!is_text && first_character(piece.text).length == piece.text.size())
      refuse("a control, unknown or byte piece must be longer than one character");
    if (piece.type == SentencePiece::kUserDefined && piece.text.find(' ') != std::string::npos)
      refuse("a user-defined piece must hold spaces as U+2581");
    model_.pieces.push_back(std::move(piece));
  }

  void read_trainer(std::string_view message, size_t offset) {
    ProtobufReader reader(message, name_, offset);
    while (const auto field = reader.next()) {
      switch (field->id) {
        case 3: {
          const uint64_t kind = reader.varint(*field);
          if (kind != 1 && kind != 2)
            reader.fail_at(field->offset,
                           fmt::format("expected a unigram (1) or BPE (2) model, got type {}; word and character "
                                       "models are not supported",
                                       kind));
          model_.kind = static_cast<SentencePieceModel::Kind>(kind);
          break;
        }
        case 24:
          model_.whitespace_as_suffix = reader.boolean(*field);
          break;
        case 35:
          byte_fallback_ = reader.boolean(*field);
          break;
        case 44:
          model_.unknown_surface = reader.bytes(*field);
          if (model_.unknown_surface.size() > kMaxPieceBytes || !is_valid_utf8(model_.unknown_surface))
            reader.fail_at(field->offset, "the text of the unknown token is not UTF-8 or too long");
          break;
        case 46:
          bos_ = reader.bytes(*field);
          break;
        case 47:
          eos_ = reader.bytes(*field);
          break;
        case 48:
          pad_ = reader.bytes(*field);
          break;
        default:
          break;
      }
    }
  }

  void read_normalizer(std::string_view message, size_t offset) {
    ProtobufReader reader(message, name_, offset);
    while (const auto field = reader.next()) {
      if (field->id == 2) {
        model_.charsmap = reader.bytes(*field);
        if (const std::string rule = charsmap_problem(model_.charsmap); !rule.empty())
          reader.fail_at(field->offset, "character replacements: " + rule);
      }
      if (field->id == 3) model_.add_dummy_prefix = reader.boolean(*field);
      if (field->id == 4) model_.remove_extra_whitespaces = reader.boolean(*field);
      if (field->id == 5 && !reader.boolean(*field))
        reader.fail_at(field->offset, "models with escape_whitespaces = false are not supported");
    }
  }

  void refuse_denormalizer(std::string_view message, size_t offset) const {
    ProtobufReader reader(message, name_, offset);
    while (const auto field = reader.next())
      if (field->id == 2 && !reader.bytes(*field).empty())
        reader.fail_at(field->offset, "models with denormalization rules are not supported");
  }

  void find_special() {
    for (size_t id = 0; id < model_.pieces.size(); ++id) {
      if (model_.pieces[id].type != SentencePiece::kUnknown) continue;
      check(model_.unknown < 0, "[tokenizer] '{}': pieces {} and {} are both the unknown one", name_, model_.unknown,
            id);
      model_.unknown = static_cast<int32_t>(id);
    }
    check(model_.unknown >= 0, "[tokenizer] '{}': expected a piece for what is unknown, there is none", name_);
    const auto control = [&](std::string_view text) {
      const auto found = ids_.find(std::string(text));
      const bool is_control = found != ids_.end() && type_of(found->second) == SentencePiece::kControl;
      return is_control ? found->second : -1;
    };
    model_.bos = control(bos_);
    model_.eos = control(eos_);
    model_.pad = control(pad_);
  }

  void find_bytes() {
    std::vector<int32_t> tokens(256, -1);
    for (size_t id = 0; id < model_.pieces.size(); ++id) {
      if (model_.pieces[id].type != SentencePiece::kByte) continue;
      check(byte_fallback_, "[tokenizer] '{}': piece {} is a byte, but the model does not spell in bytes", name_, id);
      const int byte = byte_of_piece(model_.pieces[id].text);
      check(byte >= 0, "[tokenizer] '{}': byte piece {} must read like <0x0A>, got '{}'", name_, id,
            model_.pieces[id].text);
      tokens[static_cast<size_t>(byte)] = static_cast<int32_t>(id);
    }
    if (!byte_fallback_) return;
    for (size_t byte = 0; byte < 256; ++byte)
      check(tokens[byte] >= 0, "[tokenizer] '{}': the model spells in bytes, but has no piece <0x{:02X}>", name_, byte);
    model_.byte_tokens = std::move(tokens);
  }

  void check_kind() const {
    if (model_.kind != SentencePieceModel::kBpe) return;
    for (size_t id = 0; id < model_.pieces.size(); ++id)
      check(model_.pieces[id].type != SentencePiece::kUnused,
            "[tokenizer] '{}': piece {} is marked as unused, which BPE models of ours cannot have", name_, id);
  }

  SentencePiece::Type type_of(int32_t id) const { return model_.pieces[static_cast<size_t>(id)].type; }

  std::string_view bytes_, name_;
  SentencePieceModel model_;
  std::unordered_map<std::string, int32_t> ids_;
  bool byte_fallback_ = false;
  std::string bos_ = "<s>", eos_ = "</s>", pad_ = "<pad>";
};

}  // namespace

int byte_of_piece(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  int value = 0;
  for (const char digit : text.substr(3, 2)) {
    const bool is_decimal = digit >= '0' && digit <= '9';
    if (!is_decimal && (digit < 'A' || digit > 'F')) return -1;
    value = value * 16 + (is_decimal ? digit - '0' : digit - 'A' + 10);
  }
  return value;
}

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, std::string_view name) {
  return SentencePieceParser(bytes, name).parse();
}

}  // namespace megalodon::data
