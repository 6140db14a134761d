// Memory, streams and errors. Device memory is the host's, but known by its ends.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "cuda_runtime.h"

namespace cuda_emulator {
namespace {

std::string& last_failure() {
  static std::string text;
  return text;
}

/// Where device memory begins, and its size.
std::map<const char*, size_t>& allocations() {
  static std::map<const char*, size_t> list;
  return list;
}

bool is_device_memory(const void* memory, size_t bytes) {
  const auto* begin = static_cast<const char*>(memory);
  auto found = allocations().upper_bound(begin);
  if (found == allocations().begin()) return false;
  --found;
  return begin + bytes <= found->first + found->second;
}

cudaError_t check_device_memory(const void* memory, size_t bytes) {
  if (is_device_memory(memory, bytes)) return cudaSuccess;
  return fail(cudaErrorInvalidValue, "%zu bytes at %p are not all in device memory", bytes, memory);
}

}  // namespace

cudaError_t fail(cudaError_t status, const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  last_failure() = text;
  return status;
}

}  // namespace cuda_emulator

using cuda_emulator::fail;

const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaSuccess ? "no error" : cuda_emulator::last_failure().c_str();
}

cudaError_t cudaGetDeviceCount(int* count) {
  return *count = 1, cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  return *device = 0, cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (posix_memalign(memory, 256, bytes) != 0) return fail(cudaErrorMemoryAllocation, "out of memory");
  std::memset(*memory, 0xff, bytes);
  cuda_emulator::allocations()[static_cast<const char*>(*memory)] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  if (cuda_emulator::allocations().erase(static_cast<const char*>(memory)) == 0)
    return fail(cudaErrorInvalidValue, "%p is not the beginning of device memory", memory);
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemset(void* memory, int byte, size_t bytes) {
  if (bytes == 0) return cudaSuccess;
  const cudaError_t status = cuda_emulator::check_device_memory(memory, bytes);
  if (status == cudaSuccess) std::memset(memory, byte, bytes);
  return status;
}
cudaError_t cudaMemsetAsync(void* memory, int byte, size_t bytes, cudaStream_t) {
  return cudaMemset(memory, byte, bytes);
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return cudaSuccess;
  cudaError_t status = cudaSuccess;
  if (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice)
    status = cuda_emulator::check_device_memory(to, bytes);
  if (status == cudaSuccess && (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice))
    status = cuda_emulator::check_device_memory(from, bytes);
  if (status == cudaSuccess) std::memcpy(to, from, bytes);
  return status;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return *stream = new CUstream_st, cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return delete stream, cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return cudaSuccess;
}
