#include "models/fixed_model.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/testing.h"
#include "io/bytes.h"
#include "models/convert.h"
#include "models/testing.h"

namespace megalodon {
namespace {

using ops::FixedType;
using testing::noisy_model;
using testing::tiny_config;
using Json = nlohmann::ordered_json;

constexpr std::array kStoredTypes = {FixedType::kBfloat16, FixedType::kQ8, FixedType::kQ4};

/// Whether the tensor's memory is a mapping of that file.
bool lies_in(const Tensor& tensor, const fs::path& file) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) != 2) continue;
    const auto at = reinterpret_cast<uintptr_t>(tensor.data_ptr());
    if (begin <= at && at < end) return line.ends_with(fs::canonical(file).string());
  }
  return false;
}

class FixedModel : public FolderTest {
 protected:
  fs::path plain() const { return folder_ / "plain"; }
  fs::path quantized() const { return folder_ / "quantized"; }

  /// A tiny model as a folder of parameters.
  void save_plain(bool tied, torch::ScalarType type = torch::kFloat32) const {
    auto config = tiny_config();
    config.share_emb = tied;
    const auto model = noisy_model(config);
    NamedTensors weights;
    for (const auto& [name, weight] : named_weights(*model)) weights.emplace_back(name, weight.detach().to(type));
    fs::create_directories(plain());
    write_parts(model_parts(config, weights, {{"type", "bytes"}}), plain());
  }

  /// The parts of plain() quantized, as files with a manifest.
  void quantize(FixedType type, bool with_manifest = false) const {
    const LoadedModel loaded = load_fixed_model(plain(), type);
    fs::remove_all(quantized());
    fs::create_directories(quantized());
    const auto files = write_parts(fixed_model_parts(*loaded.model, loaded.tokenizer), quantized());
    if (with_manifest) write_manifest(quantized(), files);
  }

  fs::path weights_file() const { return quantized() / "model.safetensors"; }

  /// Writes the quantized folder's tensors again as `change` leaves them.
  void rewrite(const std::function<void(NamedTensors&)>& change) const {
    NamedTensors tensors;
    {
      const io::TensorFile file = io::read_safetensors(weights_file());
      for (const io::TensorView& view : file.tensors()) tensors.emplace_back(view.name, to_tensor(view));
    }
    change(tensors);
    std::vector<io::TensorView> views;
    for (const auto& [name, tensor] : tensors) views.push_back(to_view(name, tensor));
    io::write_safetensors(weights_file(), views);
  }

  std::string load_error() const {
    return error_of([&] { load_fixed_model(quantized()); });
  }
};

void expect_equal(Model& a, Model& b) {
  const auto of_a = a.linears(), of_b = b.linears();
  ASSERT_EQ(of_a.size(), of_b.size());
  for (size_t i = 0; i < of_a.size(); ++i) {
    const ops::FixedMatrix &first = of_a[i]->packed->fixed(), &second = of_b[i]->packed->fixed();
    EXPECT_EQ(first.type(), second.type());
    EXPECT_TRUE(torch::equal(first.bytes(), second.bytes())) << i;
  }
  for (const auto& [name, weight] : named_weights(a))
    EXPECT_TRUE(torch::allclose(weight, b.named_parameters()[name], 0, 0, /*equal_nan=*/true)) << name;
}

TEST_F(FixedModel, LoadsAsTheModelThatWasFixedInMemory) {
  for (const bool tied : {false, true})
    for (const FixedType type : {FixedType::kFloat32, FixedType::kBfloat16, FixedType::kQ8, FixedType::kQ4}) {
      SCOPED_TRACE(fmt::format("{}, tied {}", ops::name_of(type), tied));
      save_plain(tied);
      const auto expected = load_model(plain()).model;
      expected->fix(type);
      expect_equal(*load_fixed_model(plain(), type).model, *expected);
      if (type == FixedType::kFloat32) expect_equal(*load_fixed_model(plain()).model, *expected);
    }
}

