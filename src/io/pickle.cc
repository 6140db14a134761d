#include "io/pickle.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include "base/check.h"
#include "io/bytes.h"

namespace megalodon::io {
namespace {

enum class Op : uint8_t {
  Mark = '(',
  Stop = '.',
  Binint = 'J',
  Binint1 = 'K',
  Binint2 = 'M',
  None = 'N',
  Binpersid = 'Q',
  Reduce = 'R',
  Binunicode = 'X',
  EmptyList = ']',
  Append = 'a',
  Build = 'b',
  Global = 'c',
  Appends = 'e',
  Binget = 'h',
  LongBinget = 'j',
  Binput = 'q',
  LongBinput = 'r',
  Setitem = 's',
  Tuple = 't',
  Setitems = 'u',
  EmptyDict = '}',
  EmptyTuple = ')',
  Proto = 0x80,
  Tuple1 = 0x85,
  Tuple2 = 0x86,
  Tuple3 = 0x87,
  Newtrue = 0x88,
  Newfalse = 0x89,
  Long1 = 0x8a,
};

struct StorageClass {
  std::string_view name;
  Dtype dtype;
};

constexpr std::array<StorageClass, 11> kStorageClasses = {{{"FloatStorage", Dtype::F32},
                                                           {"DoubleStorage", Dtype::F64},
                                                           {"HalfStorage", Dtype::F16},
                                                           {"BFloat16Storage", Dtype::BF16},
                                                           {"LongStorage", Dtype::I64},
                                                           {"IntStorage", Dtype::I32},
                                                           {"ShortStorage", Dtype::I16},
                                                           {"CharStorage", Dtype::I8},
                                                           {"ByteStorage", Dtype::U8},
                                                           {"BoolStorage", Dtype::Bool},
                                                           {"ComplexFloatStorage", Dtype::C64}}};

// Bounds on what a file of a few bytes per instruction can make us hold; a state dict of 10,000 tensors stays far
// below.
constexpr size_t kMaxPickle = size_t{4} << 20;
constexpr size_t kMaxObjects = kMaxTensors;  // on the stack, in the memo, and of each kind
constexpr size_t kMaxKey = 64;               // it is a small number

enum class Kind {
  None,
  Bool,
  Int,
  Text,
  Tuple,
  List,
  Dict,
  OrderedDict,
  RebuildTensor,
  RebuildParameter,
  StorageClass,
  Storage,
  Tensor
};

const char* kind_name(Kind kind) {
  static constexpr std::array<const char*, 13> kNames = {"None",    "a bool",    "an int",  "a string",   "a tuple",
                                                         "a list",  "a dict",    "a class", "a function", "a function",
                                                         "a class", "a storage", "a tensor"};
  return kNames.at(static_cast<size_t>(kind));
}

/// Objects live in tables of the machine and values refer to them by position, so that a file that nests objects a
/// million deep or makes them contain themselves costs neither stack nor leaks.
struct Value {
  Kind kind = Kind::None;
  int64_t payload = 0;  // the number; the Dtype of a storage class; else the position in the kind's table
};

struct Storage {
  Dtype dtype;
  std::string_view key;
  int64_t size;
};

struct Tensor {
  Storage storage;
  int64_t offset;
  std::vector<int64_t> shape, strides;
};

class Machine {
 public:
  explicit Machine(std::span<const std::byte> pickle) : reader_(pickle) {
    check(pickle.size() <= kMaxPickle, "a pickle of {} bytes is above the limit of {}", pickle.size(), kMaxPickle);
  }

  std::vector<PickledTensor> run() {
    do {
      offset_ = reader_.offset();
      op_ = reader_.read<uint8_t>();
    } while (step(Op{op_}));
    demand(stack_.size() == 1 && marks_.empty(), "the pickle leaves {} values, expected 1", stack_.size());
    demand(reader_.remaining() == 0, "{} bytes follow the end of the pickle", reader_.remaining());
    return state_dict(pop());
  }

