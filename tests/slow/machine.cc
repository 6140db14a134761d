#include "machine.h"

#include <dlfcn.h>
#include <hwy/highway.h>
#include <torch/version.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace megalodon::testing {
namespace {

/// "AuthenticAMD 25 17"; "" where the system does not tell.
std::string processor() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string result;
  for (std::string line; std::getline(cpuinfo, line) && !line.empty();)
    for (const char* key : {"vendor_id\t", "cpu family\t", "model\t", "CPU implementer\t", "CPU part\t"})
      if (line.rfind(key, 0) == 0) result += (result.empty() ? "" : " ") + line.substr(line.find(": ") + 2);
  return result;
}

/// The library that a function comes from; "" where there is none.
std::string library_of(const char* name) {
  void* function = dlsym(RTLD_DEFAULT, name);
  Dl_info info{};
  if (function == nullptr || dladdr(function, &info) == 0) return "";
  const auto path = std::filesystem::weakly_canonical(info.dli_fname);
  return (path.parent_path().filename() / path.filename()).string();
}

void use(int64_t targets) {
  hwy::SetSupportedTargetsForTest(targets);  // 0: what the CPU has
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace

nlohmann::ordered_json machine() {
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return {{"processor", processor()},
          {"kernels", hwy::TargetName(targets & -targets)},  // the best one is the lowest bit
          {"libtorch", TORCH_VERSION},
          {"blas", library_of("sgemm_")},
          {"onednn", library_of("dnnl_version")},
          {"compiler", __VERSION__},
          {"build", MEGALODON_BUILD}};
}

LeastInstructionSet::LeastInstructionSet() {
  int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  while ((targets & (targets - 1)) != 0) targets &= targets - 1;
  use(targets);
}

LeastInstructionSet::~LeastInstructionSet() {
  use(0);
}

}  // namespace megalodon::testing
