#include "base/output_folder.h"

#include "base/check.h"

namespace megalodon {

OutputFolder::OutputFolder(const fs::path& path) : path_(path.empty() ? fs::path(".") : path) {
  std::error_code error;
  for (fs::path folder = fs::absolute(path_); !fs::exists(folder, error) && folder.has_relative_path();
       folder = folder.parent_path())
    made_.push_back(folder);
  fs::create_directories(path_, error);
  check(!error, "[file] cannot create folder '{}': {}", path_.string(), error.message());
}

OutputFolder::~OutputFolder() {
  std::error_code not_empty;
  for (const fs::path& folder : made_) fs::remove(folder, not_empty);
}

}  // namespace megalodon