 private:
  /// Returns false at the end of the program.
  bool step(Op op) {
    // clang-format off
    switch (op) {
      case Op::Proto: demand(reader_.read<uint8_t>() == 2, "expected pickle protocol 2, torch.save's default"); break;
      case Op::Stop: return false;
      case Op::None: push({Kind::None, 0}); break;
      case Op::Newtrue: push({Kind::Bool, 1}); break;
      case Op::Newfalse: push({Kind::Bool, 0}); break;
      case Op::Binint: push({Kind::Int, reader_.read<int32_t>()}); break;
      case Op::Binint1: push({Kind::Int, reader_.read<uint8_t>()}); break;
      case Op::Binint2: push({Kind::Int, reader_.read<uint16_t>()}); break;
      case Op::Long1: push({Kind::Int, read_long()}); break;
      case Op::Binunicode: push_new(Kind::Text, texts_, as_text(reader_.take(reader_.read<uint32_t>()))); break;
      case Op::EmptyTuple: push_new(Kind::Tuple, items_, {}); break;
      case Op::EmptyList: push_new(Kind::List, items_, {}); break;
      case Op::EmptyDict: push_new(Kind::Dict, items_, {}); break;
      case Op::Mark: add(marks_, stack_.size()); break;
      case Op::Tuple: push_new(Kind::Tuple, items_, pop_to_mark()); break;
      case Op::Tuple1: push_new(Kind::Tuple, items_, pop(1)); break;
      case Op::Tuple2: push_new(Kind::Tuple, items_, pop(2)); break;
      case Op::Tuple3: push_new(Kind::Tuple, items_, pop(3)); break;
      case Op::Append: extend(Kind::List, pop(1)); break;
      case Op::Appends: extend(Kind::List, pop_to_mark()); break;
      case Op::Setitem: extend(Kind::Dict, pop(2)); break;
      case Op::Setitems: extend(Kind::Dict, pop_to_mark()); break;
      case Op::Binput: put(reader_.read<uint8_t>()); break;
      case Op::LongBinput: put(reader_.read<uint32_t>()); break;
      case Op::Binget: get(reader_.read<uint8_t>()); break;
      case Op::LongBinget: get(reader_.read<uint32_t>()); break;
      case Op::Global: push(read_global()); break;
      case Op::Reduce: reduce(); break;
      case Op::Build: build(); break;
      case Op::Binpersid: push_storage(); break;
      default: demand(false, "instruction 0x{:02x} does not belong in a state dict", op_);
    }
    // clang-format on
    return true;
  }

  template <class... Args>
  void demand(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (!condition) fail("pickle offset {}: {}", offset_, fmt::format(format, std::forward<Args>(args)...));
  }

  // ---- stack, memo, tables
  template <class T>
  void add(std::vector<T>& table, T item) {
    demand(table.size() < kMaxObjects, "more than {} objects", kMaxObjects);
    table.push_back(std::move(item));
  }
  void push(Value value) { add(stack_, value); }
  template <class T>
  void push_new(Kind kind, std::vector<T>& table, T object) {
    push({kind, static_cast<int64_t>(table.size())});
    add(table, std::move(object));
  }
  Value pop() { return pop(1).front(); }
  /// Nothing below the last mark can be popped.
  std::vector<Value> pop(size_t count) {
    const size_t floor = marks_.empty() ? 0 : marks_.back();
    demand(stack_.size() - floor >= count, "{} values expected on the stack, {} there", count, stack_.size() - floor);
    const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
    std::vector<Value> values(first, stack_.end());
    stack_.erase(first, stack_.end());
    return values;
  }
  std::vector<Value> pop_to_mark() {
    demand(!marks_.empty(), "no mark on the stack");
    std::vector<Value> values = pop(stack_.size() - marks_.back());
    marks_.pop_back();
    return values;
  }
  Value top() {
    const Value value = pop();
    push(value);
    return value;
  }
  void put(size_t index) {
    demand(index < kMaxObjects, "memo position {} is above the limit of {}", index, kMaxObjects);
    if (index >= memo_.size()) memo_.resize(index + 1);
    memo_[index] = top();
  }
  void get(size_t index) {
    demand(index < memo_.size() && memo_[index].has_value(), "nothing was stored at memo position {}", index);
    push(*memo_[index]);
  }

  // ---- values
  int64_t as(Kind kind, Value value, std::string_view what) const {
    demand(value.kind == kind, "{} must be {}, got {}", what, kind_name(kind), kind_name(value.kind));
    return value.payload;
  }
  const std::vector<Value>& items(Kind kind, Value value, std::string_view what) const {
    return items_[static_cast<size_t>(as(kind, value, what))];
  }
  std::string_view text(Value value, std::string_view what) const {
    return texts_[static_cast<size_t>(as(Kind::Text, value, what))];
  }
  std::vector<int64_t> ints(Value value, std::string_view what) const {
    const std::vector<Value>& values = items(Kind::Tuple, value, what);
    demand(values.size() <= kMaxRank, "{} has {} dimensions, at most {} are possible", what, values.size(), kMaxRank);
    std::vector<int64_t> numbers;
    for (const Value item : values) numbers.push_back(as(Kind::Int, item, what));
    return numbers;
  }

