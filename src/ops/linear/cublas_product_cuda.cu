// Products by cuBLASLt. It knows column-major matrices only: a row-major [M,N] is a column-major [N,M], so it is asked
// for dᵀ = bᵀ aᵀ, and a bias along N becomes its bias per row. Asking which algorithm suits takes longer (some 50 µs)
// than many a product; the answer is kept per shape, strides, types and alignment.
//
// Supported by cuBLASLt with float32 sums (CUBLAS_COMPUTE_32F) and bias: bfloat16 inputs with bfloat16 or float32
// output, float32 inputs and output; the bias has the output's type. Plain float32: TF32 has a compute type of its own.
// Sums split along K are added in float32 too, in a fixed order: two runs give the same bits.
//
// Where cuBLASLt has nothing (rows at odd addresses, K = 0) a plain kernel of ours does it, 16 x 16 outputs per block,
// slow but right.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>

#include "ops/cuda_kernel.cuh"
#include "ops/linear/cublas_product.h"

namespace megalodon::ops {
namespace {

using namespace cuda;

constexpr int kSide = 16;

struct Element {
  int64_t row, column;  // strides
};

Element element_strides(const CudaMatrix& m) { return m.transposed ? Element{1, m.stride} : Element{m.stride, 1}; }

/// One thread per element of d, tiles of a and b in shared memory. blockIdx.x goes along M, y along N, z over the batch.
template <class In, class Out>
__global__ void __launch_bounds__(kSide* kSide) plain_product(CudaProduct p, Element a_strides, Element b_strides) {
  __shared__ float a_tile[kSide][kSide + 1], b_tile[kSide][kSide + 1];
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int64_t row = int64_t{blockIdx.x} * kSide + y, column = int64_t{blockIdx.y} * kSide + x;
  for (int64_t n = blockIdx.z; n < p.batch; n += gridDim.z) {
    const In* a = static_cast<const In*>(p.a.data) + n * p.a.batch_stride;
    const In* b = static_cast<const In*>(p.b.data) + n * p.b.batch_stride;
    float sum = 0;
    for (int64_t k = 0; k < p.K; k += kSide) {
      const bool in_a = row < p.M && k + x < p.K, in_b = k + y < p.K && column < p.N;
      a_tile[y][x] = in_a ? to_float(a[row * a_strides.row + (k + x) * a_strides.column]) : 0.0f;
      b_tile[y][x] = in_b ? to_float(b[(k + y) * b_strides.row + column * b_strides.column]) : 0.0f;
      __syncthreads();
      for (int i = 0; i < kSide; ++i) sum += a_tile[y][i] * b_tile[i][x];
      __syncthreads();
    }
    if (row >= p.M || column >= p.N) continue;
    float result = p.alpha * sum;
    if (p.c != nullptr)
      result += p.beta * to_float(static_cast<const Out*>(p.c)[n * p.c_batch_stride + row * p.c_stride + column]);
    if (p.bias != nullptr) result += to_float(static_cast<const Out*>(p.bias)[column]);
    static_cast<Out*>(p.d)[n * p.d_batch_stride + row * p.d_stride + column] = from_float<Out>(result);
  }
}

/// d += bias, of float32. One thread per element.
__global__ void add_bias(CudaProduct p) {
  const int64_t column = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (column >= p.N) return;
  const float bias = static_cast<const float*>(p.bias)[column];
  for (int64_t n = blockIdx.z; n < p.batch; n += gridDim.z) {
    static_cast<float*>(p.d)[n * p.d_batch_stride + int64_t{blockIdx.x} * p.d_stride + column] += bias;
  }
}

// ---- host -----------------------------------------------------------------------------------------------------------

std::string describe(const CudaProduct& p) {
  const auto matrix = [](const CudaMatrix& m) {
    std::ostringstream text;
    text << (m.type == NumberType::kBfloat16 ? "bfloat16" : "float32") << (m.transposed ? " transposed" : "")
         << " stride " << m.stride << " batch stride " << m.batch_stride;
    return text.str();
  };
  std::ostringstream text;
  text << p.batch << " x [" << p.M << "," << p.K << "] [" << p.K << "," << p.N << "], a " << matrix(p.a) << ", b "
       << matrix(p.b) << ", d " << matrix({p.d, p.d_type, p.d_stride, false, p.d_batch_stride})
       << (p.c != nullptr ? ", with addend" : "") << (p.bias != nullptr ? ", with bias" : "");
  return text.str();
}

void check_product(cublasStatus_t status, const char* call, const CudaProduct& p) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error("[cuda_product] " + std::string(call) + " failed: " + cublasLtGetStatusName(status) +
                             " for " + describe(p));
}

struct Deleter {
  void operator()(cublasLtMatmulDesc_t it) const { cublasLtMatmulDescDestroy(it); }
  void operator()(cublasLtMatrixLayout_t it) const { cublasLtMatrixLayoutDestroy(it); }
  void operator()(cublasLtMatmulPreference_t it) const { cublasLtMatmulPreferenceDestroy(it); }
};
template <class Handle>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Deleter>;

/// Of the current device. Never destroyed: at exit the driver may be gone before us.
cublasLtHandle_t library(int device, const CudaProduct& p) {
  static std::mutex mutex;
  static std::map<int, cublasLtHandle_t> handles;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = handles.find(device);
  if (found != handles.end()) return found->second;
  cublasLtHandle_t handle = nullptr;
  check_product(cublasLtCreate(&handle), "cublasLtCreate", p);
  return handles[device] = handle;
}

cudaDataType_t data_type(NumberType type) { return type == NumberType::kBfloat16 ? CUDA_R_16BF : CUDA_R_32F; }

/// The largest power of 2 that divides the address, up to 256.
uint32_t alignment(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data) | 256;
  return static_cast<uint32_t>(address & (~address + 1));
}

