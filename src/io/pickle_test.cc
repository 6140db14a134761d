#include "io/pickle.h"

#include "io/testing.h"

namespace megalodon::io::pickle_test {
namespace {

using testing::exact;

std::vector<PickledTensor> parse(const std::string& pickle) {
  return parse_pickle(*exact(pickle));
}
std::string error_of(const std::string& pickle) {
  return testing::error_of([&] { parse(pickle); });
}

std::string text(const std::string& value) {
  std::string out = "X";
  append(out, static_cast<uint32_t>(value.size()));
  return out + value;
}
std::string storage(const std::string& key = "0", const std::string& size = "K\6",
                    const std::string& name = "FloatStorage") {
  return "(" + text("storage") + "ctorch\n" + name + "\n" + text(key) + text("cpu") + size + "tQ";
}
const std::string kProto = "\x80\2", kRebuild = "ctorch._utils\n_rebuild_tensor_v2\n",
                  kNoHooks = "ccollections\nOrderedDict\n)R";
std::string tensor(const std::string& of, const std::string& offset_shape_strides) {
  return kRebuild + "(" + of + offset_shape_strides + "\x89" + kNoHooks + "tR";
}
const std::string kWindow = std::string("K\0K\2K\3\x86K\3K\1\x86", 12);  // offset 0, shape [2, 3], strides [3, 1]

TEST(Pickle, RoundTrip) {
  constexpr int64_t kLarge = int64_t{1} << 40;
  const std::vector<PickledTensor> tensors = {{"a.weight", "0", Dtype::F32, 70000, 255, {300, 256}, {256, 1}},
                                              {"é", "12", Dtype::BF16, kLarge, kLarge - 1, {}, {}},
                                              {"", "0", Dtype::I64, 0, 0, {0, 1, 2, 3}, {-1, 6, INT64_MIN, INT64_MAX}}};
  const std::vector<PickledTensor> parsed = parse(write_pickle(tensors));
  ASSERT_EQ(parsed.size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(parsed[i].name, tensors[i].name);
    EXPECT_EQ(parsed[i].storage, tensors[i].storage);
    EXPECT_EQ(parsed[i].dtype, tensors[i].dtype);
    EXPECT_EQ(parsed[i].storage_size, tensors[i].storage_size);
    EXPECT_EQ(parsed[i].offset, tensors[i].offset);
    EXPECT_EQ(parsed[i].shape, tensors[i].shape);
    EXPECT_EQ(parsed[i].strides, tensors[i].strides);
  }
  const std::vector<PickledTensor> unsigned_tensor = {{"a", "0", Dtype::U32, 0, 0, {}, {}}};
  EXPECT_EQ(testing::error_of([&] { write_pickle(unsigned_tensor); }), "tensor 'a': PyTorch has no U32");
}

TEST(Pickle, ReadsWhatTorchSaveWrites) {
  // With memo, marks, SETITEMS and the _metadata attribute; "p" is a parameter on the storage of "w".
  const std::string zero(1, '\0');
  const std::string first =
      "(" + text("storage") + "q\4ctorch\nFloatStorage\nq\5" + text("0") + "q\6" + text("cpu") + "q\7M\1\1tq\x08Q";
  const std::string w = tensor(first, std::string("K\0K\3K\2\x86K\1K\3\x86", 12));
  const std::string p = tensor("(h\4h\5h\6h\7M\1\1tQ", std::string("K\5\x8a\1\7\x85\x8a\0\x85", 9));
  const std::string metadata = "}" + text("_metadata") + "h" + zero + ")R(" + text("") + "}" + text("version") +
                               "K\1s" + text("list") + "]Na(NNeus";
  const std::vector<PickledTensor> tensors =
      parse(kProto + "ccollections\nOrderedDict\nq" + zero + ")Rq\1(" + text("w") + w + text("p") +
            "ctorch._utils\n_rebuild_parameter\n(" + p + "\x88" + kNoHooks + "tRu" + metadata + "b.");
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[0].name, "w");
  EXPECT_EQ(tensors[0].storage_size, 257);
  EXPECT_EQ(tensors[0].offset, 0);
  EXPECT_EQ(tensors[0].shape, (std::vector<int64_t>{3, 2}));
  EXPECT_EQ(tensors[0].strides, (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(tensors[1].name, "p");
  EXPECT_EQ(tensors[1].storage, "0");
  EXPECT_EQ(tensors[1].dtype, Dtype::F32);
  EXPECT_EQ(tensors[1].offset, 5);
  EXPECT_EQ(tensors[1].shape, std::vector<int64_t>{7});
  EXPECT_EQ(tensors[1].strides, std::vector<int64_t>{0});
}

TEST(Pickle, RefusesEveryOtherGlobal) {
  EXPECT_EQ(error_of(kProto + "cos\nsystem\n" + text("echo") + "\x85R."),
            "pickle offset 2: 'os.system' is not allowed in a state dict, which holds tensors and nothing else");
  for (const std::string global : {"cbuiltins\neval\n", "ctorch\nload\n", "ctorch._utils\n_rebuild_sparse_tensor\n",
                                   "ccollections\ndefaultdict\n", "ctorch\nQUInt8Storage\n", "cTORCH\nFloatStorage\n",
                                   "c\n\n", "ctorch.serialization\n_load\n", "c__builtin__\ngetattr\n"}) {
    EXPECT_NE(error_of(kProto + global + ".").find("is not allowed"), std::string::npos) << global;
  }
  EXPECT_NE(error_of(kProto + "ctorch\nFloatStorage"), "no error");  // no line end
}

TEST(Pickle, RefusesEveryOtherInstruction) {
  const std::string allowed = "(.JKMNQRX]abcehjqrstu})\x80\x85\x86\x87\x88\x89\x8a";
  for (int op = 0; op < 256; ++op) {
    if (allowed.find(static_cast<char>(op)) != std::string::npos) continue;
    EXPECT_EQ(error_of(kProto + static_cast<char>(op) + std::string(20, '.')),
              fmt::format("pickle offset 2: instruction 0x{:02x} does not belong in a state dict", op));
  }
}

TEST(Pickle, RefusesProgramsThatGoWrong) {
  const auto expect = [](const std::string& program, std::string_view part) {
    const std::string error = error_of(kProto + program);
    EXPECT_NE(error.find(part), std::string::npos) << error << "\n  expected: " << part;
  };
  expect("", "bytes expected at offset 2");
  expect(".", "leaves 0 values");
  expect("}}.", "leaves 2 values");
  expect("}(.", "leaves 1 values");
  expect("}.x", "1 bytes follow the end");
  expect("N.", "the file's object must be a dict, got None");
  expect("\x85.", "1 values expected on the stack, 0 there");
  expect("K\1(\x85.", "1 values expected on the stack, 0 there");  // not through a mark
  expect("t.", "no mark");
  expect("}K\1s.", "1 values expected on the stack, 0 there");
  expect("}(K\1u.", "a dict key without a value");
  expect("N(K\1K\1u.", "the object to extend must be a dict, got None");
  expect("}K\1a.", "the object to extend must be a list, got a dict");
  expect("}K\1K\2s.", "the name of a tensor must be a string, got an int");
  expect("}" + text("epoch") + "K\1s.", "entry 'epoch' must be a tensor, got an int");
  expect("}" + text("model") + "}s.", "entry 'model' must be a tensor, got a dict: save the state dict alone");
  expect("h\1.", "nothing was stored at memo position 1");
  expect("}q\5h\4.", "nothing was stored at memo position 4");
  expect("}r\xff\xff\xff\xff.", "memo position 4294967295 is above the limit");
  expect(
      "X\xff\xff\xff\xff"
      "abc",
      "4294967295 bytes expected");
  expect(
      "\x8a\x09"
      "123456789.",
      "an integer of 9 bytes does not fit");
  expect("K\1)R.", "an int cannot be called");
  expect("ctorch\nFloatStorage\n)R.", "a class cannot be called");
  expect("ccollections\nOrderedDict\nNR.", "the arguments of a call must be a tuple");
  expect("ccollections\nOrderedDict\n]\x85R.", "OrderedDict takes no arguments");
  expect(kRebuild + ")R.", "_rebuild_tensor_v2 takes 6 or 7 arguments, got 0");
  expect("ctorch._utils\n_rebuild_parameter\nNNN\x87R.", "a parameter's data must be a tensor, got None");
  expect("NQ.", "a persistent id must be a tuple");
  expect("NNN\x87Q.", "only storages with 5 fields");
  expect("(" + text("module") + "NNNNtQ.", "only storages with 5 fields");
  expect("(" + text("storage") + "K\1K\1K\1K\1tQ.", "a storage's class must be a class, got an int");
  expect(storage(std::string(65, '1')), "a storage's key has 65 characters");
  expect(tensor("N", kWindow), "a tensor's storage must be a storage, got None");
  expect(tensor(storage(), "N))"), "a tensor's offset must be an int, got None");
  expect(tensor(storage(), "K\1K\1)"), "a tensor's shape must be a tuple, got an int");
  expect(tensor(storage(), "K\1)N\x85"), "a tensor's strides must be an int, got None");
  expect(tensor(storage(), "K\1(" + std::string(17, 'N') + "t)"), "a tensor's shape has 17 dimensions");
  expect(tensor(storage(), "K\1(\x88t)"), "a tensor's shape must be an int, got a bool");
  expect("}Nb.", "the state of an object must be a dict, got None");
  expect("N}b.", "an object with state must be a dict, got None");
  expect("}" + text("a") + tensor(storage(), kWindow) + "s" + text("a") + tensor(storage(), kWindow) + "s.",
         "two tensors are named 'a'");
  EXPECT_EQ(error_of("\x80\4}."), "pickle offset 0: expected pickle protocol 2, torch.save's default");
}

TEST(Pickle, HostileSizesAreBounded) {
  EXPECT_NE(error_of(kProto + std::string(1 << 19, ')')).find("more than 262144 objects"), std::string::npos);
  EXPECT_NE(error_of(kProto + std::string(1 << 19, '(')).find("more than 262144 objects"), std::string::npos);
  EXPECT_NE(error_of(kProto + std::string(5 << 20, 'N')).find("above the limit"), std::string::npos);
  // Tuples nested 200,000 deep, and a list that contains itself, go away without recursion or leak.
  EXPECT_NE(error_of(kProto + ")" + std::string(200000, '\x85') + "."), "no error");
  EXPECT_NE(error_of(kProto + "]q\1h\1a."), "no error");
}

TEST(Pickle, DamagedPicklesAreRefusedOrRead) {
  const std::vector<PickledTensor> tensors = {{"a.weight", "0", Dtype::F32, 70000, 255, {300, 256}, {256, 1}},
                                              {"b", "1", Dtype::I64, 1, 0, {}, {}}};
  for (const std::string& pickle :
       {write_pickle(tensors), kProto + "}(" + text("w") + tensor(storage(), kWindow) + "q\1" + text("v") + "h\1u."}) {
    const int refused = testing::damage(pickle, 4000, [](const auto& bytes) { parse_pickle(*bytes); });
    EXPECT_GT(refused, 1000);
    EXPECT_LT(refused, 4000);
  }
}

}  // namespace
}  // namespace megalodon::io::pickle_test