  int64_t read_long() {
    const std::span<const std::byte> bytes = reader_.take(reader_.read<uint8_t>());
    demand(bytes.size() <= sizeof(uint64_t), "an integer of {} bytes does not fit 64 bits", bytes.size());
    uint64_t value = 0;
    if (!bytes.empty() && static_cast<int8_t>(bytes.back()) < 0) value = ~uint64_t{0};  // sign
    std::memcpy(&value, bytes.data(), bytes.size());
    return static_cast<int64_t>(value);
  }

  std::string_view read_line() {
    const size_t begin = reader_.offset();
    size_t size = 0;
    while (reader_.read<char>() != '\n') ++size;
    return as_text(ByteReader(reader_.all(), begin).take(size));
  }

  void extend(Kind kind, const std::vector<Value>& values) {
    const int64_t target = as(kind, top(), "the object to extend");
    demand(kind != Kind::Dict || values.size() % 2 == 0, "a dict key without a value");
    std::vector<Value>& all = items_[static_cast<size_t>(target)];
    all.insert(all.end(), values.begin(), values.end());
  }

  // ---- what may be named and called
  Value read_global() {
    const std::string_view module = read_line(), name = read_line();
    if (module == "collections" && name == "OrderedDict") return {Kind::OrderedDict, 0};
    if (module == "torch._utils" && name == "_rebuild_tensor_v2") return {Kind::RebuildTensor, 0};
    if (module == "torch._utils" && name == "_rebuild_parameter") return {Kind::RebuildParameter, 0};
    for (const StorageClass& storage : kStorageClasses) {
      if (module == "torch" && name == storage.name) return {Kind::StorageClass, static_cast<int64_t>(storage.dtype)};
    }
    fail("pickle offset {}: '{}.{}' is not allowed in a state dict, which holds tensors and nothing else", offset_,
         printable(module), printable(name));
  }

  void reduce() {
    const std::vector<Value> arguments = items(Kind::Tuple, pop(), "the arguments of a call");
    const Kind function = pop().kind;
    if (function == Kind::OrderedDict) {
      demand(arguments.empty(), "OrderedDict takes no arguments here, got {}", arguments.size());
      push_new(Kind::Dict, items_, {});
    } else if (function == Kind::RebuildTensor) {
      // storage, offset, shape, strides, requires_grad, hooks [, metadata]
      demand(arguments.size() == 6 || arguments.size() == 7, "_rebuild_tensor_v2 takes 6 or 7 arguments, got {}",
             arguments.size());
      const int64_t storage = as(Kind::Storage, arguments[0], "a tensor's storage");
      push_new(Kind::Tensor, tensors_,
               Tensor{storages_[static_cast<size_t>(storage)], as(Kind::Int, arguments[1], "a tensor's offset"),
                      ints(arguments[2], "a tensor's shape"), ints(arguments[3], "a tensor's strides")});
    } else if (function == Kind::RebuildParameter) {  // tensor, requires_grad, hooks
      demand(arguments.size() == 3, "_rebuild_parameter takes 3 arguments, got {}", arguments.size());
      as(Kind::Tensor, arguments[0], "a parameter's data");
      push(arguments[0]);
    } else {
      demand(false, "{} cannot be called", kind_name(function));
    }
  }

  /// The state of an OrderedDict holds versions of modules, which mean nothing here.
  void build() {
    as(Kind::Dict, pop(), "the state of an object");
    as(Kind::Dict, top(), "an object with state");
  }

  void push_storage() {  // ("storage", class, key, device, size)
    const std::vector<Value> id = items(Kind::Tuple, pop(), "a persistent id");
    demand(id.size() == 5 && text(id[0], "the kind of a persistent id") == "storage",
           "only storages with 5 fields have a persistent id in a state dict");
    const auto dtype = static_cast<Dtype>(as(Kind::StorageClass, id[1], "a storage's class"));
    text(id[3], "a storage's device");
    const std::string_view key = text(id[2], "a storage's key");
    demand(key.size() <= kMaxKey, "a storage's key has {} characters, at most {} are possible", key.size(), kMaxKey);
    push_new(Kind::Storage, storages_, Storage{dtype, key, as(Kind::Int, id[4], "a storage's size")});
  }