Owned<cublasLtMatrixLayout_t> layout(NumberType type, int64_t columns, int64_t rows, int64_t stride,
                                     int64_t batch_stride, const CudaProduct& p) {
  cublasLtMatrixLayout_t made = nullptr;
  // Of one row nobody looks at the stride, but cuBLASLt.
  check_product(cublasLtMatrixLayoutCreate(&made, data_type(type), static_cast<uint64_t>(columns),
                                           static_cast<uint64_t>(rows), rows == 1 ? std::max(stride, columns) : stride),
                "cublasLtMatrixLayoutCreate", p);
  Owned<cublasLtMatrixLayout_t> owned(made);
  const auto batch = static_cast<int32_t>(p.batch);
  check_product(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch),
                "batch count", p);
  check_product(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &batch_stride,
                                                 sizeof batch_stride),
                "batch stride", p);
  return owned;
}

Owned<cublasLtMatrixLayout_t> layout(const CudaMatrix& m, int64_t rows, int64_t columns, const CudaProduct& p) {
  return m.transposed ? layout(m.type, rows, columns, m.stride, m.batch_stride, p)
                      : layout(m.type, columns, rows, m.stride, m.batch_stride, p);
}

/// What cuBLASLt wants to know of a product, in its own terms: its A is our b.
struct Description {
  Owned<cublasLtMatmulDesc_t> operation;
  Owned<cublasLtMatrixLayout_t> a, b, c, d;
};

template <class Value>
void set(const Description& description, cublasLtMatmulDescAttributes_t attribute, const Value& value,
         const CudaProduct& p) {
  check_product(cublasLtMatmulDescSetAttribute(description.operation.get(), attribute, &value, sizeof value),
                "cublasLtMatmulDescSetAttribute", p);
}

