#include "models/folder_parts.h"

#include "base/hash.h"
#include "models/weights.h"

namespace megalodon {

void FolderParts::add(const std::string& subfolder, FolderParts parts) {
  for (TensorPart& part : parts.tensors)
    tensors.push_back({fmt::format("{}/{}", subfolder, part.name), std::move(part.tensors)});
  for (TextPart& part : parts.texts)
    texts.push_back({fmt::format("{}/{}", subfolder, part.name), std::move(part.text)});
}

std::vector<FileSum> write_parts(const FolderParts& parts, const fs::path& folder, uint64_t max_shard_bytes) {
  std::vector<FileSum> files;
  for (const TensorPart& part : parts.tensors) {
    std::vector<io::TensorView> views;
    std::vector<Tensor> on_cpu;  // owns what the views show: the tensors themselves, or copies of a GPU's
    for (const auto& [name, tensor] : part.tensors) views.push_back(to_view(name, on_cpu.emplace_back(tensor.cpu())));
    const fs::path path = part.name, home = path.parent_path();
    fs::create_directories(folder / home);
    for (FileSum file : io::write_tensors(folder / home, path.filename().string(), views, max_shard_bytes)) {
      file.name = (home / file.name).string();
      files.push_back(std::move(file));
    }
  }
  for (const TextPart& part : parts.texts) {
    fs::create_directories((folder / part.name).parent_path());
    write_file_atomically(folder / part.name, part.text);
    files.push_back({part.name, part.text.size(), xxh3_64(part.text)});
  }
  return files;
}

}  // namespace megalodon
