// What crosses between numpy and ExecuTorch: dtypes and shapes, the check of inputs, copies of outputs, pixels.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <executorch/runtime/core/exec_aten/exec_aten.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "_runtime_log.h"

namespace edgecl {

using executorch::aten::ScalarType;
using Array = nb::ndarray<nb::ro, nb::device::cpu>;

struct Dtype {
  ScalarType type;
  const char* name;
  nb::dlpack::dtype array;
};
inline const Dtype kDtypes[] = {
    {ScalarType::Float, "float32", nb::dtype<float>()}, {ScalarType::Long, "int64", nb::dtype<int64_t>()},
    {ScalarType::Int, "int32", nb::dtype<int32_t>()},   {ScalarType::Byte, "uint8", nb::dtype<uint8_t>()},
    {ScalarType::Bool, "bool", nb::dtype<bool>()},
};
constexpr const char* kAllDtypes = "float32, int64, int32, uint8 or bool";

// These two give nullptr for a dtype that no program of ours has.
inline const Dtype* find_dtype(ScalarType type) {
  const auto* found = std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](auto& d) { return d.type == type; });
  return found == std::end(kDtypes) ? nullptr : found;
}
inline const Dtype* find_dtype(nb::dlpack::dtype dtype) {
  const auto* found = std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](auto& d) { return d.array == dtype; });
  return found == std::end(kDtypes) ? nullptr : found;
}

struct TensorSpec {
  std::string dtype;
  std::vector<int64_t> shape;

  bool operator==(const TensorSpec& other) const { return dtype == other.dtype && shape == other.shape; }
  std::string shown() const {
    std::string text = dtype + "[";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
  }
};

inline std::vector<Array> arrays(const std::string& method, const nb::sequence& inputs) {
  std::vector<Array> converted;
  for (nb::handle input : inputs) {
    Array array;
    if (!nb::try_cast(input, array) || find_dtype(array.dtype()) == nullptr) {
      const nb::object what = nb::getattr(input, "dtype", input.type());
      throw ProgramError(method + ": input " + std::to_string(converted.size()) + " is of " + nb::str(what).c_str() +
                         ", which no program takes; pass a numpy array of " + kAllDtypes);
    }
    converted.push_back(std::move(array));
  }
  return converted;
}

inline bool contiguous(const Array& array) {
  int64_t step = 1;
  for (size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != step) return false;
    step *= static_cast<int64_t>(array.shape(i));
  }
  return true;
}

// Raises ProgramError unless these arrays are what the method takes.
inline void check(const std::string& method, const std::vector<TensorSpec>& wanted, const std::vector<Array>& given) {
  if (given.size() != wanted.size()) {
    std::string list;
    for (const TensorSpec& spec : wanted) list += (list.empty() ? "" : ", ") + spec.shown();
    throw ProgramError(method + ": " + std::to_string(given.size()) + " inputs given, it takes " +
                       std::to_string(wanted.size()) + ": " + list);
  }
  for (size_t i = 0; i < given.size(); ++i) {
    const Array& array = given[i];
    const std::string where = method + ": input " + std::to_string(i);
    const TensorSpec spec{find_dtype(array.dtype())->name, {array.shape_ptr(), array.shape_ptr() + array.ndim()}};
    if (!(spec == wanted[i])) throw ProgramError(where + " is " + spec.shown() + ", it takes " + wanted[i].shown());
    if (!contiguous(array)) throw ProgramError(where + " is not C-contiguous; pass numpy.ascontiguousarray() of it");
  }
}

// The bytes of a tensor, taken without the GIL and made an array with it.
struct Copy {
  explicit Copy(const executorch::aten::Tensor& tensor)
      : dtype(find_dtype(tensor.scalar_type())->array),
        shape(tensor.sizes().begin(), tensor.sizes().end()),
        bytes(new std::byte[std::max<size_t>(tensor.nbytes(), 1)]) {
    std::memcpy(bytes.get(), tensor.const_data_ptr(), tensor.nbytes());
  }
  nb::object array() {
    std::byte* data = bytes.release();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<std::byte*>(p); });
    return nb::cast(nb::ndarray<nb::numpy>(data, shape.size(), shape.data(), owner, nullptr, dtype));
  }

  nb::dlpack::dtype dtype;
  std::vector<size_t> shape;
  std::unique_ptr<std::byte[]> bytes;
};

// ---- Pixels --------------------------------------------------------------------------------------------------------

template <size_t kChannels>  // 0: known only when it runs
void planar(const uint8_t* __restrict from, float* __restrict to, size_t pixels, size_t channels, const float* scale,
            const float* shift) {
  const size_t step = kChannels ? kChannels : channels;
  for (size_t c = 0; c < step; ++c) {
    const float a = scale[c], b = shift[c];
    for (size_t i = 0; i < pixels; ++i) to[c * pixels + i] = static_cast<float>(from[i * step + c]) * a + b;
  }
}

using Pixels = nb::ndarray<const uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using PerChannel = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// [batch, height, width, channel] bytes to [batch, channel, height, width] floats, each pixel * scale + shift.
inline nb::ndarray<nb::numpy, float> to_planar(const Pixels& pixels, const PerChannel& scale, const PerChannel& shift) {
  const size_t batch = pixels.shape(0), height = pixels.shape(1), width = pixels.shape(2), channels = pixels.shape(3);
  if (scale.shape(0) != channels || shift.shape(0) != channels) {
    throw std::invalid_argument("to_planar: scale and shift need one number for each channel of the pixels");
  }
  const size_t area = height * width, image = area * channels;
  std::unique_ptr<float[]> planes(new float[std::max<size_t>(batch * image, 1)]);
  const auto convert = channels == 1 ? planar<1> : channels == 3 ? planar<3> : planar<0>;
  {
    WithoutGil no_gil;
    for (size_t i = 0; i < batch; ++i) {
      convert(pixels.data() + i * image, planes.get() + i * image, area, channels, scale.data(), shift.data());
    }
  }
  float* data = planes.release();
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return {data, {batch, channels, height, width}, owner};
}

}  // namespace edgecl
