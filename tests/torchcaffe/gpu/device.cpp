// A device whose memory is the host's, as PyTorch's backend "PrivateUse1", to see what the engine asks of a GPU.
//
// Each operator runs as the CPU's, on the device's own memory. What a GPU makes slow, or refuses, is counted or refused
// here: copies from and to the host, looks of the host at a value, allocations, and operators that mix tensors of host
// and device. Built by device.py, which reads and sets the counts below.
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

struct Counts {
  int64_t to_device, to_host;  // copies and looks
  int64_t allocations, bytes, peak;
  int64_t limit;      // of bytes; 0: none
  int64_t recording;  // not 0: as while a stream of a GPU records, nothing on it may go from or to the host
};

static Counts counts;
static std::mutex counting;  // data layers copy in threads of their own
static thread_local bool beside = false;

extern "C" Counts* device_counts() { return &counts; }
extern "C" void device_beside(bool other) { beside = other; }  // whether this thread's work is on another stream

namespace {

using torch::jit::Stack;
constexpr auto DEVICE = c10::DeviceType::PrivateUse1;
constexpr size_t HEADER = 64;  // before each block: its size

void count(int64_t& copies, const char* what) {
  std::lock_guard<std::mutex> lock(counting);
  TORCH_CHECK(!counts.recording || beside, what, ": operation not permitted when stream is capturing");
  ++copies;
}

void release(void* block) {
  if (block == nullptr) return;
  std::lock_guard<std::mutex> lock(counting);
  counts.bytes -= *static_cast<int64_t*>(block);
  std::free(block);
}

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    const c10::Device device(DEVICE, 0);
    if (size == 0) return {nullptr, nullptr, &release, device};
    std::lock_guard<std::mutex> lock(counting);
    const auto bytes = static_cast<int64_t>(size);
    if (counts.limit && counts.bytes + bytes > counts.limit)
      TORCH_CHECK_WITH(OutOfMemoryError, false, "device out of memory. Tried to allocate ", bytes, " bytes");
    void* block = std::aligned_alloc(HEADER, (size + 2 * HEADER - 1) / HEADER * HEADER);
    *static_cast<int64_t*>(block) = bytes;
    std::memset(static_cast<char*>(block) + HEADER, 0xFF, size);  // NaN, as nobody may rely on zeros
    ++counts.allocations;
    counts.bytes += bytes;
    counts.peak = std::max(counts.peak, counts.bytes);
    return {static_cast<char*>(block) + HEADER, block, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t size) const override { std::memcpy(to, from, size); }
};

Memory memory;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return DEVICE; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Device getDevice() const override { return {DEVICE, 0}; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};

Hooks hooks;

at::Tensor tensor_on(c10::Storage storage, c10::DispatchKey key, const at::Tensor& like) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  tensor.unsafeGetTensorImpl()->set_storage_offset(like.storage_offset());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides());
  return tensor;
}

// The same memory as a tensor of the CPU.
at::Tensor on_host(const at::Tensor& tensor) {
  const auto& storage = tensor.storage();
  c10::DataPtr data(const_cast<void*>(storage.data()), c10::DeviceType::CPU);
  c10::Storage same(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(data), c10::GetAllocator(c10::DeviceType::CPU), true);
  return tensor_on(std::move(same), c10::DispatchKey::CPU, tensor);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> type,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory, keys,
                                           type.value_or(at::kFloat));
}

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory, keys, type.value_or(at::kFloat), format);
}

bool there(const at::Tensor& tensor) { return tensor.defined() && tensor.device().type() == DEVICE; }

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  if (!there(from)) count(counts.to_device, "copy to the device");
  if (!there(to)) count(counts.to_host, "copy to the host");
  (there(to) ? on_host(to) : to).copy_(there(from) ? on_host(from) : from);
  return to;
}

at::Scalar look(const at::Tensor& tensor) {
  count(counts.to_host, "look at a value");
  return on_host(tensor).item();
}

at::Tensor copied(const at::Tensor& host) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  auto tensor = at::detail::empty_strided_generic(host.sizes(), host.strides(), &memory, keys, host.scalar_type());
  const auto& storage = tensor.storage();
  if (tensor.numel()) std::memcpy(const_cast<void*>(storage.data()), host.const_data_ptr(), storage.nbytes());
  return tensor;
}

// What an operator of the CPU has made is a view of a tensor that it was given, or comes into memory of the device.
at::Tensor on_device(const at::Tensor& made, const std::vector<std::pair<at::Tensor, at::Tensor>>& given) {
  if (!made.defined()) return made;
  for (const auto& [tensor, host] : given)
    if (made.numel() && made.storage().data() == tensor.storage().data())
      return tensor_on(tensor.storage(), c10::DispatchKey::PrivateUse1, made);
  return copied(made);
}

void run(const c10::OperatorHandle& op, Stack* stack) {
  const auto& schema = op.schema();
  const auto& name = schema.name();
  std::vector<std::pair<at::Tensor, at::Tensor>> given;  // each: the device's, the same for the CPU
  bool values_of_host = false, mask = false;
  const auto host = [&](const at::Tensor& tensor) {
    if (!there(tensor)) {
      values_of_host |= tensor.defined() && tensor.dim() > 0;
      return tensor;
    }
    mask |= tensor.scalar_type() == at::kBool;
    given.emplace_back(tensor, on_host(tensor));
    return given.back().second;
  };
  const auto first = stack->size() - schema.arguments().size();
  const std::vector<c10::IValue> arguments(stack->begin() + static_cast<int64_t>(first), stack->end());
  for (auto i = first; i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = host(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorList()) list.push_back(host(tensor));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList())
        list.push_back(tensor ? std::optional<at::Tensor>(host(*tensor)) : std::nullopt);
      value = list;
    } else if (value.isDevice()) {
      value = c10::Device(c10::DeviceType::CPU);
    }
  }
  const bool indexing = name.find("index") != std::string::npos;
  TORCH_CHECK(!values_of_host, name, ": expected all tensors to be on the same device");
  if (name == "aten::equal" || name == "aten::nonzero" || name == "aten::masked_select" || name == "aten::_unique2" ||
      (indexing && mask))
    count(counts.to_host, name.c_str());  // how large the result is, or what it is, the host must know
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (const auto& [tensor, host] : given) {
    auto* impl = tensor.unsafeGetTensorImpl();
    if (host.storage().data() != tensor.storage().data()) impl->set_storage_keep_dtype(copied(host).storage());
    if (host.sizes() != tensor.sizes()) impl->set_sizes_and_strides(host.sizes(), host.strides());
  }
  const auto results = stack->size() - schema.returns().size();
  for (size_t i = 0; i < schema.returns().size(); ++i) {
    auto& value = (*stack)[results + i];
    const auto* alias = schema.returns()[i].alias_info();
    if (value.isTensor() && alias && alias->isWrite()) {
      for (size_t j = 0; j < arguments.size(); ++j) {
        const auto* of = schema.arguments()[j].alias_info();
        if (of && of->isWrite() && of->beforeSets() == alias->beforeSets()) value = arguments[j];
      }
    } else if (value.isTensor()) {
      value = on_device(value.toTensor(), given);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorList()) list.push_back(on_device(tensor, given));
      value = list;
    }
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&run>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  c10::SetAllocator(DEVICE, &memory);
  at::RegisterPrivateUse1HooksInterface(&hooks);
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("_copy_from", copy_from);
  library.impl("_local_scalar_dense", look);
  // What would choose a kernel by the device's type before it comes to the fallback.
  for (const char* name : {"convolution", "convolution_backward"})
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&run>());
}