Description describe_to_library(const CudaProduct& p, bool with_bias) {
  cublasLtMatmulDesc_t operation = nullptr;
  check_product(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate", p);
  Description made;
  made.operation.reset(operation);
  set(made, CUBLASLT_MATMUL_DESC_TRANSA, p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N, p);
  set(made, CUBLASLT_MATMUL_DESC_TRANSB, p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N, p);
  if (with_bias) {
    set(made, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS, p);
    set(made, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(data_type(p.d_type)), p);
    set(made, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias, p);
  }
  made.a = layout(p.b, p.K, p.N, p);
  made.b = layout(p.a, p.M, p.K, p);
  made.d = layout(p.d_type, p.N, p.M, p.d_stride, p.d_batch_stride, p);
  made.c = p.c == nullptr ? layout(p.d_type, p.N, p.M, p.d_stride, p.d_batch_stride, p)
                          : layout(p.d_type, p.N, p.M, p.c_stride, p.c_batch_stride, p);
  return made;
}

/// How a product is done.
struct Plan {
  enum Kind { kLibrary, kLibraryWithoutBias, kPlain } kind = kPlain;
  cublasLtMatmulAlgo_t algorithm{};
  size_t workspace = 0;
};

Owned<cublasLtMatmulPreference_t> preference(const CudaProduct& p) {
  cublasLtMatmulPreference_t made = nullptr;
  check_product(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate", p);
  Owned<cublasLtMatmulPreference_t> owned(made);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check_product(cublasLtMatmulPreferenceSetAttribute(made, attribute, &value, sizeof value),
                  "cublasLtMatmulPreferenceSetAttribute", p);
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kCudaProductWorkspace});
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(p.b.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(p.a.data));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(p.c == nullptr ? p.d : p.c));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(p.d));
  return owned;
}

/// Whether cuBLASLt has an algorithm, which goes into `plan`.
bool find_algorithm(cublasLtHandle_t handle, const CudaProduct& p, const Description& description, Plan& plan) {
  cublasLtMatmulHeuristicResult_t result{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle, description.operation.get(), description.a.get(), description.b.get(), description.c.get(),
      description.d.get(), preference(p).get(), 1, &result, &count);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return false;
  check_product(status, "cublasLtMatmulAlgoGetHeuristic", p);
  if (count == 0 || result.state != CUBLAS_STATUS_SUCCESS) return false;
  plan.algorithm = result.algo;
  plan.workspace = result.workspaceSize;
  return true;
}

Plan make_plan(cublasLtHandle_t handle, const CudaProduct& p) {
  Plan plan;
  // The preference has no word for the bias' alignment; algorithms take 16 bytes for granted. And where rows are not
  // aligned the library rounds to bfloat16 before it adds the bias, and again after.
  const bool rounds_twice = p.d_type == NumberType::kBfloat16 && (p.d_stride % 8 != 0 || alignment(p.d) < 16);
  const bool fused_bias = p.bias == nullptr || (alignment(p.bias) >= 16 && !rounds_twice);
  if (fused_bias && find_algorithm(handle, p, describe_to_library(p, p.bias != nullptr), plan))
    plan.kind = Plan::kLibrary;
  else if (p.bias != nullptr && p.d_type == NumberType::kFloat32 &&  // bfloat16 would be rounded twice
   find_algorithm(handle, p, describe_to_library(p, false), plan))
    plan.kind = Plan::kLibraryWithoutBias;
  return plan;
}

/// Everything that the choice of an algorithm depends on.
using Key = std::array<int64_t, 26>;
Key key_of(int device, const CudaProduct& p) {
  const auto number = [](auto value) { return static_cast<int64_t>(value); };
  return {device,
          p.batch,
          p.M,
          p.N,
          p.K,
          number(p.a.type),
          p.a.stride,
          p.a.transposed,
          p.a.batch_stride,
          number(p.b.type),
          p.b.stride,
          p.b.transposed,
          p.b.batch_stride,
          number(p.d_type),
          p.d_stride,
          p.d_batch_stride,
          p.c != nullptr,
          p.c == nullptr ? 0 : p.c_stride,
          p.c == nullptr ? 0 : p.c_batch_stride,
          p.c == p.d,
          p.bias != nullptr,
          alignment(p.a.data),
          alignment(p.b.data),
          alignment(p.d),
          alignment(p.c == nullptr ? p.d : p.c),
          p.bias == nullptr ? 0 : alignment(p.bias)};
}

