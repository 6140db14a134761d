// Models whose matrices are fixed (ops/fixed_matrix): loaded to be read alone, and as folders, which `megalodon
// quantize` writes. These hold the matrices as products read them, on any processor, so that loading one is mapping a
// file.
//
//   config.json         that of any model folder (models/weights.h), and "matrices": "bfloat16", "q8" or "q4"
//   model.safetensors   the parameters as float32, but for each matrix of a linear layer in their place
//
//   "matrices"    NAME.weight is stored as
//   bfloat16      NAME.weight.bfloat16   BF16 [blocks, records, 16, 64, 2]
//   q8            NAME.weight.q8         U8 [blocks, records, 1088]
//   q4            NAME.weight.q4         U8 [blocks, records, 320]
//
// ops/fixed_matrix.h says what blocks and records are. An embedding that is the output matrix too is stored as both.
#pragma once

#include <optional>

#include "models/weights.h"

namespace megalodon {

/// From model_folder(folder), after verify_model(): a model in evaluation mode whose matrices are fixed in that type;
/// without one, in that of the folder, float32 where it is none of these. On a GPU all of it is copied there, a matrix
/// at a time. On the CPU what the file holds as products or norms read it stays in the file, which is mapped: nobody
/// may write to the parameters, and they have no gradients; the folder may be replaced or removed meanwhile, but its
/// files not be written to. Throws UsageError where the folder is one of these, of another type.
LoadedModel load_fixed_model(const fs::path& folder, std::optional<ops::FixedType> type = {},
                             torch::Device device = torch::kCPU);

/// What the folder has the weights of linear layers in: "q8" where it is one of these, otherwise what safetensors calls
/// their type, "F32", or "mixed" where they differ. Throws Error as check_weights() does.
std::string type_of_matrices(const fs::path& folder);

/// What such a folder consists of. The model is on the CPU; its matrices are fixed, all in one type, which is not
/// float32.
FolderParts fixed_model_parts(Model& model, const nlohmann::ordered_json& tokenizer);

}  // namespace megalodon