TEST_F(FixedModel, AQuantizedFolderHoldsTheBytesThatLoadingMakes) {
  for (const bool tied : {false, true})
    for (const auto source : {torch::kFloat32, torch::kBFloat16})
      for (const FixedType type : kStoredTypes) {
        SCOPED_TRACE(fmt::format("{} of {}, tied {}", ops::name_of(type), toString(source), tied));
        save_plain(tied, source);
        quantize(type);
        const auto expected = load_fixed_model(plain(), type).model;
        for (const auto asked : {std::optional<FixedType>(), std::optional(type)}) {
          const LoadedModel loaded = load_fixed_model(quantized(), asked);
          EXPECT_EQ(loaded.tokenizer, Json({{"type", "bytes"}}));
          expect_equal(*loaded.model, *expected);
        }
      }
}

TEST_F(FixedModel, WhatFitsStaysInTheFile) {
  save_plain(/*tied=*/false);
  for (const FixedType type : kStoredTypes) {
    quantize(type);
    const auto model = load_fixed_model(quantized()).model;
    for (const nn::Linear* linear : model->linears()) {
      EXPECT_TRUE(lies_in(linear->packed->fixed().bytes(), weights_file()));
      EXPECT_TRUE(!linear->bias.defined() || lies_in(linear->bias, weights_file()));
    }
    const Tensor embedding = model->named_parameters()["embed.weight"];
    EXPECT_TRUE(lies_in(embedding, weights_file()));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(embedding.data_ptr()) % 4, 0);
    fs::remove_all(quantized());  // as a run does with a checkpoint that somebody still reads
    EXPECT_TRUE(embedding.isfinite().all().item<bool>());
  }
}

TEST_F(FixedModel, TensorsAtAnyPlaceAreReadAsWell) {
  save_plain(/*tied=*/false);
  for (const FixedType type : kStoredTypes) {
    quantize(type);
    const auto expected = load_fixed_model(quantized()).model;
    const std::string text = read_file(weights_file());
    uint64_t length = 0;
    std::memcpy(&length, text.data(), sizeof length);
    const std::string header = text.substr(8, length), data = text.substr(8 + length);
    for (const uint64_t spaces : {1, 2, 3, 4}) {
      std::string moved;
      io::append(moved, length + spaces);
      write_file_atomically(weights_file(), moved + header + std::string(spaces, ' ') + data);
      const auto model = load_fixed_model(quantized()).model;
      expect_equal(*model, *expected);
      const Tensor bytes = model->linears()[0]->packed->fixed().bytes();
      EXPECT_EQ(lies_in(bytes, weights_file()), spaces == 4);
    }
  }
}

TEST_F(FixedModel, NamesAndShapesAreThoseOfTheHeader) {
  save_plain(/*tied=*/true);
  quantize(FixedType::kQ8);
  const io::TensorFile file = io::read_safetensors(weights_file());
  const auto shape = [&](const std::string& name) {
    const io::TensorView* view = file.find(name);
    return view == nullptr ? "" : fmt::format("{} {}", io::dtype_name(view->dtype), io::shape_text(view->shape));
  };
  EXPECT_EQ(shape("layers.0.mega.wv.weight.q8"), "U8 [2, 1, 1088]");
  EXPECT_EQ(shape("layers.0.mega.wv.weight"), "");
  EXPECT_EQ(shape("layers.0.mega.wv.bias"), "F32 [24]");
  EXPECT_EQ(shape("embed.weight"), "F32 [19, 16]");
  EXPECT_EQ(shape("embed.weight.q8"), "U8 [2, 1, 1088]");
  quantize(FixedType::kQ4);
  EXPECT_EQ(load_config(quantized()).matrices, FixedType::kQ4);
  quantize(FixedType::kBfloat16);
  const io::TensorFile low = io::read_safetensors(weights_file());
  EXPECT_EQ(io::shape_text(low.find("layers.0.mega.wv.weight.bfloat16")->shape), "[1, 1, 16, 64, 2]");
  EXPECT_EQ(low.find("layers.0.mega.wv.weight.bfloat16")->dtype, io::Dtype::BF16);
}