  std::vector<PickledTensor> state_dict(Value dict) const {
    const std::vector<Value>& entries = items(Kind::Dict, dict, "the file's object");
    std::vector<PickledTensor> result;
    std::set<std::string_view> names;  // also keeps one long name from being copied many times
    for (size_t i = 0; i < entries.size(); i += 2) {
      const std::string_view name = text(entries[i], "the name of a tensor");
      if (entries[i + 1].kind != Kind::Tensor) {
        fail("entry '{}' must be a tensor, got {}: save the state dict alone, torch.save(model.state_dict(), ...)",
             printable(name), kind_name(entries[i + 1].kind));
      }
      check(names.insert(name).second, "two tensors are named '{}'", printable(name));
      const Tensor& tensor = tensors_[static_cast<size_t>(entries[i + 1].payload)];
      result.push_back({std::string(name), std::string(tensor.storage.key), tensor.storage.dtype, tensor.storage.size,
                        tensor.offset, tensor.shape, tensor.strides});
    }
    return result;
  }

  ByteReader reader_;
  size_t offset_ = 0;  // of the instruction being run
  uint8_t op_ = 0;
  std::vector<Value> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::vector<std::optional<Value>> memo_;
  std::vector<std::string_view> texts_;
  std::vector<std::vector<Value>> items_;  // of tuples, lists and dicts (key, value, key, value, …)
  std::vector<Storage> storages_;
  std::vector<Tensor> tensors_;
};

// ---- writing

void append_op(std::string& out, Op op) {
  out += static_cast<char>(op);
}

void append_text(std::string& out, std::string_view text) {
  append_op(out, Op::Binunicode);
  append(out, static_cast<uint32_t>(text.size()));
  out += text;
}

void append_int(std::string& out, int64_t value) {
  if (value >= 0 && value <= UINT8_MAX) {
    append_op(out, Op::Binint1);
    append(out, static_cast<uint8_t>(value));
  } else if (value >= INT32_MIN && value <= INT32_MAX) {
    append_op(out, Op::Binint);
    append(out, static_cast<int32_t>(value));
  } else {
    append_op(out, Op::Long1);
    append(out, uint8_t{8});
    append(out, value);
  }
}

void append_ints(std::string& out, const std::vector<int64_t>& values) {
  append_op(out, Op::Mark);
  for (const int64_t value : values) append_int(out, value);
  append_op(out, Op::Tuple);
}

void append_global(std::string& out, std::string_view module, std::string_view name) {
  append_op(out, Op::Global);
  out += fmt::format("{}\n{}\n", module, name);
}

void append_ordered_dict(std::string& out) {
  append_global(out, "collections", "OrderedDict");
  append_op(out, Op::EmptyTuple);
  append_op(out, Op::Reduce);
}

void append_storage(std::string& out, const PickledTensor& tensor) {
  const auto* storage = std::find_if(kStorageClasses.begin(), kStorageClasses.end(),
                                     [&](const StorageClass& candidate) { return candidate.dtype == tensor.dtype; });
  check(storage != kStorageClasses.end(), "tensor '{}': PyTorch has no {}", tensor.name, dtype_name(tensor.dtype));
  append_op(out, Op::Mark);
  append_text(out, "storage");
  append_global(out, "torch", storage->name);
  append_text(out, tensor.storage);
  append_text(out, "cpu");
  append_int(out, tensor.storage_size);
  append_op(out, Op::Tuple);
  append_op(out, Op::Binpersid);
}

}  // namespace

std::vector<PickledTensor> parse_pickle(std::span<const std::byte> pickle) {
  return Machine(pickle).run();
}

std::string write_pickle(std::span<const PickledTensor> tensors) {
  std::string out;
  append_op(out, Op::Proto);
  append(out, uint8_t{2});
  append_ordered_dict(out);
  for (const PickledTensor& tensor : tensors) {
    append_text(out, tensor.name);
    append_global(out, "torch._utils", "_rebuild_tensor_v2");
    append_op(out, Op::Mark);
    append_storage(out, tensor);
    append_int(out, tensor.offset);
    append_ints(out, tensor.shape);
    append_ints(out, tensor.strides);
    append_op(out, Op::Newfalse);  // requires_grad
    append_ordered_dict(out);      // no hooks
    append_op(out, Op::Tuple);
    append_op(out, Op::Reduce);
    append_op(out, Op::Setitem);
  }
  append_op(out, Op::Stop);
  check(out.size() <= kMaxPickle, "a pickle of {} bytes is above the limit of {}", out.size(), kMaxPickle);
  return out;
}

}  // namespace megalodon::io
