// Products by the rules of cuBLASLt: column-major matrices, d = alpha · op(a) op(b) + beta · c + bias, of a batch.
#include <algorithm>
#include <vector>

#include "cublasLt.h"
#include "cuda_bf16.h"

struct cublasLtContext {};

struct cublasLtMatmulDescOpaque_t {
  int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  int32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  int32_t bias_type = -1;  // d's
  const void* bias = nullptr;
};

struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type;
  uint64_t rows, columns;
  int64_t stride;  // from column to column
  int32_t batch = 1;
  int64_t batch_stride = 0;

  int64_t element_bytes() const { return type == CUDA_R_16BF ? 2 : 4; }
};

struct cublasLtMatmulPreferenceOpaque_t {
  uint64_t workspace = 0;
  uint32_t reductions = ~0u;
  uint32_t alignment_a = 256, alignment_b = 256, alignment_c = 256, alignment_d = 256;
};

namespace {

using Layout = cublasLtMatrixLayoutOpaque_t;

/// As in the library, the size has to be that of the attribute's type.
template <class T>
cublasStatus_t set(T& field, const void* value, size_t bytes) {
  if (value == nullptr || bytes != sizeof field) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t destroy(T* it) {
  delete it;
  return CUBLAS_STATUS_SUCCESS;
}

float number_at(const void* data, int32_t type, int64_t i) {
  return type == CUDA_R_16BF ? __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i])
                             : static_cast<const float*>(data)[i];
}

bool is_well_formed(const Layout& m) {
  return m.rows > 0 && m.columns > 0 && m.stride >= static_cast<int64_t>(m.rows) && m.batch > 0;
}

/// Whether the matrices fit together and their types do.
bool fits(const cublasLtMatmulDescOpaque_t& operation, const Layout& a, const Layout& b, const Layout& c,
          const Layout& d) {
  const bool t_a = operation.transpose_a == CUBLAS_OP_T, t_b = operation.transpose_b == CUBLAS_OP_T;
  if (!is_well_formed(a) || !is_well_formed(b) || !is_well_formed(c) || !is_well_formed(d)) return false;
  if (a.batch != d.batch || b.batch != d.batch || c.batch != d.batch) return false;
  if ((t_a ? a.columns : a.rows) != d.rows || (t_b ? b.rows : b.columns) != d.columns) return false;
  if ((t_a ? a.rows : a.columns) != (t_b ? b.columns : b.rows)) return false;
  if (c.rows != d.rows || c.columns != d.columns || c.type != d.type) return false;
  if (operation.epilogue == CUBLASLT_EPILOGUE_BIAS && operation.bias_type != -1 && operation.bias_type != d.type)
    return false;
  return a.type == b.type && (d.type == CUDA_R_32F || a.type == CUDA_R_16BF);
}

bool begins_fours(const Layout& m, uint32_t alignment) {
  return alignment % 4 == 0 && m.stride * m.element_bytes() % 4 == 0 &&
         (m.batch == 1 || m.batch_stride * m.element_bytes() % 4 == 0);
}

/// Matrix `n` of the batch as float32, [columns][rows] of its transpose where `transposed`.
void copy_matrix(const void* data, const Layout& m, int64_t n, bool transposed, std::vector<float>& to) {
  const auto rows = static_cast<int64_t>(m.rows), columns = static_cast<int64_t>(m.columns);
  to.resize(static_cast<size_t>(rows * columns));
  for (int64_t j = 0; j < columns; ++j)
    for (int64_t i = 0; i < rows; ++i)
      to[static_cast<size_t>(transposed ? i * columns + j : j * rows + i)] =
          number_at(data, m.type, n * m.batch_stride + j * m.stride + i);
}

}  // namespace

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  static cublasLtContext context;
  *handle = &context;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* made, cublasComputeType_t compute, cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *made = new cublasLtMatmulDescOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t it) {
  return destroy(it);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t it, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return set(it->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return set(it->transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return set(it->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return set(it->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return set(it->bias_type, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* made, cudaDataType_t type, uint64_t rows,
                                          uint64_t columns, int64_t stride) {
  *made = new cublasLtMatrixLayoutOpaque_t{type, rows, columns, stride};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t it) {
  return destroy(it);
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t it, cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return set(it->batch, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return set(it->batch_stride, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* made) {
  *made = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t it) {
  return destroy(it);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t it,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return set(it->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return set(it->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return set(it->alignment_a, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return set(it->alignment_b, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return set(it->alignment_c, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return set(it->alignment_d, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  *found = 0;
  if (wanted < 1 || !fits(*operation, *a, *b, *c, *d)) return CUBLAS_STATUS_INVALID_VALUE;
  if (!begins_fours(*a, preference->alignment_a) || !begins_fours(*b, preference->alignment_b) ||
      !begins_fours(*c, preference->alignment_c) || !begins_fours(*d, preference->alignment_d))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  // Long sums want some, so that callers' workspaces are seen to be there and to be nobody else's.
  const uint64_t length = operation->transpose_a == CUBLAS_OP_T ? a->rows : a->columns;
  const uint64_t workspace = length >= 256 ? std::min(preference->workspace, d->rows * d->columns * sizeof(float)) : 0;
  results[0] = {{workspace}, workspace, CUBLAS_STATUS_SUCCESS};
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t) {
  const Layout& of_d = *d_layout;
  if (!fits(*operation, *a_layout, *b_layout, *c_layout, of_d)) return CUBLAS_STATUS_INVALID_VALUE;
  if (c == d && (c_layout->stride != of_d.stride || c_layout->batch_stride != of_d.batch_stride))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (algorithm->workspace > workspace_bytes || (algorithm->workspace > 0 && workspace == nullptr))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (algorithm->workspace > 0) std::memset(workspace, 0xff, algorithm->workspace);

  const auto M = static_cast<int64_t>(of_d.rows), N = static_cast<int64_t>(of_d.columns);
  const bool transpose_a = operation->transpose_a == CUBLAS_OP_T, transpose_b = operation->transpose_b == CUBLAS_OP_T;
  const auto K = static_cast<int64_t>(transpose_a ? a_layout->rows : a_layout->columns);
  const float by = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  const bool has_bias = operation->epilogue == CUBLASLT_EPILOGUE_BIAS;
  std::vector<float> a_KM, b_NK, sum_M(static_cast<size_t>(M));
  for (int64_t n = 0; n < of_d.batch; ++n) {
    copy_matrix(a, *a_layout, n, transpose_a, a_KM);
    copy_matrix(b, *b_layout, n, transpose_b, b_NK);
    for (int64_t j = 0; j < N; ++j) {
      std::fill(sum_M.begin(), sum_M.end(), 0.0f);
      for (int64_t k = 0; k < K; ++k) {
        const float factor = b_NK[static_cast<size_t>(j * K + k)];
        const float* column = a_KM.data() + k * M;
        for (int64_t i = 0; i < M; ++i) sum_M[static_cast<size_t>(i)] += column[i] * factor;
      }
      for (int64_t i = 0; i < M; ++i) {
        float result = by * sum_M[static_cast<size_t>(i)];
        if (keep != 0) result += keep * number_at(c, of_d.type, n * c_layout->batch_stride + j * c_layout->stride + i);
        if (has_bias) result += number_at(operation->bias, of_d.type, i);
        const int64_t at = n * of_d.batch_stride + j * of_d.stride + i;
        if (of_d.type == CUDA_R_16BF)
          static_cast<__nv_bfloat16*>(d)[at] = __float2bfloat16_rn(result);
        else
          static_cast<float*>(d)[at] = result;
      }
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}