TEST_F(FixedModel, OtherUsesOfAQuantizedFolderAreRefused) {
  save_plain(/*tied=*/false);
  quantize(FixedType::kQ8);
  const auto expect_parts = [](const std::string& message, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect_parts(error_of([&] { load_fixed_model(quantized(), FixedType::kQ4); }),
               {"--type", quantized().string(), "q8", "got q4"});
  expect_parts(error_of([&] { load_fixed_model(quantized(), FixedType::kFloat32); }), {"got float32"});
  expect_parts(error_of([&] { load_model(quantized()); }), {quantized().string(), "found matrices stored as q8"});
  expect_parts(error_of([&] { convert(quantized(), folder_ / "out"); }), {"found matrices stored as q8"});
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  expect_parts(error_of([&] { fixed_model_parts(*load_fixed_model(plain()).model, {}); }), {"bfloat16, q8 or q4"});
}

TEST_F(FixedModel, DamagedFoldersAreRefused) {
  save_plain(/*tied=*/false);
  const std::string name = "layers.1.mega.wr.weight.q8";
  const auto find = [&](NamedTensors& tensors) {
    return std::find_if(tensors.begin(), tensors.end(), [&](const auto& tensor) { return tensor.first == name; });
  };
  const std::vector<std::pair<std::string, std::function<void(NamedTensors&)>>> changes = {
      {"missing " + name + " U8 [2, 1, 1088]", [&](NamedTensors& t) { t.erase(find(t)); }},
      {"surplus more [1]", [&](NamedTensors& t) { t.emplace_back("more", torch::zeros({1})); }},
      {"surplus layers.1.mega.wr.weight [24, 16]",
       [&](NamedTensors& t) {
         t.emplace_back("layers.1.mega.wr.weight", torch::zeros({24, 16}));
       }},
      {name + ": expected U8 [2, 1, 1088], got U8 [1, 2, 1088]",
       [&](NamedTensors& t) {
         find(t)->second = find(t)->second.view({1, 2, 1088});
       }},
      {name + ": expected U8 [2, 1, 1088], got I8 [2, 1, 1088]",
       [&](NamedTensors& t) { find(t)->second = find(t)->second.to(torch::kInt8); }},
      {name + ": the scales are not all finite",
       [&](NamedTensors& t) {
         find(t)->second[1][0][2] = 0x80;
         find(t)->second[1][0][3] = 0x7f;
       }},
      {"output.final_norm.weight: expected shape [16], got [3]",
       [&](NamedTensors& t) {
         for (auto& [other, tensor] : t)
           if (other == "output.final_norm.weight") tensor = torch::zeros({3});
       }},
  };
  for (const auto& [expected, change] : changes) {
    quantize(FixedType::kQ8);
    rewrite(change);
    EXPECT_NE(load_error().find(expected), std::string::npos) << expected << "\n" << load_error();
  }
  for (const char* value : {"\"float32\"", "\"q5\"", "8"}) {
    quantize(FixedType::kQ8);
    Json config = Json::parse(read_file(quantized() / "config.json"));
    config["matrices"] = Json::parse(value);
    write_file_atomically(quantized() / "config.json", config.dump());
    EXPECT_NE(load_error().find(fmt::format("expected \"bfloat16\", \"q8\" or \"q4\", got {}", value)),
              std::string::npos)
        << load_error();
  }
}

TEST_F(FixedModel, TruncatedAndAlteredFilesAreRefused) {
  save_plain(/*tied=*/false);
  quantize(FixedType::kQ4, /*with_manifest=*/true);
  EXPECT_NO_THROW(load_fixed_model(quantized()));
  const std::string text = read_file(weights_file());
  write_file_atomically(weights_file(), text.substr(0, text.size() - 1));
  EXPECT_NE(load_error().find("is damaged"), std::string::npos) << load_error();
  std::string altered = text;
  altered[text.size() - 100] = static_cast<char>(altered[text.size() - 100] ^ 1);
  write_file_atomically(weights_file(), altered);
  EXPECT_NE(load_error().find("is damaged"), std::string::npos) << load_error();
  fs::remove(quantized() / kManifestName);
  write_file_atomically(weights_file(), text.substr(0, text.size() - 1));
  EXPECT_NE(load_error().find("model.safetensors"), std::string::npos) << load_error();
}

}  // namespace
}  // namespace megalodon