Plan plan_of(int device, cublasLtHandle_t handle, const CudaProduct& p) {
  static std::mutex mutex;
  static std::map<Key, Plan> plans;
  const Key key = key_of(device, p);
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = plans.find(key);
  if (found != plans.end()) return found->second;
  return plans[key] = make_plan(handle, p);
}

void run_plain(const CudaProduct& p, CudaQueue& queue) {
  const dim3 grid(static_cast<unsigned>(divide_up(p.M, kSide)), static_cast<unsigned>(divide_up(p.N, kSide)),
                  static_cast<unsigned>(std::min<int64_t>(p.batch, 65535)));
  with_type(p.a.type, [&](auto in) {
    with_type(p.d_type, [&](auto out) {
      launch("cuda_product", queue, {grid, dim3(kSide, kSide)}, plain_product<decltype(in), decltype(out)>, p,
             element_strides(p.a), element_strides(p.b));
    });
  });
}

void run_add_bias(const CudaProduct& p, CudaQueue& queue) {
  constexpr int kThreads = 256;
  const dim3 grid(static_cast<unsigned>(p.M), static_cast<unsigned>(divide_up(p.N, kThreads)),
                  static_cast<unsigned>(std::min<int64_t>(p.batch, 65535)));
  launch("cuda_product", queue, {grid, kThreads}, add_bias, p);
}

void run_library(cublasLtHandle_t handle, const Plan& plan, const CudaProduct& p, CudaQueue& queue, void* workspace) {
  const Description description = describe_to_library(p, plan.kind == Plan::kLibrary && p.bias != nullptr);
  if (workspace == nullptr && plan.workspace > 0) workspace = queue.scratch(plan.workspace);
  const float beta = p.c == nullptr ? 0.0f : p.beta;
  check_product(cublasLtMatmul(handle, description.operation.get(), &p.alpha, p.b.data, description.a.get(), p.a.data,
                               description.b.get(), &beta, p.c == nullptr ? p.d : p.c, description.c.get(), p.d,
                               description.d.get(), &plan.algorithm, workspace, plan.workspace, queue.stream()),
                "cublasLtMatmul", p);
}

/// Checked, with what does not matter set to nothing.
CudaProduct checked(CudaProduct p) {
  if (p.a.type != p.b.type || (p.a.type == NumberType::kFloat32 && p.d_type != NumberType::kFloat32))
    throw std::runtime_error("[cuda_product] no product of these types: " + describe(p));
  if (p.beta == 0) p.c = nullptr;
  return p;
}

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "cuda_product");
  return device;
}

}  // namespace

void cuda_product(const CudaProduct& product, CudaQueue& queue, void* workspace) {
  const CudaProduct p = checked(product);
  if (p.batch <= 0 || p.M <= 0 || p.N <= 0) return;
  if (p.K == 0) return run_plain(p, queue);
  const int device = current_device();
  const cublasLtHandle_t handle = library(device, p);
  const Plan plan = plan_of(device, handle, p);
  if (plan.kind == Plan::kPlain) return run_plain(p, queue);
  run_library(handle, plan, p, queue, workspace);
  if (plan.kind == Plan::kLibraryWithoutBias) run_add_bias(p, queue);
}

bool cuda_product_is_fast(const CudaProduct& product) {
  const CudaProduct p = checked(product);
  if (p.batch <= 0 || p.M <= 0 || p.N <= 0 || p.K <= 0) return false;
  const int device = current_device();
  return plan_of(device, library(device, p), p).kind == Plan::kLibrary;
}

}  // namespace megalodon::ops
